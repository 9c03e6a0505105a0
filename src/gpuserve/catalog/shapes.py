"""Look-ups by GPU and by model: what a GPU holds, what a model needs, which family it is of."""

from __future__ import annotations

from gpuserve.catalog import book
from gpuserve.catalog.facts import GIB, FamilyFacts, GpuSpec, ModelShape

__all__ = [
    "GIB",
    "FamilyFacts",
    "GpuSpec",
    "ModelShape",
    "family_of",
    "gpu",
    "gpus",
    "near",
    "shape_of",
    "shapes",
]


def gpu(name: str) -> GpuSpec:
    """The GPU type called ``name``, as in ``gpuserve.records.GPU_TYPES``.

    Raises:
        KeyError: no such type.
        ConfigError: the user's own catalogue can't be read.
    """
    for spec in gpus():
        if spec.name == name:
            return spec
    raise KeyError(name)


def gpus() -> tuple[GpuSpec, ...]:
    """All GPU types, by growing memory."""
    return tuple(sorted(book.book().gpus, key=lambda spec: spec.memory_mib))


def family_of(model_id: str) -> FamilyFacts | None:
    """The first row whose pattern is found in ``model_id``; None for a model of no known family."""
    for family in book.book().families:
        if family.match.search(model_id):
            return family
    return None


def shape_of(model_id: str) -> ModelShape | None:
    """The size of exactly this model, in any case of letters; None if the catalogue has no figures for it."""
    wanted = model_id.lower()
    return next((shape for shape in shapes() if shape.hf.lower() == wanted), None)


def shapes() -> tuple[ModelShape, ...]:
    """All models whose sizes are known, the user's own first."""
    return book.book().models


def near(model_id: str, n: int = 3) -> list[str]:
    """Up to ``n`` known IDs whose names are close to ``model_id``, the closest first; for "did you mean"."""
    from difflib import get_close_matches

    known = {shape.hf.lower(): shape.hf for shape in shapes()}
    by_name = {hf.rpartition("/")[2]: hf for hf in known}
    wanted = model_id.lower()
    found = get_close_matches(wanted, known, n=n, cutoff=0.75)
    found += [by_name[name] for name in get_close_matches(wanted.rpartition("/")[2], by_name, n=n, cutoff=0.75)]
    return [known[hf] for hf in dict.fromkeys(found)][:n]
