"""Makes the sandbox of a fleet's gateway, starts the gateway in it, and starts it again."""

from __future__ import annotations

import secrets
import time

from gpuserve.client.health import Prober
from gpuserve.errors import BootFailed, Interrupted, TimedOut
from gpuserve.records import DEFAULT_PORT, Deployment, KeyPass, LaunchPlan
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.gatehouse import House
from gpuserve.sandboxes.manager import Sandboxes
from gpuserve.serving.context import Context
from gpuserve.serving.events import BuildLog, Emit, Noted, SandboxState
from gpuserve.serving.fleet.away.pack import REQUIREMENTS, program
from gpuserve.serving.fleet.away.remote import Remote, as_remote
from gpuserve.serving.fleet.away.roster import PROGRAM
from gpuserve.serving.plan import Plan, free_port
from gpuserve.serving.reach import open_endpoint
from gpuserve.serving.ways import new_key

#: The sandbox's image; what the gateway needs is added by pip.
IMAGE = "python:3.12-slim"
#: The session that it runs in.
SESSION = "gateway"
#: Seconds within which the gateway must answer once it was started.
ANSWER = 60.0


def build(context: Context, plan: Plan, *, access: str, port: int, timeout: float, emit: Emit) -> Remote:
    """A gateway for the fleet of ``plan``, in a sandbox of its own, that answers and has no workers yet.

    ``access`` is one of ``ACCESS_MODES``; ``port`` 0 leaves the choice to this; ``timeout`` is in seconds.

    Raises:
        GpuserveError: it can't be made, and the sandbox is deleted again.
        Interrupted: Ctrl-C; as above.
    """
    sandboxes = context.sandboxes(plan.place)
    house = _house(plan, access, port or (free_port() if plan.place == "local" else DEFAULT_PORT))
    began = time.monotonic()
    creation = sandboxes.start_house(house, timeout=timeout, on_build_log=lambda text: emit(BuildLog(text)))
    try:
        made = creation.wait(lambda state: emit(SandboxState(house.fleet, state, time.monotonic() - began)))
        gate = sandboxes.as_started(made)
        _launch(sandboxes, gate)
        await_answer(context, gate)
        emit(Noted("the gateway answers"))
        return as_remote(context, gate)
    except BaseException as error:
        left = creation.settle()
        if left is not None:
            sandboxes.delete(left.id)
            context.cache.forget(left.id)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("interrupted; the gateway's sandbox was deleted") from None
        raise


def _house(plan: Plan, access: str, port: int) -> House:
    # Clients ask for what the workers' engine can: its name is here too.
    launch = LaunchPlan(
        engine=plan.launch.engine,
        model=plan.launch.model,
        served_model=plan.launch.served_model,
        image=IMAGE,
        argv=(),
        port=port,
        session=SESSION,
        health_path="/health",
        metrics_path="",
        key=KeyPass(),
    )
    return House(
        fleet=plan.name,
        run_id=secrets.token_hex(6),
        launch=launch,
        packages=REQUIREMENTS,
        access=access,
        public=access == "key",
        ttl=plan.request.ttl,
        target=plan.request.target,
        labels=plan.request.labels,
    )


def _launch(sandboxes: Sandboxes, gate: Deployment) -> None:
    """The key and the program go there as files; the command holds nothing but the port."""
    there = sandboxes.gatehouse(gate)
    there.keep_key(new_key())
    there.put(program(), PROGRAM)
    sandboxes.session(gate).launch(f'cd "${{HOME:-/tmp}}"/.gpuserve-gateway && python3 {PROGRAM} --port {gate.port}')


def await_answer(context: Context, gate: Deployment) -> None:
    """Returns once the gateway answers to its health route.

    Raises:
        BootFailed, TimedOut: it has ended, or doesn't.
    """
    session = context.sandboxes(gate.place).session(gate)
    session.attach()
    deadline = time.monotonic() + ANSWER
    with Prober(open_endpoint(context, gate), labels.routes(gate.labels).health) as prober:
        while not prober.probe().ready:
            code = session.exit_code()
            if code is not None:
                raise BootFailed(f"the gateway ended with exit code {code}: {session.log().strip()[-300:]}")
            if time.monotonic() > deadline:
                raise TimedOut(f"the gateway doesn't answer in its sandbox: {session.log().strip()[-300:]}")
            time.sleep(0.3)


def revive(remote: Remote) -> None:
    """Starts the gateway in its sandbox anew, with the key that it had and the program of this version.

    Raises:
        TimedOut: it doesn't answer.
    """
    sandboxes = remote.context.sandboxes(remote.place)
    remote.house.put(program(), PROGRAM)
    sandboxes.session(remote.gate).restart(key=remote.key)
    await_answer(remote.context, remote.gate)
