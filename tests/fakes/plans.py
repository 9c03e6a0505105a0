"""An engine's plan for a model of the catalogue."""

from __future__ import annotations

from gpuserve import catalog, engines
from gpuserve.records import LaunchPlan, ServeRequest


def plan(engine: str, model: str, *engine_args: str, **fields: object) -> LaunchPlan:
    """As ``up`` has it made; ``fields`` are the request's other ones."""
    request = ServeRequest(model=model, engine=engine, engine_args=engine_args, **fields)  # type: ignore[arg-type]
    return engines.load(engine).plan(request, catalog.lookup(model, engine))
