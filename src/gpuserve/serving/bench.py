"""``bench``: how fast a deployment, or any endpoint, is under load."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from gpuserve.bench.events import Emit
from gpuserve.bench.measure import measure
from gpuserve.bench.wanted import Wanted
from gpuserve.records import Endpoint
from gpuserve.serving.context import Context
from gpuserve.serving.cost import cost_of
from gpuserve.serving.defaults import prices
from gpuserve.serving.reach import reach_fresh


def bench(context: Context, which: str | None, wanted: Wanted, *, emit: Emit) -> dict[str, Any]:
    """Measures the deployment that ``which`` means; its cost is told where its GPU has a price.

    Raises:
        ConfigError: the prices can't be read.
        NotFound, Conflict: no such deployment, or several; and as ``bench.measure.measure``.
    """
    known = prices(context.settings)
    deployment, endpoint = reach_fresh(context, which)
    cost = cost_of(deployment, known)
    hour = None if cost is None else cost.per_hour
    found = measure(endpoint, wanted, price=hour, emit=emit)
    told = {"name": deployment.name, "engine": deployment.engine, "model": deployment.model, "gpu": deployment.gpu}
    return {**told, "cost_per_hour": hour, **_occasion(), **found}


def bench_at(endpoint: Endpoint, wanted: Wanted, *, emit: Emit) -> dict[str, Any]:
    """Measures any endpoint.

    Raises:
        as ``bench.measure.measure``.
    """
    found = measure(endpoint, wanted, emit=emit)
    told = {"name": "", "engine": "", "model": endpoint.served_model, "gpu": ""}
    return {**told, "cost_per_hour": None, **_occasion(), **found}


def _occasion() -> dict[str, str]:
    return {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "gpuserve": version("gpuserve")}
