"""Whether a worker that gives no answer is surely lost: what the platform knows of its engine's process."""

from __future__ import annotations

import time

from gpuserve.client.health import Health, HealthState
from gpuserve.errors import GpuserveError
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.reap import LAUNCH_GRACE

#: Seconds between two looks that must agree: an engine that is just being started anew is gone for a moment too.
_AGAIN = 0.5


def may_have_ended(health: Health) -> bool:
    """Whether a look is as if nothing listened at the worker's port: an engine that answers badly, or late, lives."""
    return health.status == 502 or health.state is HealthState.UNREACHABLE


def end_of(context: Context, deployment: Deployment) -> str:
    """How the worker's engine ended, in words; "" while it lives, or where nothing is sure. Raises nothing."""
    first = _ended(context, deployment)
    if not first:
        return ""
    time.sleep(_AGAIN)
    return first[1] if _ended(context, deployment) == first else ""


def _ended(context: Context, deployment: Deployment) -> tuple[str, str] | None:
    """The command that ended, and how."""
    try:
        session = context.sandboxes(deployment.place).session(deployment)
        if not session.attach():
            late = (deployment.age() or 0.0) > LAUNCH_GRACE
            return ("", "its engine was never started") if late else None
        code = session.exit_code()
        if code is not None:
            return session.command_id, f"its engine ended with exit code {code}"
        if session.alive() is False:
            return session.command_id, "nothing is left of its engine"
    except GpuserveError:
        pass  # whoever can't be asked has told nothing
    return None
