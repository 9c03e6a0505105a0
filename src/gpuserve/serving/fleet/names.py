"""From what somebody typed to the fleet whose gateway runs here, where a deployment could be meant as well."""

from __future__ import annotations

from collections.abc import Sequence

from gpuserve.errors import UsageError
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


def fleets_among(wanted: Sequence[str]) -> list[str]:
    """Those of ``wanted`` that are fleets whose gateway was started on this machine. Nobody is asked."""
    mine = {one.name for one in known()}
    return [one for one in wanted if one in mine]


def apart(wanted: str | None) -> tuple[str | None, str]:
    """``FLEET/MODEL`` as the fleet's name and the model's; the model is "" for anything else. Names hold no slash."""
    if wanted is None or "/" not in wanted:
        return wanted, ""
    name, _, model = wanted.partition("/")
    return name, model


def check_no_fleet(context: Context, wanted: str | None, what: str, hint: str) -> None:
    """Raises ``UsageError`` where a fleet is meant, which ``what`` can't be done with."""
    record = meant(context, apart(wanted)[0])
    if record is not None:
        raise UsageError(f"{record.name} is a fleet: {what}", hint=hint)


def reach_fleet(context: Context, wanted: str | None) -> tuple[Deployment, Endpoint] | None:
    """The fleet's gateway as a deployment with its endpoint; None if no fleet is meant."""
    record = meant(context, wanted)
    return None if record is None else (record.deployment, record.endpoint)
