"""``wait`` for a fleet: until its gateway sends requests to each of its workers, or it is clear that it won't."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpuserve.errors import BootFailed, NetworkError, TimedOut
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.events import Emit
from gpuserve.serving.find import find
from gpuserve.serving.fleet import daemon
from gpuserve.serving.fleet.away.remote import Remote, as_remote
from gpuserve.serving.fleet.look import in_rotation, members
from gpuserve.serving.fleet.lost import end_of
from gpuserve.serving.fleet.names import meant
from gpuserve.serving.fleet.record import Record
from gpuserve.serving.waiting import DEAD, Waited, wait

#: Seconds between two looks, and between two questions whether an engine has ended.
_STEP, _ASK = 0.5, 3.0


def wait_for(context: Context, wanted: str | None, *, timeout: float, emit: Emit) -> Waited:
    """As ``waiting.wait``, where a fleet may be meant.

    Raises:
        as ``waiting.wait``; of a fleet ``BootFailed`` where a worker has ended and nobody replaces it.
        NetworkError: the fleet's gateway doesn't run.
    """
    began = time.monotonic()
    record = meant(context, wanted)
    if record is None:
        deployment = find(context, wanted)
        done = wait(context, deployment.sandbox_id, timeout=timeout, emit=emit)
        if not done.deployment.gateway_of:
            return done
        record = as_remote(context, done.deployment)
    _all_in_rotation(context, record, began + timeout)
    return Waited(record.deployment, record.endpoint, time.monotonic() - began)


def _all_in_rotation(context: Context, record: Record, deadline: float) -> None:
    asked = time.monotonic()
    while True:
        _check_runs(record)
        there = members(context, record.name)
        served = in_rotation(record) & _well(record)
        missing = [one for one in there if one.name not in served]
        if there and not missing:
            return
        if time.monotonic() - asked > _ASK:
            _check_living(context, record, missing)
            asked = time.monotonic()
        if time.monotonic() > deadline:
            names = ", ".join(one.name for one in missing) or "any worker"
            raise TimedOut(
                f"the gateway of {record.name} doesn't send requests to {names} yet",
                hint=f"wait again, or raise --timeout; gpuserve fleet status {record.name}",
            )
        time.sleep(_STEP)


def _well(record: Record) -> set[str]:
    """Those that answer, by the word of who looks after them: the gateway learns of it a little later."""
    try:
        return {str(row["name"]) for row in daemon.ask(record, "status")["workers"] if row["in_rotation"]}
    except NetworkError:  # it is being started again
        return set()


def _check_runs(record: Record) -> None:
    if isinstance(record, Remote):
        record.status()
    elif not daemon.runs(record.name):
        raise NetworkError(
            f"the gateway of {record.name} doesn't run on this machine", hint=f"gpuserve fleet start {record.name}"
        )


def _check_living(context: Context, record: Record, missing: Sequence[Deployment]) -> None:
    """A worker that has ended won't come, unless the keeper replaces it."""
    if record.keep is not None:
        return
    for one in missing:
        ended = (one.error or one.state) if one.state in DEAD else end_of(context, one, 0.0)
        if ended:
            raise BootFailed(
                f"{one.name} doesn't serve: {ended}",
                hint=f"gpuserve logs {one.name}; gpuserve fleet remove {record.name} {one.name}",
            )
