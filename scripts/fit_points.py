"""Reads the published figures that the memory estimate is held against; for fit_table.py and the tests."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuserve.catalog import fit_llamacpp, fit_sglang, fit_vllm, shapes
from gpuserve.catalog.facts import GpuSpec, ModelShape
from gpuserve.catalog.fit import Fit, estimate
from gpuserve.catalog.fit_memory import Need

_MEMORY = {"vllm": fit_vllm.memory, "sglang": fit_sglang.memory, "llamacpp": fit_llamacpp.memory}
POINTS = Path(__file__).parent.parent / "tests" / "data" / "fit_points.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published figure beside the estimate: ``kv_gib`` on each GPU, or ``kv_tokens``."""

    id: str
    engine: str
    version: str
    model: str
    gpu: str
    what: str
    measured: float
    estimated: float
    percent: float
    gib: float
    why: str
    source: str
    used: bool

    @property
    def error(self) -> float:
        """The estimate's error, of the figure's size."""
        return (self.estimated - self.measured) / abs(self.measured) if self.measured else 0.0

    @property
    def meaningful(self) -> bool:
        """Whether the error can be said in percent: not where next to nothing is left."""
        return self.percent > 0

    @property
    def allowed(self) -> bool:
        """Whether the error is within what the point allows."""
        off = abs(self.estimated - self.measured)
        return (self.percent > 0 and abs(self.error) * 100 <= self.percent) or (
            self.what == "GiB" and self.gib > 0 and off <= self.gib
        )


def rows() -> list[Row]:
    """All published figures with their estimates, in the file's order."""
    return [row for point in _document()["point"] for row in _rows(point)]


def verdicts() -> list[dict[str, Any]]:
    """Models that somebody tried on a GPU, and whether they fit."""
    found: list[dict[str, Any]] = _document()["verdict"]
    return found


def verdict_fit(verdict: dict[str, Any]) -> Fit:
    """The estimate for one of ``verdicts()``."""
    return estimate(_shape(verdict), _gpu(verdict), verdict["engine"], mem_fraction=verdict.get("fraction"))


def _document() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(POINTS.read_text(encoding="utf-8"))


def _rows(point: dict[str, Any]) -> list[Row]:
    if point.get("kv_given", False):
        return [_row(point, "tokens", point["kv_tokens"], _held(point))]
    fit, found = _fit(point), []
    if "kv_gib" in point:
        found.append(_row(point, "GiB", point["kv_gib"], fit.kv_room_gib / fit.gpu_count))
    if "kv_tokens" in point and point["percent"] > 0:
        found.append(_row(point, "tokens", point["kv_tokens"], fit.kv_tokens))
    return found


def _held(point: dict[str, Any]) -> float:
    """The tokens that the measured room holds."""
    shape, count = _shape(point), point.get("count", 1)
    need = Need(shape=shape, gpu=_gpu(point), count=count, weight_gib=shape.weight_gib, fraction=0.9)
    memory = replace(_MEMORY[point["engine"]](need), room_gib=point["kv_gib"] * count)
    context = int(point.get("context", shape.max_context))
    return memory.holds(context) * context


def _row(point: dict[str, Any], what: str, measured: float, estimated: float) -> Row:
    count = point.get("count", 1)
    return Row(
        id=point["id"],
        engine=point["engine"],
        version=point["version"],
        model=point["model"],
        gpu=point["gpu"] if count == 1 else f"{count}x {point['gpu']}",
        what=what,
        measured=measured,
        estimated=estimated,
        percent=point["percent"],
        gib=point.get("gib", 0.0),
        why=point["why"],
        source=point["source"],
        used=point.get("used", False),
    )


def _fit(point: dict[str, Any]) -> Fit:
    return estimate(
        _shape(point),
        _gpu(point),
        point["engine"],
        gpu_count=point.get("count", 1),
        context=point.get("context"),
        weight_gib=point.get("weight_gib"),
        mem_fraction=point.get("fraction"),
    )


def _gpu(point: dict[str, Any]) -> GpuSpec:
    if "gpu_mib" in point:
        return GpuSpec(name=point["gpu"], memory_mib=point["gpu_mib"], arch="sm80")
    return shapes.gpu(point["gpu"])


def _shape(point: dict[str, Any]) -> ModelShape:
    own = point.get("shape", {})
    known = shapes.shape_of(point["model"])
    if known is None:
        return ModelShape(hf=point["model"], family="", **own)
    return replace(known, **own)


__all__ = ["POINTS", "Row", "rows", "verdict_fit", "verdicts"]
