"""The keeper's process: the injector, and the loops that look after a fleet's workers.

    python -m gpuserve.serving.fleet.keeper

Its orders come by ``POST /control/…`` on the injector's port; see ``Keeper.order``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast

from gpuserve.client.health import Health, HealthState, Prober
from gpuserve.errors import GpuserveError, UsageError
from gpuserve.proxy.injector import Injector
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import GONE, Deployment
from gpuserve.sandboxes import labels
from gpuserve.serving.context import Context
from gpuserve.serving.fleet.gateway import MANIFEST
from gpuserve.serving.fleet.lost import end_of, may_have_ended
from gpuserve.serving.fleet.member import Member
from gpuserve.serving.fleet.record import Record, directory, forget, load, write_private
from gpuserve.serving.fleet.replace import Replacing
from gpuserve.serving.fleet.supervisor import OVER
from gpuserve.serving.fleet.turn import taken
from gpuserve.serving.reach import open_endpoint

T = TypeVar("T")
#: Seconds between two looks at the platform's list, and between two looks at each worker.
ROSTER_EVERY, PROBE_EVERY = 4.0, 1.0
#: Seconds after which a list has come so late that the platform, or the way to it, must have failed meanwhile.
SLOW_LIST = 8.0
#: Seconds within which a worker must say that it is well. Engines answer that beside their work.
PROBE_TIMEOUT = 4.0
#: Seconds within which a worker answers where nothing is slow.
QUICK = 1.0
#: Seconds between two questions whether the engine of a worker at which nothing listens has ended.
ASK_AGAIN, ASK_AGAIN_BOOTING = 2.0, 5.0


class Keeper:
    """Looks after one fleet. ``run`` goes on until SIGTERM."""

    def __init__(self, record: Record, context: Context, listener: socket.socket) -> None:
        self.record = record
        self.context = context
        self.members: dict[str, Member] = {}
        self.draining: set[str] = set()
        self.problem = ""
        self.over = False
        self._unlisted = ""
        self._heard: dict[str, float] = {}
        self._place = directory(record.name)
        self._manifest = ""
        self._poke = asyncio.Event()
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="keeper")
        self.injector = Injector(listener=listener, key=record.key, control_key=record.control_key, control=self.order)
        self.replacing = Replacing(self)

    async def run(self) -> None:
        """Serves until SIGTERM, or until the supervisor is gone."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        for deployment, upstream in _remembered(self.context, self.record):
            self._join(deployment, upstream, presumed=True)
        async with self.injector:
            tasks = [asyncio.create_task(one) for one in (self._roster_loop(), self._probe_loop(), _orphaned())]
            stopped = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in done - {stopped}:
                task.result()  # a defect ends the process, with its traceback in the log; it is started again

    # -- who belongs to the fleet ----------------------------------------------------------------------------------

    async def _roster_loop(self) -> None:
        while True:
            self._poke.clear()
            free = not taken(self.record.name)  # asked before the list: what a command did shows in the list then
            began = time.monotonic()
            try:
                here = [one.deployment.sandbox_id for one in self.members.values()]
                found = await self.thread(partial(self._listed, here))
            except GpuserveError as error:
                self._forgive()
                if self._unlisted != error.message:
                    self.say(f"the workers can't be listed: {error.message}")
                self._unlisted = error.message
            else:
                self._unlisted = ""
                if time.monotonic() - began > SLOW_LIST:
                    self._forgive()
                await self._settle(found)
                if free and self.draining:
                    self.say(f"{', '.join(sorted(self.draining))}: whoever drained that is gone; in rotation again")
                    self._drain(list(self.draining), drain=False)
                if not found and self.record.until is not None and time.time() > self.record.until:
                    self.say("the fleet's time is over, and no worker is left")
                    self.over = True
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._poke.wait(), ROSTER_EVERY)

    def _forgive(self) -> None:
        """While the platform can't be asked, this machine's own network may be what fails: nobody is lost by that."""
        for member in self.members.values():
            member.forgive()

    def _listed(self, here: list[str]) -> list[Deployment]:
        """Who belongs to the fleet. ``here`` are the sandboxes of members: who isn't listed is asked for by name.

        One list with a gap must not cut off a worker's requests, nor bring another up in its place.
        """
        sandboxes = self.context.sandboxes(self.record.place)
        listed = sandboxes.deployments()
        missed = [sandboxes.find(one) for one in set(here) - {one.sandbox_id for one in listed}]
        found = [*listed, *(one for one in missed if one is not None)]
        return [one for one in found if one.fleet == self.record.name and one.state not in GONE]

    async def _settle(self, found: list[Deployment]) -> None:
        """Brings the members in line with what the platform lists."""
        listed = {one.name: one for one in found}
        for name in [name for name in self.members if name not in listed]:
            self._leave(name, "it is gone")
        for name, deployment in listed.items():
            member = self.members.get(name)
            if member is not None and member.deployment.sandbox_id != deployment.sandbox_id:
                self._leave(name, "another sandbox has its name")
                member = None
            if member is not None:
                member.deployment = deployment
                if deployment.state != "started":
                    self._judge(member, Health(HealthState.GONE, deployment.error or deployment.state))
            elif deployment.state == "started":
                try:
                    endpoint = await self.thread(partial(open_endpoint, self.context, deployment))
                except GpuserveError as error:
                    self.say(f"{name} can't be reached: {error.message}")
                else:
                    self._join(deployment, Upstream(endpoint))
        self.publish()
        self.replacing.look(found)

    def _join(self, deployment: Deployment, upstream: Upstream, *, presumed: bool = False) -> None:
        """``presumed``: it was well before this process began, and is taken to be until it shows otherwise."""

        def renew() -> Upstream:
            return Upstream(open_endpoint(self.context, deployment))

        way = Way(deployment.name, upstream, renew, pooled=True, pause=1.0)
        self.injector.ways[deployment.name] = way
        member = self.members[deployment.name] = Member(deployment, way)
        if presumed:
            member.well, member.ever_well, member.state = True, True, "ready"
            self.injector.healthy.add(deployment.name)
        self.say(f"{deployment.name} has joined")

    def _leave(self, name: str, why: str) -> None:
        member = self.members.pop(name)
        self.injector.healthy.discard(name)
        self.publish()
        self.injector.ways.pop(name, None)
        self.draining.discard(name)
        cut = member.way.cut()
        self.say(f"{name} has left: {why}" + (f"; {cut} requests were cut off" if cut else ""))

    # -- how they are ----------------------------------------------------------------------------------------------

    async def _probe_loop(self) -> None:
        under_way: dict[str, asyncio.Task[None]] = {}
        while True:
            for name, member in self.members.items():
                if name not in under_way or under_way[name].done():
                    if name in under_way:
                        under_way.pop(name).result()
                    under_way[name] = asyncio.create_task(self._probe(member))
            for name in [name for name in under_way if name not in self.members]:
                under_way.pop(name)
            await asyncio.sleep(PROBE_EVERY)

    async def _probe(self, member: Member) -> None:
        used, began = member.way.upstream, time.monotonic()
        health = await self.thread(lambda: _look(used, member.deployment))
        if health.ready and time.monotonic() - began < QUICK:
            self._heard[member.name] = time.monotonic()
        if health.state is HealthState.REFUSED and await member.way.renewed(used) is not None:
            health = await self.thread(lambda: _look(member.way.upstream, member.deployment))
        if self.members.get(member.name) is not member:
            return
        self._judge(member, health, doubt=health.status is None and not self._heard_others(member, began))
        if may_have_ended(health) and member.to_be_asked_for(ASK_AGAIN if member.ever_well else ASK_AGAIN_BOOTING):
            ended = await self.thread(partial(end_of, self.context, member.deployment, member.booting_for))
            if ended and self.members.get(member.name) is member and not self._booted_by_somebody(member):
                member.ended = ended
                self._judge(member, health)
                self._poke.set()

    def _booted_by_somebody(self, member: Member) -> bool:
        """Whether it is just being brought up: whoever does that sees to its failure too."""
        return not member.ever_well and (member.name in self.replacing.starting or taken(self.record.name))

    def _heard_others(self, member: Member, since: float) -> bool:
        """Whether another worker answered quickly since then: if all are silent or slow, that is no one's own doing."""
        return any(at >= since for name, at in self._heard.items() if name != member.name)

    def _judge(self, member: Member, health: Health, *, doubt: bool = False) -> None:
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
        if health.state in (HealthState.GONE, HealthState.REFUSED):
            self._poke.set()

    def publish(self) -> None:
        """Writes the gateway's list of workers, if it has changed: those that were well once and aren't leaving.

        Whether one of them is well now is what the injector says on its health route.
        """
        url = f"http://127.0.0.1:{self.record.injector_port}/w"
        names = sorted(name for name, one in self.members.items() if one.ever_well and name not in self.draining)
        text = json.dumps({"version": 1, "workers": [{"url": f"{url}/{name}"} for name in names]})
        if text != self._manifest:
            write_private(self._place / MANIFEST, text)
            self._manifest = text

    # -- orders ----------------------------------------------------------------------------------------------------

    async def order(self, name: str, fields: Mapping[str, object]) -> Mapping[str, object]:
        """``status``; ``poke``: look at the list now; ``drain``, ``undrain`` with ``names``; ``reload`` the record."""
        match name:
            case "status":
                return self.status()
            case "poke":
                self.poke()
            case "drain" | "undrain":
                self._drain(list(map(str, cast("list[object]", fields["names"]))), drain=name == "drain")
            case "reload":
                self.record = load(self.record.name) or self.record
                self.replacing.reset()
                self.poke()
            case _:
                raise UsageError(f"no order {name!r}")
        return self.status()

    def _drain(self, names: list[str], *, drain: bool) -> None:
        here = {name for name in names if name in self.members}
        self.draining = self.draining | here if drain else self.draining - here
        self.publish()

    def status(self) -> dict[str, object]:
        """All members, for ``fleet status``."""
        rows = [one.as_dict(draining=name in self.draining) for name, one in self.members.items()]
        starting = sorted(self.replacing.starting)
        return {
            "workers": rows,
            "keep": self.record.keep,
            "starting": starting,
            "problem": self.problem,
            "pid": os.getpid(),
        }

    # -- inner -----------------------------------------------------------------------------------------------------

    async def thread(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, called in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def poke(self) -> None:
        """Has the list of workers read now."""
        self._poke.set()

    def say(self, text: str) -> None:
        """Notes something in the log."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201  # the daemon's log


def _look(upstream: Upstream, deployment: Deployment) -> Health:
    with Prober(upstream.endpoint, labels.routes(deployment.labels).health, timeout=PROBE_TIMEOUT) as prober:
        return prober.probe()


def _remembered(context: Context, record: Record) -> list[tuple[Deployment, Upstream]]:
    """What the cache still holds of the fleet: with that a keeper that was killed serves again at once."""
    known = [one for one in context.cache.all() if one.place == record.place and one.deployment.fleet == record.name]
    return [(one.deployment, Upstream(one.endpoint)) for one in known if one.endpoint is not None]


async def _orphaned() -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110  # the kernel tells no event of that
        await asyncio.sleep(1)


def main() -> None:
    """Runs until SIGTERM."""
    told = json.load(sys.stdin)
    record = load(str(told["name"]))
    if record is None:
        raise SystemExit("this fleet is not known here")
    from gpuserve.settings import Settings
    from gpuserve.state import Cache

    settings = Settings(**told["settings"])
    context = Context(settings, Cache(), local=record.place == "local")
    keeper = Keeper(record, context, socket.socket(fileno=int(told["listener"])))
    asyncio.run(keeper.run())
    if keeper.over:
        forget(record.name)
    sys.stdout.flush()
    os._exit(
        OVER if keeper.over else 0
    )  # a thread that brings up a worker would hold it for minutes; what it made is in the list of workers


if __name__ == "__main__":
    main()
