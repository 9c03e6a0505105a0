"""Whether a worker that gives no answer is surely lost: what the platform knows of its engine's process."""

from __future__ import annotations

import time

from gpuserve.client.health import Health, HealthState
from gpuserve.errors import GpuserveError
from gpuserve.records import Deployment
from gpuserve.serving.context import Context

#: Seconds within which whoever made a sandbox starts its engine, once it runs.
NEVER = 15.0
#: Seconds between two looks that must agree: an engine that is just being started anew is gone for a moment too.
_AGAIN = 0.5


def may_have_ended(health: Health) -> bool:
    """Whether a look is as if nothing listened at the worker's port: an engine that answers badly, or late, lives."""
    return health.status == 502 or health.state is HealthState.UNREACHABLE


def end_of(context: Context, deployment: Deployment, booting: float) -> str:
    """How the worker's engine ended, in words; "" while it lives, or where nothing is sure. Raises nothing.

    ``booting`` is for how many seconds its sandbox has run without the engine ever having been well; 0 if it was.
    """
    first = _ended(context, deployment, booting)
    if not first:
        return ""
    time.sleep(_AGAIN)
    return first[1] if _ended(context, deployment, booting) == first else ""


def _ended(context: Context, deployment: Deployment, booting: float) -> tuple[str, str] | None:
    """The command that ended, and how."""
    try:
        session = context.sandboxes(deployment.place).session(deployment)
        if not session.attach():
            return ("", "its engine was never started") if booting > NEVER else None
        code = session.exit_code()
        if code is not None:
            return session.command_id, f"its engine ended with exit code {code}"
        if session.alive() is False:
            return session.command_id, "nothing is left of its engine"
    except GpuserveError:
        pass  # whoever can't be asked has told nothing
    return None
