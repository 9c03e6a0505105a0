"""``share --rotate-key``: the key of an engine, or of a fleet's gateway, made anew, and the old one worthless."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gpuserve.errors import Conflict, GpuserveError, NotFound
from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.context import Context
from gpuserve.serving.events import Emit
from gpuserve.serving.find import check_started, find, remembered, resolve
from gpuserve.serving.fleet import daemon
from gpuserve.serving.fleet.away.house import await_answer
from gpuserve.serving.fleet.look import await_rotation, in_rotation
from gpuserve.serving.fleet.names import meant
from gpuserve.serving.fleet.record import Record, change
from gpuserve.serving.fleet.turn import turn
from gpuserve.serving.share import hand_out
from gpuserve.serving.waiting import wait
from gpuserve.serving.ways import new_key

#: What it costs: no engine here takes another key while it runs.
_ENGINE = (
    "the engine takes a new key only when it starts: this ends it with all requests in work, and loads the model anew, "
    "from the disk, while the sandbox goes on and costs what it costs"
)
#: The same for a fleet.
_GATEWAY = (
    "the gateway takes a new key only when it starts: this ends it with all requests in work, and starts it again "
    "within seconds; the workers go on with their models loaded"
)


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """A deployment that answers to its new key alone, and the endpoint to hand out; ``seconds`` is how long it took.

    ``here`` says that it is a fleet whose gateway runs on this machine.
    """

    deployment: Deployment
    endpoint: Endpoint = field(repr=False)
    seconds: float
    here: bool = False


def price(context: Context, wanted: str | None) -> str:
    """What another key costs, in words to agree to. Nobody is asked: what isn't known here is told as it may be."""
    if meant(context, wanted) is not None:
        return _GATEWAY
    try:
        known = resolve(wanted, [one.deployment for one in remembered(context)])
    except (NotFound, Conflict):
        return f"{_ENGINE}; of a fleet, {_GATEWAY}"
    return _GATEWAY if known.gateway_of else _ENGINE


def rotate_key(context: Context, wanted: str | None, *, timeout: float, emit: Emit) -> Rekeyed:
    """Starts the engine, or a fleet's gateway, anew with another key; waits at most ``timeout`` seconds for its answer.

    The key is that of GPUSERVE_API_KEY if it isn't the one in use, else one is generated.

    Raises:
        Conflict: the sandbox doesn't run, or its engine checks no key.
        BootFailed, TimedOut: the engine didn't come back; the old key opens nothing all the same.
    """
    record = meant(context, wanted)
    if record is not None:
        return _rotate_here(context, record)
    deployment = _keyed(context, wanted)
    session = context.sandboxes(deployment.place).session(deployment)
    session.restart(key=_other_than(session.key(), context))
    if deployment.gateway_of:
        await_answer(context, deployment)
    try:
        waited = wait(context, deployment.sandbox_id, timeout=timeout, emit=emit)
    except GpuserveError as error:
        error.hint = error.hint or f"gpuserve logs {deployment.name}; gpuserve down {deployment.name}"
        raise
    endpoint = hand_out(context, waited.deployment, waited.endpoint)[0] if deployment.public else waited.endpoint
    return Rekeyed(waited.deployment, endpoint, waited.seconds)


def _rotate_here(context: Context, record: Record) -> Rekeyed:
    began = time.monotonic()
    with turn(record.name):
        daemon.ask(record, "status")
        served = in_rotation(record)
        daemon.stop(record.name)
        changed = change(record.name, key=_other_than(record.key, context)) or record
        daemon.start(changed, context.settings)
        await_rotation(changed, sorted(served))
    return Rekeyed(changed.deployment, changed.endpoint, time.monotonic() - began, here=True)


def _other_than(key: str, context: Context) -> str:
    named = context.settings.engine_key.get_secret_value()
    return named if named and named != key else new_key()


def _keyed(context: Context, wanted: str | None) -> Deployment:
    """The deployment that ``wanted`` means, which runs and checks a key."""
    deployment = find(context, wanted)
    check_started(deployment)
    if not deployment.keyed:
        raise Conflict(
            f"the engine of {deployment.name} was started without a key, so there is none to change",
            hint="gpuserve up --access key starts one that asks for a key",
        )
    return deployment
