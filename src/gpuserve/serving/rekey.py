"""``share --rotate-key``: the engine's own key made anew, and the old one worthless."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuserve.errors import Conflict, GpuserveError
from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.context import Context
from gpuserve.serving.events import Emit
from gpuserve.serving.find import find
from gpuserve.serving.fleet.away.house import await_answer
from gpuserve.serving.share import hand_out
from gpuserve.serving.waiting import wait
from gpuserve.serving.ways import new_key

#: What it costs: no engine here takes another key while it runs.
COST = (
    "the engine takes a new key only when it starts: this ends it with all requests in work, and loads the model anew, "
    "from the disk, while the sandbox goes on and costs what it costs"
)


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """A deployment that answers to its new key alone, and the endpoint to hand out; ``seconds`` is how long it took."""

    deployment: Deployment
    endpoint: Endpoint = field(repr=False)
    seconds: float


def rotate_key(context: Context, wanted: str | None, *, timeout: float, emit: Emit) -> Rekeyed:
    """Starts the engine anew with another key and waits at most ``timeout`` seconds until it answers.

    The key is that of GPUSERVE_API_KEY if it isn't the one in use, else one is generated.

    Raises:
        Conflict: the sandbox doesn't run, or its engine checks no key.
        BootFailed, TimedOut: the engine didn't come back; the old key opens nothing all the same.
    """
    deployment = find(context, wanted)
    if deployment.state != "started":
        raise Conflict(f"{deployment.name} is {deployment.error or deployment.state}", hint="gpuserve status")
    if not deployment.keyed:
        raise Conflict(
            f"the engine of {deployment.name} was started without a key, so there is none to change",
            hint="gpuserve up --access key starts one that asks for a key",
        )
    session = context.sandboxes(deployment.place).session(deployment)
    named = context.settings.engine_key.get_secret_value()
    session.restart(key=named if named and named != session.key() else new_key())
    if deployment.gateway_of:
        await_answer(context, deployment)
    try:
        waited = wait(context, deployment.sandbox_id, timeout=timeout, emit=emit)
    except GpuserveError as error:
        error.hint = error.hint or f"gpuserve logs {deployment.name}; gpuserve down {deployment.name}"
        raise
    endpoint = hand_out(context, waited.deployment, waited.endpoint)[0] if deployment.public else waited.endpoint
    return Rekeyed(waited.deployment, endpoint, waited.seconds)
