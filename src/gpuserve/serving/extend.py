"""``extend``: moves the moment at which the platform deletes a deployment."""

from __future__ import annotations

from contextlib import suppress

from gpuserve.durations import format_duration, parse_duration
from gpuserve.errors import GpuserveError, NotFound, PlatformError, UsageError
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.cost import DEADLINE_SLACK, deadline_problem
from gpuserve.serving.find import find
from gpuserve.serving.fleet import daemon
from gpuserve.serving.fleet.away.remote import find_gate
from gpuserve.serving.fleet.look import members
from gpuserve.serving.fleet.names import meant
from gpuserve.serving.fleet.plans import until
from gpuserve.serving.fleet.record import change, load
from gpuserve.state import Remembered


def parse_limit(text: str) -> int | None:
    """Seconds from now; None for "none".

    Raises:
        UsageError: no duration, or less than a minute: to the platform, zero minutes would mean no limit.
    """
    if text.strip().lower() == "none":
        return None
    seconds = parse_duration(text)
    if seconds < 60:
        raise UsageError(f"{text!r} is too short", hint="the least is 1m; gpuserve down deletes it at once")
    return seconds


def extend_named(context: Context, wanted: str, seconds: int | None) -> tuple[str, Deployment]:
    """As ``extend``, where ``wanted`` may be a fleet: its name, and what is deleted first of it.

    Raises:
        as ``extend`` and ``extend_fleet``.
    """
    record = meant(context, wanted)
    if record is None:
        found = find(context, wanted)
        fleet = found.gateway_of
        if not fleet:
            changed = extend(context, found.sandbox_id, seconds)
            return changed.name, changed
    else:
        fleet = record.name
    return fleet, min(extend_fleet(context, fleet, seconds), key=_end)


def _end(one: Deployment) -> float:
    return float("inf") if one.expires_at is None else one.expires_at.timestamp()


def extend(context: Context, wanted: str, seconds: int | None) -> Deployment:
    """Has the platform delete it ``seconds`` from now, or never for None; returns it as the platform then tells it.

    Raises:
        NotFound, Conflict: ``wanted`` means none, or several.
        PlatformError: the platform's deadline is not the one asked for.
    """
    sandboxes = context.sandboxes((deployment := find(context, wanted)).place)
    changed = sandboxes.set_ttl(deployment, seconds)
    context.cache.remember(Remembered(deployment=changed, api_url=sandboxes.place.api_url))
    if problem := _problem(changed, seconds):
        raise PlatformError(problem, hint="gpuserve doctor compares the clocks; gpuserve status")
    return changed


def extend_fleet(context: Context, name: str, seconds: int | None) -> list[Deployment]:
    """As ``extend``, for every worker of a fleet, for its gateway's sandbox, and for those that will replace a worker.

    Raises:
        GpuserveError: a worker's deadline couldn't be moved; the first one's error, once all others' were.
    """
    record = load(name)
    gate = find_gate(context, name) if record is None else None
    there = [*members(context, name), *([gate] if gate else [])]
    if not there:
        raise NotFound(f"{name} has no workers", hint=f"gpuserve fleet status {name}")
    changed: list[Deployment] = []
    errors: list[GpuserveError] = []
    for one in there:
        try:
            changed.append(extend(context, one.sandbox_id, seconds))
        except GpuserveError as error:
            errors.append(error)
    if record is not None:
        kept = change(name, until=until(seconds)) or record
        with suppress(GpuserveError):  # it reads the record anyway when it starts again
            daemon.ask(kept, "reload")
    if errors:
        raise errors[0]
    return changed


def _problem(changed: Deployment, seconds: int | None) -> str:
    """Why the deadline isn't the one asked for; "" if it is."""
    left = changed.time_left()
    if seconds is None:
        return "" if left is None else f"the platform keeps a deadline: {changed.name} is deleted in {_words(left)}"
    if left is not None and abs(left - seconds) > DEADLINE_SLACK:
        return f"the platform gives {changed.name} {_words(left)} instead of the {_words(seconds)} asked for"
    return deadline_problem(changed)


def _words(seconds: float) -> str:
    return format_duration(seconds)
