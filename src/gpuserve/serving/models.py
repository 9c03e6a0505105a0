"""``models``: what the catalogue knows, and the smallest GPU that each model fits on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuserve import catalog
from gpuserve.catalog.choose import choose
from gpuserve.catalog.facts import FamilyFacts, ModelShape
from gpuserve.catalog.fit import Fit
from gpuserve.catalog.shapes import family_of, gpus, shapes
from gpuserve.errors import NotFound

#: The engines that fits are shown for.
ENGINES = ("vllm", "sglang")


@dataclass(frozen=True, slots=True)
class Known:
    """One model: its figures, its family, and per engine its fit on the smallest GPU type (None: there is none)."""

    shape: ModelShape
    family: FamilyFacts | None
    fits: dict[str, Fit | None]

    def as_dict(self) -> dict[str, object]:
        """As ``models --json`` prints it."""
        shape, family = self.shape, self.family
        parsers = {} if family is None else {name: family.engine(name) for name in ENGINES}
        return {
            "model": shape.hf,
            "family": shape.family,
            "params_b": shape.params_b,
            "active_b": shape.active_b,
            "precision": shape.precision,
            "weight_gib": shape.weight_gib,
            "weight_source": shape.weight_src,
            "max_context": shape.max_context,
            "gated": "unknown" if family is None else family.gated,
            "engines": {
                name: {
                    "gpu": None if fit is None else fit.gpu,
                    "kv_tokens": None if fit is None else fit.kv_tokens,
                    "tool_parser": parsers[name].tool_parser if name in parsers else "",
                    "reasoning_parser": parsers[name].reasoning_parser if name in parsers else "",
                    "support": parsers[name].support if name in parsers else "native",
                }
                for name, fit in self.fits.items()
            },
            "source": "" if family is None else family.source,
        }


def known(query: str) -> list[Known]:
    """The models whose ID or family holds ``query``, in any case of letters; all for "".

    Raises:
        NotFound: none does; near names are suggested.
    """
    wanted = query.lower()
    found = [shape for shape in shapes() if wanted in shape.hf.lower() or wanted in shape.family.lower()]
    if not found:
        near = catalog.shapes.near(query)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "gpuserve models lists all; others are served without a row"
        )
        raise NotFound(f"the catalogue has no model {query!r}", hint=hint)
    smallest_first = [spec.name for spec in gpus() if spec.arch.startswith("sm")]
    return [_known(shape, smallest_first) for shape in found]


def _known(shape: ModelShape, types: Sequence[str]) -> Known:
    fits: dict[str, Fit | None] = {}
    for engine in ENGINES:
        refused = catalog.unsupported(shape.hf, engine) is not None
        fits[engine] = None if refused else choose(shape, engine, types=types).best
    return Known(shape, family_of(shape.hf), fits)
