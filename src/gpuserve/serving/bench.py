"""``bench``: how fast a deployment, or any endpoint, is under load."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from gpuserve.bench.events import Emit
from gpuserve.bench.measure import measure
from gpuserve.bench.wanted import Wanted
from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.context import Context
from gpuserve.serving.cost import cost_of
from gpuserve.serving.defaults import prices
from gpuserve.serving.fleet.look import members
from gpuserve.serving.fleet.names import apart, meant
from gpuserve.serving.reach import reach_fresh


def bench(context: Context, which: str | None, wanted: Wanted, *, emit: Emit) -> dict[str, Any]:
    """Measures the deployment, or the fleet, that ``which`` means; its cost is told where each GPU has a price.

    Raises:
        ConfigError: the prices can't be read.
        NotFound, Conflict: no such deployment, or several; and as ``bench.measure.measure``.
    """
    known = prices(context.settings)
    deployment, endpoint = reach_fresh(context, which)
    paid = _paid(context, which, deployment)
    costs = [cost.per_hour for one in paid if (cost := cost_of(one, known)) is not None]
    hour = sum(costs) if len(costs) == len(paid) else None
    found = measure(endpoint, wanted, price=hour, emit=emit)
    gpus = ", ".join(
        f"{count} x {gpu}" if count > 1 else gpu for gpu, count in Counter(one.gpu for one in paid).items()
    )
    told = {"name": deployment.name, "engine": deployment.engine, "model": deployment.model, "gpu": gpus}
    return {**told, "cost_per_hour": hour, **_occasion(), **found}


def _paid(context: Context, which: str | None, deployment: Deployment) -> list[Deployment]:
    """Whose GPUs do the work: of a fleet, those workers that serve the model."""
    record = meant(context, apart(which)[0])
    fleet = deployment.gateway_of if record is None else record.name
    if not fleet:
        return [deployment]
    return [one for one in members(context, fleet) if one.served_model == deployment.served_model]


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
