"""The keeper's process: the injector, and the loops that look after a fleet's workers.

    python -m gpuserve.serving.fleet.keeper

Its orders come by ``POST /control/…`` on the injector's port; see ``Keeper.order``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import cast

from gpuserve.client.health import Health, HealthState
from gpuserve.errors import GpuserveError, UsageError
from gpuserve.proxy.injector import Injector
from gpuserve.proxy.upstream import Upstream
from gpuserve.records import GONE, Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.fleet.gateway import MANIFEST
from gpuserve.serving.fleet.lost import end_of, may_have_ended
from gpuserve.serving.fleet.member import Member
from gpuserve.serving.fleet.record import Record, directory, forget, load
from gpuserve.serving.fleet.replace import Replacing
from gpuserve.serving.fleet.supervisor import OVER
from gpuserve.serving.fleet.turn import taken
from gpuserve.serving.fleet.watch import Watch
from gpuserve.serving.reach import open_endpoint

#: Seconds between two looks at the platform's list.
ROSTER_EVERY = 4.0
#: Seconds after which a list has come so late that the platform, or the way to it, must have failed meanwhile.
SLOW_LIST = 8.0
#: Seconds within which a worker answers where nothing is slow.
QUICK = 1.0
#: Seconds between two questions whether the engine of a worker at which nothing listens has ended.
ASK_AGAIN, ASK_AGAIN_BOOTING = 2.0, 5.0


class Keeper(Watch):
    """Looks after one fleet, by the platform's list. ``run`` goes on until SIGTERM."""

    def __init__(self, record: Record, context: Context, listener: socket.socket) -> None:
        self.record = record
        self.context = context
        self.problem = ""
        self.over = False
        self._unlisted = ""
        self._heard: dict[str, float] = {}
        self._poke = asyncio.Event()
        injector = Injector(listener=listener, key=record.key, control_key=record.control_key, control=self.order)
        super().__init__(injector, directory(record.name) / MANIFEST, f"http://127.0.0.1:{record.injector_port}")
        self.replacing = Replacing(self)

    async def run(self) -> None:
        """Serves until SIGTERM, until the supervisor is gone, or until the fleet's time is over."""
        for deployment, upstream in _remembered(self.context, self.record):
            self._admit(deployment, upstream, presumed=True)
        await self.serve(self._roster_loop())

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
            self.leave(name, "it is gone")
        for name, deployment in listed.items():
            member = self.members.get(name)
            if member is not None and member.deployment.sandbox_id != deployment.sandbox_id:
                self.leave(name, "another sandbox has its name")
                member = None
            if member is not None:
                member.deployment = deployment
                if deployment.state != "started":
                    self.judge(member, Health(HealthState.GONE, deployment.error or deployment.state))
            elif deployment.state == "started":
                try:
                    endpoint = await self.thread(partial(open_endpoint, self.context, deployment))
                except GpuserveError as error:
                    self.say(f"{name} can't be reached: {error.message}")
                else:
                    self._admit(deployment, Upstream(endpoint))
        self.publish()
        self.replacing.look(found)

    def _admit(self, deployment: Deployment, upstream: Upstream, *, presumed: bool = False) -> None:
        def renew() -> Upstream:
            return Upstream(open_endpoint(self.context, deployment))

        self.join(deployment, upstream, renew, presumed=presumed)

    # -- how they are ----------------------------------------------------------------------------------------------

    async def probe(self, member: Member) -> None:
        """As ``Watch.probe``; renews a refused credential, and where nothing listens asks if the engine has ended."""
        used, began = member.way.upstream, time.monotonic()
        health = await self.look(member)
        if health.ready and time.monotonic() - began < QUICK:
            self._heard[member.name] = time.monotonic()
        if health.state is HealthState.REFUSED and await member.way.renewed(used) is not None:
            health = await self.look(member)
        if self.members.get(member.name) is not member:
            return
        self.judge(member, health, doubt=health.status is None and not self._heard_others(member, began))
        if may_have_ended(health) and member.to_be_asked_for(ASK_AGAIN if member.ever_well else ASK_AGAIN_BOOTING):
            ended = await self.thread(partial(end_of, self.context, member.deployment, member.booting_for))
            if ended and self.members.get(member.name) is member and not self._booted_by_somebody(member):
                member.ended = ended
                self.judge(member, health)
                self._poke.set()

    def _booted_by_somebody(self, member: Member) -> bool:
        """Whether it is just being brought up: whoever does that sees to its failure too."""
        return not member.ever_well and (member.name in self.replacing.starting or taken(self.record.name))

    def _heard_others(self, member: Member, since: float) -> bool:
        """Whether another worker answered quickly since then: if all are silent or slow, that is no one's own doing."""
        return any(at >= since for name, at in self._heard.items() if name != member.name)

    def judge(self, member: Member, health: Health, *, doubt: bool = False) -> None:
        """As ``Watch.judge``; the platform's list is read at once where a sandbox may be gone or refuses."""
        super().judge(member, health, doubt=doubt)
        if health.state in (HealthState.GONE, HealthState.REFUSED):
            self._poke.set()

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

    def poke(self) -> None:
        """Has the list of workers read now."""
        self._poke.set()


def _remembered(context: Context, record: Record) -> list[tuple[Deployment, Upstream]]:
    """What the cache still holds of the fleet: with that a keeper that was killed serves again at once."""
    known = [one for one in context.cache.all() if one.place == record.place and one.deployment.fleet == record.name]
    return [(one.deployment, Upstream(one.endpoint)) for one in known if one.endpoint is not None]


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
