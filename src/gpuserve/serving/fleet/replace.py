"""``--keep N``: a worker that is lost is replaced, with a limit to how often that may go wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gpuserve.durations import format_duration
from gpuserve.errors import GpuserveError
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.events import Event, Warned
from gpuserve.serving.fleet.look import at_place
from gpuserve.serving.fleet.plans import replacement
from gpuserve.serving.fleet.turn import taken
from gpuserve.serving.plan import Plan
from gpuserve.serving.up import up
from gpuserve.state import Cache

if TYPE_CHECKING:
    from gpuserve.serving.fleet.keeper import Keeper

#: Seconds before the next try after one that failed: the first time; each time after that twice as long.
PAUSE = 15.0
#: Why none of several workers is taken for lost.
NOBODY = "no worker answers: the platform's proxy, or the way to it, is taken to have failed, and none is replaced"
#: Most workers that are brought up at once.
AT_ONCE = 8
#: After so many failures in a row nothing is tried any more, until somebody runs a command: each one costs money.
GIVE_UP = 4


class Replacing:
    """Keeps the number of workers of one fleet up. ``look`` is called with what the platform lists."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.tasks: set[asyncio.Task[None]] = set()
        self.starting: set[str] = set()
        # Of its own: workers take minutes to boot, and the others must be looked at meanwhile.
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="replace")
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
        if wanted is None or taken(keeper.record.name):
            return
        if keeper.problem == NOBODY:
            keeper.problem = ""
        # Those that serve another model were added by somebody, and nothing here could replace them.
        mine = [one for one in listed if one.served_model == keeper.record.served_model]
        for deployment in mine:
            if deployment.name not in self._ending and (why := self._lost(deployment)):
                self._ending.add(deployment.name)
                self._begin(self._end(deployment, why))
        there = {one.name for one in mine} - self._ending
        if self._failures >= GIVE_UP or time.monotonic() < self._not_before:
            return
        for _ in range(wanted - len(there | self.starting)):
            plan = replacement(keeper.record)
            if plan is None:
                keeper.problem = "the fleet's time is over: lost workers are no longer replaced"
                return
            self.starting.add(plan.name)
            self._begin(self._start(plan))

    def _lost(self, deployment: Deployment) -> str:
        """Why a worker is lost; "" if it isn't."""
        if deployment.state in ("error", "build_failed", "stopped"):
            return deployment.error or f"its sandbox is {deployment.state}"
        member = self._keeper.members.get(deployment.name)
        if member is None or deployment.name in self.starting:
            return ""
        failing = member.failing_for
        if member.ended or failing <= self._keeper.record.lost_after:
            return member.ended
        others = [one for one in self._keeper.members.values() if one is not member]
        if member.well or (others and not any(one.well for one in others)):  # well: what fails isn't its own doing
            self._keeper.problem = NOBODY
            return ""
        return f"it has failed for {format_duration(failing)}: {member.detail}"

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _end(self, deployment: Deployment, why: str) -> None:
        keeper = self._keeper
        keeper.say(f"{deployment.name} is lost and will be deleted: {why}")
        try:
            await keeper.thread(lambda: keeper.context.sandboxes(deployment.place).delete(deployment.sandbox_id))
        except GpuserveError as error:
            keeper.say(f"{deployment.name} can't be deleted: {error.message}")
        finally:
            self._ending.discard(deployment.name)

    async def _start(self, plan: Plan) -> None:
        keeper, failures = self._keeper, self._failures
        keeper.say(f"{plan.name} will replace a lost worker")
        context = Context(keeper.context.settings, Cache(keeper.context.cache.path), keeper.context.local)

        def tell(event: Event) -> None:
            if isinstance(event, Warned):
                keeper.say(f"{plan.name}: {event.text}")

        def work() -> None:
            at_place(context, plan.place)
            up(plan, context, emit=tell)

        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except GpuserveError as error:
            if self._failures == failures:  # what fails at the same time fails once
                self._failures += 1
            self._not_before = time.monotonic() + PAUSE * 2 ** (self._failures - 1)
            given_up = "; given up" if self._failures >= GIVE_UP else ""
            keeper.problem = f"a lost worker couldn't be replaced: {error.message}{given_up}"
            keeper.say(keeper.problem)
        else:
            self.reset()
        finally:
            self.starting.discard(plan.name)
            keeper.poke()
