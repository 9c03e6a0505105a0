"""The members of a fleet, looked at every second: who is well, and what the gateway is told of that.

The keeper and the program in a gateway's sandbox are this, with what each of them knows besides. Carried into such a
sandbox as it is (``away/pack.py``): it knows neither the platform nor this machine's files.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gpuserve.client.health import Health, Prober
from gpuserve.proxy.injector import Injector
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import Deployment
from gpuserve.sandboxes import labels
from gpuserve.serving.fleet.files import write_private
from gpuserve.serving.fleet.member import Member

T = TypeVar("T")
#: Seconds between two looks at each worker.
PROBE_EVERY = 1.0
#: Seconds within which a worker must say that it is well. Engines answer that beside their work.
PROBE_TIMEOUT = 4.0


class Watch:
    """Looks after ``members``. ``manifest`` is the gateway's list of workers, ``url`` where it finds the injector's."""

    def __init__(self, injector: Injector, manifest: Path, url: str) -> None:
        self.injector = injector
        self.members: dict[str, Member] = {}
        self.draining: set[str] = set()
        self._file = manifest
        self._url = url
        self._manifest = ""
        self._eyes: dict[str, _Eye] = {}
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="watch")

    async def serve(self, *loops: Coroutine[Any, Any, None]) -> None:
        """Serves, and goes through these loops, until SIGTERM, until the process that started this one is gone, or
        until one of the loops ends."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with self.injector:
            tasks = [asyncio.create_task(one) for one in (*loops, self._probe_loop(), _orphaned())]
            stopped = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in done - {stopped}:
                task.result()  # a defect ends the process, with its traceback in the log; it is started again

    def join(
        self,
        deployment: Deployment,
        upstream: Upstream,
        renew: Callable[[], Upstream] | None = None,
        *,
        presumed: bool = False,
    ) -> None:
        """``presumed``: it was well before this process began, and is taken to be until it shows otherwise."""
        way = Way(deployment.name, upstream, renew, pooled=True, pause=1.0)
        self.injector.ways[deployment.name] = way
        member = self.members[deployment.name] = Member(deployment, way)
        if presumed:
            member.well, member.ever_well, member.state = True, True, "ready"
            self.injector.healthy.add(deployment.name)
        self.say(f"{deployment.name} has joined")

    def leave(self, name: str, why: str) -> None:
        """Takes a member out; what it was asked and hasn't answered is asked of another."""
        member = self.members.pop(name)
        self.injector.healthy.discard(name)
        self.publish()
        self.injector.ways.pop(name, None)
        self.draining.discard(name)
        if eye := self._eyes.pop(name, None):
            eye.close()
        cut = member.way.cut()
        self.say(f"{name} has left: {why}" + (f"; {cut} requests were cut off" if cut else ""))

    async def _probe_loop(self) -> None:
        under_way: dict[str, asyncio.Task[None]] = {}
        while True:
            for name, member in self.members.items():
                if name not in under_way or under_way[name].done():
                    if name in under_way:
                        under_way.pop(name).result()
                    under_way[name] = asyncio.create_task(self.probe(member))
            for name in [name for name in under_way if name not in self.members]:
                under_way.pop(name)
            await asyncio.sleep(PROBE_EVERY)

    async def probe(self, member: Member) -> None:
        """One look at a member, and what follows from it."""
        used = member.way.upstream
        health = await self.look(member)
        if self.members.get(member.name) is member and member.way.upstream == used:
            self.judge(member, health)

    async def look(self, member: Member) -> Health:
        """How its engine answers, over a connection that is kept for that. Never two at once for one member."""
        used = member.way.upstream
        eye = self._eyes.pop(member.name, None)
        if eye is None or eye.upstream != used:
            if eye is not None:
                eye.close()
            eye = await self.thread(lambda: _Eye(used, member.deployment))
        health = await self.thread(eye.look)
        if self.members.get(member.name) is member:
            self._eyes[member.name] = eye
        else:
            eye.close()
        return health

    def judge(self, member: Member, health: Health, *, doubt: bool = False) -> None:
        """Takes another look into account: in rotation, or out of it; ``doubt`` as for ``Member.take``."""
        was = member.well
        member.take(health, doubt=doubt, alone=not self.injector.healthy - {member.name})
        if member.well and not was:
            self.injector.healthy.add(member.name)
            self.say(f"{member.name} is in rotation")
        if not member.well:
            self.injector.healthy.discard(member.name)
            # What waits for an answer of a worker that gives none is asked of another; streams break off. Where there
            # is no other, and it may only be slow, waiting is better.
            only_slow = member.state in ("unwell", "booting") and not self.injector.healthy
            cut = member.way.cut() if member.lost_touch and not only_slow else 0
            if was:
                self.say(f"{member.name} is out of rotation: {member.detail}; {cut} requests were cut off")
        if member.well != was:
            self.publish()

    def publish(self) -> None:
        """Writes the gateway's list of workers, if it has changed: those that were well once and aren't leaving.

        Whether one of them is well now is what the injector says on its health route.
        """
        names = sorted(name for name, one in self.members.items() if one.ever_well and name not in self.draining)
        text = json.dumps({"version": 1, "workers": [{"url": f"{self._url}/w/{name}"} for name in names]})
        if text != self._manifest:
            write_private(self._file, text)
            self._manifest = text

    async def thread(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, called in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def say(self, text: str) -> None:
        """Notes something in the log."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201  # the process's log


class _Eye:
    """Looks at one upstream over a kept connection: a new client each time would cost 30 ms of CPU for certificates."""

    def __init__(self, upstream: Upstream, deployment: Deployment) -> None:
        self.upstream = upstream
        route = labels.routes(deployment.labels).health
        self._prober = Prober(upstream.endpoint, route, timeout=PROBE_TIMEOUT)

    def look(self) -> Health:
        return self._prober.probe()

    def close(self) -> None:
        self._prober.__exit__(None, None, None)


async def _orphaned() -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110  # the kernel tells no event of that
        await asyncio.sleep(1)
