"""``reap``: finds deployments that nobody can be using any more. Only sandboxes with gpuserve's label are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from gpuserve.durations import format_duration
from gpuserve.errors import GpuserveError
from gpuserve.records import Deployment
from gpuserve.sandboxes import labels
from gpuserve.serving.context import Context
from gpuserve.serving.find import live
from gpuserve.serving.status import inspect_all

#: States of a sandbox whose engine won't come back; the others are on their way to running, or run.
DEAD = ("error", "build_failed", "stopped")
#: Seconds after which a deployment without a deadline counts as forgotten.
FORGOTTEN = 24 * 3600
#: Seconds within which ``up`` starts the engine of a sandbox that runs.
LAUNCH_GRACE = 15 * 60
#: Seconds for which an engine that was never started is looked for: ``up`` may be about to start it.
ATTACH_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """A deployment without an owner, and why it is taken for one."""

    deployment: Deployment
    reason: str


def orphans(context: Context, older_than: int | None) -> tuple[list[Orphan], list[GpuserveError]]:
    """What may go, newest first, and the errors of places and sandboxes that can't be asked: those stay.

    ``older_than`` in seconds takes the place of the rule for deployments without a deadline. To ask whether a
    running sandbox's engine was ever started counts as use of that sandbox.

    Raises:
        GpuserveError: no place answers.
    """
    deployments, errors = live(context)
    now = datetime.now(UTC)
    found = {one.sandbox_id: reason for one in deployments if (reason := verdict(one, older_than, now))}
    found |= {one.sandbox_id: reason for one in deployments if (reason := idle_gate(one, deployments, now))}
    found |= _unused(context, [one for one in deployments if one.sandbox_id not in found])
    unclear = [one for one in deployments if one.sandbox_id not in found and may_lack_engine(one, now)]
    never, more = _never_started(context, unclear)
    found |= {one.sandbox_id: f"its engine was never started in {_age(one, now)}" for one in never}
    return [Orphan(one, found[one.sandbox_id]) for one in deployments if one.sandbox_id in found], [*errors, *more]


def verdict(one: Deployment, older_than: int | None, now: datetime) -> str:
    """Why the platform's own words make it an orphan; "" if they don't."""
    if one.state in DEAD:
        return f"it is {one.state}" + (f": {one.error.splitlines()[0][:200]}" if one.error else "")
    left, age = one.time_left(now), one.age(now) or 0.0
    if left is not None and left < 0:
        return f"its time ran out {format_duration(-left)} ago"
    if older_than is not None:
        return f"it is {_age(one, now)} old" if age > older_than else ""
    return f"it is {_age(one, now)} old and has no deadline" if left is None and age > FORGOTTEN else ""


def idle_gate(one: Deployment, deployments: Sequence[Deployment], now: datetime) -> str:
    """Why the gateway of a fleet has nothing to do; "" for anything else. It comes before its first worker."""
    if not one.gateway_of or (one.age(now) or 0.0) <= LAUNCH_GRACE or verdict(one, None, now):
        return ""
    return "" if any(each.fleet == one.gateway_of for each in deployments) else "it is a gateway without any worker"


def _unused(context: Context, deployments: Sequence[Deployment]) -> dict[str, str]:
    """Those that ``up --idle`` set a limit for and that nobody used for longer, by their engines' own counters.

    The platform looks too, but it counts requests of any kind: a monitor that asks for health keeps a sandbox alive.
    """
    limited = [one for one in deployments if labels.asked(one.labels, labels.IDLE) is not None]
    return {
        one.deployment.sandbox_id: f"nobody used it for {format_duration(one.idle_seconds)}, by its engine's counters"
        for one in inspect_all(context, limited)
        if one.idle_limit is not None and one.idle_seconds is not None and one.idle_seconds > one.idle_limit
    }


def may_lack_engine(one: Deployment, now: datetime) -> bool:
    """Whether it has run for so long that its engine must have been started."""
    return one.state == "started" and (one.age(now) or 0.0) > LAUNCH_GRACE


def _never_started(context: Context, deployments: Sequence[Deployment]) -> tuple[list[Deployment], list[GpuserveError]]:
    """Those in which no engine was ever started, and the errors of those that can't be asked."""
    if not deployments:
        return [], []
    for one in deployments:
        context.sandboxes(one.place)  # opened here: the threads below only use it
    never: list[Deployment] = []
    errors: list[GpuserveError] = []

    def look(one: Deployment) -> None:
        try:
            if not context.sandboxes(one.place).session(one).attach(patience=ATTACH_PATIENCE):
                never.append(one)
        except GpuserveError as error:
            errors.append(error)

    with ThreadPoolExecutor(max_workers=min(8, len(deployments))) as pool:
        list(pool.map(look, deployments))
    return never, errors


def _age(one: Deployment, now: datetime) -> str:
    return format_duration(one.age(now) or 0.0)
