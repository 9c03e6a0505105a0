"""``--keep N``: a worker that is lost is replaced, with a limit to how often that may go wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from gpuserve.errors import GpuserveError
from gpuserve.records import Deployment
from gpuserve.serving.events import Event, Warned
from gpuserve.serving.fleet.plans import replacement
from gpuserve.serving.plan import Plan
from gpuserve.serving.up import up

if TYPE_CHECKING:
    from gpuserve.serving.fleet.keeper import Keeper

#: Seconds before the next try after one that failed: the first time; each time after that twice as long.
PAUSE = 15.0
#: After so many failures in a row nothing is tried any more, until somebody runs a command: each one costs money.
GIVE_UP = 4


class Replacing:
    """Keeps the number of workers of one fleet up. ``look`` is called with what the platform lists."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: set[str] = set()
        self._ending: set[str] = set()
        self._failures = 0
        self._not_before = 0.0

    def reset(self) -> None:
        """Forgets what went wrong: somebody has looked at it."""
        self._failures, self._not_before, self._keeper.problem = 0, 0.0, ""

    def look(self, listed: list[Deployment]) -> None:
        """Deletes what is lost, and starts what is missing."""
        keeper = self._keeper
        wanted = keeper.record.keep
        if wanted is None:
            return
        for deployment in listed:
            member = keeper.members.get(deployment.name)
            failing = 0.0 if member is None else member.failing_for
            broken = deployment.state in ("error", "build_failed", "stopped")
            if (broken or failing > keeper.record.lost_after) and deployment.name not in self._ending:
                self._ending.add(deployment.name)
                self._begin(self._end(deployment))
        there = {one.name for one in listed} - self._ending - keeper.draining
        if self._failures >= GIVE_UP or time.monotonic() < self._not_before:
            return
        for _ in range(wanted - len(there | self._starting)):
            plan = replacement(keeper.record)
            if plan is None:
                keeper.problem = "the fleet's time is over: lost workers are no longer replaced"
                return
            self._starting.add(plan.name)
            self._begin(self._start(plan))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, deployment: Deployment) -> None:
        keeper = self._keeper
        keeper.say(f"{deployment.name} is lost and will be deleted")
        try:
            await keeper.thread(lambda: keeper.context.sandboxes(deployment.place).delete(deployment.sandbox_id))
        except GpuserveError as error:
            keeper.say(f"{deployment.name} can't be deleted: {error.message}")
        finally:
            self._ending.discard(deployment.name)

    async def _start(self, plan: Plan) -> None:
        keeper = self._keeper
        keeper.say(f"{plan.name} will replace a lost worker")

        def tell(event: Event) -> None:
            if isinstance(event, Warned):
                keeper.say(f"{plan.name}: {event.text}")

        try:
            await keeper.thread(lambda: up(plan, keeper.context, emit=tell))
        except GpuserveError as error:
            self._failures += 1
            self._not_before = time.monotonic() + PAUSE * 2 ** (self._failures - 1)
            given_up = "; given up" if self._failures >= GIVE_UP else ""
            keeper.problem = f"a lost worker couldn't be replaced: {error.message}{given_up}"
            keeper.say(keeper.problem)
        else:
            self.reset()
        finally:
            self._starting.discard(plan.name)
