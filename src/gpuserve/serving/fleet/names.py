"""From what somebody typed to the fleet whose gateway runs here, where a deployment could be meant as well."""

from __future__ import annotations

from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.context import Context
from gpuserve.serving.fleet.record import Record, known


def meant(context: Context, wanted: str | None) -> Record | None:
    """The fleet that ``wanted`` means; without ``wanted``, the only one, if nothing lives beside it as far as is known.

    Nobody is asked. A fleet is meant by its whole name only.
    """
    fleets = known()
    if wanted is not None:
        return next((one for one in fleets if wanted in (one.name, one.deployment.sandbox_id)), None)
    if len(fleets) != 1:
        return None
    others = [one for one in context.cache.all() if one.deployment.fleet != fleets[0].name]
    return None if others else fleets[0]


def reach_fleet(context: Context, wanted: str | None) -> tuple[Deployment, Endpoint] | None:
    """The fleet's gateway as a deployment with its endpoint; None if no fleet is meant."""
    record = meant(context, wanted)
    return None if record is None else (record.deployment, record.endpoint)
