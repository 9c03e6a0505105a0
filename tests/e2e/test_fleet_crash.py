"""What a fleet bears beside its workers' failures: commands that are killed or come at once, tokens that change."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from e2e.fleetbench import SCRIPTED, Crowd, Fleet, ask, customers, fleet_of, kill, report
from e2e.fleetbench import shell as shell  # a fixture
from e2e.scriptedmodel import client
from e2e.usershell import Shell, eventually

pytestmark = pytest.mark.slow
#: A worker of such a size boots for as long as a command needs to be killed meanwhile.
SLOW_BOOT = "host/fault=slow-boot=15"


@pytest.fixture(scope="module")
def fleet(shell: Shell) -> Iterator[Fleet]:
    slow = ("--label", SLOW_BOOT)
    with fleet_of(shell, "f", *SCRIPTED, *slow, "--replicas", "2", "--keep", "2", "--lost-after", "10m") as made:
        yield made


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def listed(shell: Shell) -> Callable[[], set[str]]:
    """The names of the sandboxes that the platform lists, without the start of a command."""
    daytona = client(shell)
    return lambda: {str(one.name) for one in daytona.list()}


def test_a_scale_that_is_killed_is_brought_to_its_end(fleet: Fleet, listed: Callable[[], set[str]]) -> None:
    """While it ran nobody else changed the fleet; then the keeper starts what is missing, once."""
    process = fleet.shell.start("fleet", "scale", "f", "3", "--json")
    eventually(lambda: len(listed()) == 3, within=90)
    other = fleet.shell.run("fleet", "scale", "f", "1", "--json")
    assert (other.status, other.error["code"]) == (5, "conflict"), other
    assert str(process.pid) in other.error["message"]
    end(process, signal.SIGKILL)
    assert fleet.status()["keep"] == 3
    # The sandbox that it had asked for never gets an engine: who would have started it is gone.
    fleet.wait_for(3, within=90)
    assert "its engine was never started" in fleet.log
    fleet.shell.ok("fleet", "scale", "f", "2", "--json")
    assert len(fleet.wait_for(2)) == 2
    assert listed() == fleet.rotation()


def test_a_worker_that_was_drained_by_a_command_that_is_killed_comes_back(fleet: Fleet) -> None:
    async def story() -> None:
        async with customers(fleet) as session:
            question = asyncio.create_task(ask(session, fleet, stream=True, pieces=400, pause=0.1))
            busy: str = await asyncio.to_thread(
                eventually, lambda: next((name for name, one in fleet.workers().items() if one["in_flight"]), "")
            )
            process = fleet.shell.start("fleet", "remove", "f", busy, "--json")
            await asyncio.to_thread(fleet.wait_for, 1, without=busy)
            assert fleet.workers()[busy]["state"] == "draining"
            await asyncio.to_thread(end, process, signal.SIGKILL)
            assert busy in await asyncio.to_thread(fleet.wait_for, 2)
            assert (await question).good  # a drained worker goes on with what it has

    asyncio.run(story())


def test_a_token_that_changes_is_asked_for_anew(fleet: Fleet) -> None:
    """As when somebody revokes a preview token: from one moment to the next the platform knows another one."""
    shell, worker = fleet.shell, min(fleet.rotation())
    sandbox = fleet.workers()[worker]["sandbox_id"]
    store = next(Path(shell.home).rglob("store.json"))
    cache = shell.home / "cache" / "gpuserve" / "deployments.json"
    old = json.loads(cache.read_text())["deployments"].values()
    token = next(
        one["endpoint"]["headers"]["x-daytona-preview-token"] for one in old if one["deployment"]["name"] == worker
    )

    async def story() -> None:
        async with asyncio.timeout(120), Crowd(fleet, 8, delay=0.05) as crowd:
            await asyncio.sleep(1)
            await asyncio.to_thread(change_token, shell, store, token, "n" * 32)
            began = time.monotonic()
            await asyncio.to_thread(eventually, lambda: "n" * 32 in cache.read_text())
            await asyncio.to_thread(fleet.wait_for, 2, within=10)
            report("token rotated and the platform back", crowd, began)
        assert crowd.bad == []

    asyncio.run(story())
    assert fleet.workers()[worker]["sandbox_id"] == sandbox


def change_token(shell: Shell, store: Path, old: str, new: str) -> None:
    """Has the host find another token in its books: it is killed, as a crash would, and starts again."""
    kill([psutil.Process(int(shell.ok("host", "status", "--json").data["pid"]))])
    text = store.read_text()
    assert old in text
    store.write_text(text.replace(old, new))
    shell.ok("host", "start")


def test_a_worker_that_fails_without_a_sign_is_replaced_after_its_time(fleet: Fleet) -> None:
    """Its engine lives and says nothing. As long as all are like that none is replaced: it may be the way there."""
    kept = ("--replicas", "2", "--keep", "2", "--lost-after", "3s", "--name", "h")
    shell = fleet.shell
    other = Fleet(shell, "h", shell.ok("fleet", "up", *SCRIPTED, *kept, "--json").data)
    first, second = sorted(other.rotation())
    for name in (first, second):
        other.behave(name, "sick")
    eventually(lambda: (other.status()["problem"] or "").startswith("no worker answers"))
    assert {first, second} == set(other.workers())
    other.behave(second, "")
    came = other.wait_for(2, without=first, within=60)
    assert second in came
    assert not other.status()["problem"]
    assert len(shell.ok("down", "h", "--json").data) == 2  # a fleet's name, where deployments are named
    assert not other.home.exists()


def test_a_down_while_a_worker_is_being_replaced_leaves_nothing(fleet: Fleet, listed: Callable[[], set[str]]) -> None:
    shell, before = fleet.shell, listed()
    kept = ("--label", SLOW_BOOT, "--replicas", "1", "--keep", "1", "--name", "g")
    other = Fleet(shell, "g", shell.ok("fleet", "up", *SCRIPTED, *kept, "--json").data)
    processes = list(other.processes().values())
    kill(other.engine(*other.rotation()))
    eventually(lambda: "will replace a lost worker" in other.log)
    shell.ok("fleet", "down", "g", "--drain", "0s")
    assert listed() == before
    assert not any(one.is_running() for one in processes)
