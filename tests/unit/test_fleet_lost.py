"""Who is lost, whose turn it is, and what a fleet can't do: no process of a fleet is needed for that."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from fakes.fleetparts import a_record, worker
from gpuserve.client.health import Health, HealthState
from gpuserve.errors import Conflict, UsageError
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import Endpoint
from gpuserve.serving.batch import BatchRequest, batch
from gpuserve.serving.context import Context
from gpuserve.serving.fleet import record as records
from gpuserve.serving.fleet.member import FAILURES, Member
from gpuserve.serving.fleet.replace import NOBODY, Replacing
from gpuserve.serving.fleet.turn import taken, turn
from gpuserve.serving.share import revoke, set_public, share
from gpuserve.settings import load
from gpuserve.state import Cache

if TYPE_CHECKING:
    from gpuserve.serving.fleet.keeper import Keeper

# -- who is lost -------------------------------------------------------------------------------------------------------


class House:
    """What ``Replacing`` needs of a keeper."""

    def __init__(self, tmp_path: Path, **more: object) -> None:
        self.record = a_record(keep=2, lost_after=30.0, **more)
        self.context = Context(load(None), Cache(tmp_path / "cache.json"), local=True)
        self.problem = ""
        self.said: list[str] = []
        self.pokes = 0
        self.members = {
            name: Member(worker(name), Way(name, Upstream(Endpoint(url="http://127.0.0.1:9", served_model="m/n"))))
            for name in ("f-1", "f-2")
        }
        self.listed = [replace(one.deployment, served_model="m/n") for one in self.members.values()]
        for one in self.members.values():
            one.take(Health(HealthState.READY))

    def fails(self, name: str, *, since: float) -> None:
        member = self.members[name]
        for _ in range(FAILURES):
            member.take(Health(HealthState.NOT_YET, "no answer"))
        member.failing_since = time.monotonic() - since

    def say(self, text: str) -> None:
        self.said.append(text)

    def poke(self) -> None:
        self.pokes += 1

    async def thread(self, call: Callable[[], object]) -> object:
        return await asyncio.to_thread(call)

    def lost(self) -> dict[str, str]:
        """Whom a look takes for lost, and why. The platform isn't there: nothing comes of it."""

        async def story() -> list[str]:
            replacing = Replacing(cast("Keeper", self))
            replacing.look(self.listed)
            while replacing.tasks:
                await asyncio.gather(*replacing.tasks)
            return self.said

        lines = [line for line in asyncio.run(story()) if "is lost" in line]
        return {line.split()[0]: line.partition("deleted: ")[2] for line in lines}


def test_failing_without_a_sign_is_waited_out(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.fails("f-1", since=20)
    assert house.lost() == {}
    house.fails("f-1", since=31)
    assert house.lost() == {"f-1": "it has failed for 31s: no answer"}


def test_nobody_is_lost_where_nobody_answers_unless_it_is_sure(tmp_path: Path) -> None:
    """When this machine has no network, or the platform's proxy is down, a fleet must not be deleted."""
    house = House(tmp_path)
    for name in house.members:
        house.fails(name, since=3600)
    assert house.lost() == {}
    assert house.problem == NOBODY
    house.members["f-2"].ended = "its engine ended with exit code 1"
    assert house.lost() == {"f-2": "its engine ended with exit code 1"}


def test_who_is_silent_as_all_others_are_is_not_lost(tmp_path: Path) -> None:
    house = House(tmp_path)
    for member in house.members.values():
        member.take(Health(HealthState.NOT_YET, "no answer"), doubt=True, alone=False)
        member.failing_since = time.monotonic() - 3600
        assert member.well
    assert house.lost() == {}


def test_a_failure_of_the_platform_starts_the_wait_anew(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.fails("f-1", since=3600)
    house.members["f-1"].forgive()
    assert house.lost() == {}
    assert not house.members["f-1"].well


def test_who_serves_something_else_is_left_alone(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.listed[0] = replace(house.listed[0], served_model="other", state="error")
    house.lost()
    assert [line for line in house.said if "f-1" in line.split()] == []
    assert len([line for line in house.said if "will replace" in line]) == 1  # one of two is there


def test_while_a_command_changes_a_fleet_nobody_is_replaced(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.members["f-1"].ended = "its engine ended with exit code 1"
    records.save(house.record)
    with turn("f"):
        assert house.lost() == {}
    assert list(house.lost()) == ["f-1"]


def test_what_fails_at_once_fails_once(tmp_path: Path) -> None:
    """Four workers lost at the same time, and a platform that fails once: that isn't four failures in a row."""
    house = House(tmp_path)
    house.record = replace(house.record, keep=6)

    async def story() -> None:
        replacing = Replacing(cast("Keeper", house))
        replacing.look(house.listed)
        assert len(replacing.starting) == 4
        while replacing.tasks:
            await asyncio.gather(*replacing.tasks)
        assert (replacing.starting, house.pokes) == (set(), 4)

    asyncio.run(story())
    assert "couldn't be replaced" in house.problem
    assert "given up" not in house.problem


# -- whose turn it is --------------------------------------------------------------------------------------------------


def test_one_command_at_a_time() -> None:
    records.save(a_record())
    assert not taken("f")
    with turn("f"):
        assert taken("f")
        assert not taken("other")
        with pytest.raises(Conflict, match=str(os.getpid())), turn("f"):
            pass
    assert not taken("f")
    assert records.load("f") is not None


def test_a_turn_ends_with_its_process() -> None:
    records.save(a_record())
    code = "from gpuserve.serving.fleet.turn import turn\nwith turn('f'):\n print(flush=True)\n input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert taken("f")
        process.kill()
        process.wait()
    assert not taken("f")


def test_a_turn_on_what_does_not_exist_leaves_nothing() -> None:
    with turn("new"):
        assert taken("new")
    assert not records.directory("new").exists()


# -- where a deployment is wanted --------------------------------------------------------------------------------------


def test_what_a_fleet_on_this_machine_cannot_do_says_so(tmp_path: Path) -> None:
    records.save(a_record())
    context = Context(load(None), Cache(tmp_path / "cache.json"), local=True)
    asked = BatchRequest(source="rows.txt")
    for what in (
        lambda: share(context, "f", 60),
        lambda: set_public(context, "f", public=True),
        lambda: revoke(context, "f", None),
        lambda: batch(context, "f", asked, in_sandbox=True, emit=lambda _: None),
    ):
        with pytest.raises(UsageError, match="f is a fleet: its gateway"):
            what()
