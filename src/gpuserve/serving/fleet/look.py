"""Who is in a fleet, and whom its gateway sends requests to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from gpuserve.errors import Conflict, GpuserveError, NotFound, PlatformError, TimedOut
from gpuserve.records import GONE, Deployment
from gpuserve.sandboxes.manager import Sandboxes
from gpuserve.serving.context import Context
from gpuserve.serving.find import live, resolve
from gpuserve.serving.fleet import daemon
from gpuserve.serving.fleet.away.remote import Remote, find_remote
from gpuserve.serving.fleet.record import Record, load

#: Seconds within which a ready worker must be in the gateway's rotation.
JOIN = 60.0


def members(context: Context, name: str) -> list[Deployment]:
    """The workers of the fleet, as the platform lists them, by name. An empty list means that there are none.

    Raises:
        GpuserveError: the place where the fleet is doesn't answer; or none does, where it isn't known where that is.
    """
    record = load(name)
    errors: list[GpuserveError] = []
    if record is not None:
        found = [one for one in at_place(context, record.place).deployments() if one.state not in GONE]
    else:
        found, errors = live(context)
    mine = sorted((one for one in found if one.fleet == name), key=lambda one: one.name)
    if not mine and errors:
        raise errors[0]
    return mine


def at_place(context: Context, place: str) -> Sandboxes:
    """The sandboxes of a place. This machine's host, when it has much to do, may not say at once that it is there."""
    for _ in range(4):
        with suppress(PlatformError):
            return context.sandboxes(place)
        time.sleep(0.5)
    return context.sandboxes(place)


def known(context: Context, name: str) -> Record:
    """The fleet as this machine knows it, or as the platform does where its gateway is in a sandbox.

    Raises:
        Conflict: its gateway is on another machine.
        NotFound: there is no such fleet.
    """
    record = load(name)
    if record is not None:
        return record
    remote = find_remote(context, name)
    if remote is not None:
        return remote
    if members(context, name):
        raise Conflict(f"the gateway of {name} isn't on this machine", hint=f"gpuserve fleet start {name}")
    raise no_fleet(context, name)


def no_fleet(context: Context, name: str) -> NotFound:
    """The error for a name that is no fleet's, which says what it is instead."""
    with suppress(GpuserveError):  # what can't be asked for adds nothing
        for one in live(context)[0]:
            if one.name == name and one.fleet:
                return NotFound(f"{name} is a worker of {one.fleet}, and no fleet", hint=f"name {one.fleet} instead")
            if one.name == name:
                return NotFound(
                    f"{name} is a deployment, and no fleet", hint=f"gpuserve status {name}; gpuserve fleet status"
                )
    return NotFound(f"no fleet {name!r}", hint="gpuserve fleet status lists what there is")


def worker(there: Sequence[Deployment], name: str, wanted: str) -> Deployment:
    """The worker of the fleet ``name`` that ``wanted`` means.

    Raises:
        NotFound, Conflict: none, or several.
    """
    try:
        return resolve(wanted, there)
    except NotFound:
        names = ", ".join(one.name for one in there)
        raise NotFound(f"{name} has no worker {wanted!r}", hint=f"it has {names or 'none'}") from None


def in_rotation(record: Record) -> set[str]:
    """The names of the workers that the gateway sends requests to now; empty if it doesn't answer."""
    return {name for name, state in gateway_states(record).items() if state == "ready"}


def gateway_states(record: Record) -> dict[str, str]:
    """The gateway's own word on each worker, by name."""
    import httpx

    if isinstance(record, Remote):
        return record.states()
    headers = {"Authorization": f"Bearer {record.key}"}
    with suppress(httpx.HTTPError, ValueError, KeyError, AttributeError, TypeError):
        answer = httpx.get(f"{record.url}/workers", headers=headers, timeout=5, trust_env=False)
        return {one["url"].rsplit("/", 1)[-1]: str(one.get("status", "")) for one in answer.json()["workers"]}
    return {}


def await_rotation(record: Record, names: Sequence[str]) -> None:
    """Returns once the gateway sends requests to each of ``names``.

    Raises:
        TimedOut: it doesn't.
    """
    deadline = time.monotonic() + JOIN
    with suppress(GpuserveError):
        daemon.ask(record, "poke")
    while missing := set(names) - in_rotation(record):
        if time.monotonic() > deadline:
            raise TimedOut(
                f"the gateway of {record.name} doesn't take up {', '.join(sorted(missing))}",
                hint=f"gpuserve fleet status {record.name}",
            )
        time.sleep(0.2)
