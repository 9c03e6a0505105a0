"""What a fleet bears, with many at once: each test ends parts of it or changes its size, and counts what was lost.

The numbers that a run prints (``pytest -m slow -s``) are those of the closing note.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.fleetbench import SCRIPTED, UGLY, Crowd, Fleet, ask, customers, fleet_of, kill, report, scripted_shell
from e2e.fleetbench import shell as shell  # a fixture
from e2e.usershell import Shell, eventually

pytestmark = pytest.mark.slow
TOKENS: set[str] = set()


@pytest.fixture(scope="module")
def fleet(shell: Shell) -> Iterator[Fleet]:
    with fleet_of(shell, "f", *SCRIPTED, "--replicas", "3", "--keep", "3", "--lost-after", "10m") as made:
        yield made


@pytest.fixture(autouse=True)
def _noted(shell: Shell) -> Iterator[None]:
    """The tokens of all workers that there ever were: the host forgets those that are gone."""
    _note(shell)
    yield
    _note(shell)


def _note(shell: Shell) -> None:
    for file in shell.home.rglob("store.json"):
        TOKENS.update(one["token"] for one in json.loads(file.read_text())["sandboxes"].values())


def test_a_worker_that_is_killed_idle_costs_nothing_and_is_replaced(fleet: Fleet) -> None:
    async def story() -> None:
        async with asyncio.timeout(120), Crowd(fleet, 8, delay=0.05) as crowd:
            await asyncio.sleep(1)
            worker, began = min(fleet.rotation()), time.monotonic()
            kill(fleet.engine(worker))
            await asyncio.to_thread(fleet.wait_for, 3, without=worker, within=60)
            report("killed, replaced", crowd, began)
        assert crowd.bad == []

    asyncio.run(story())


def test_what_waits_for_a_worker_that_hangs_is_asked_of_another(fleet: Fleet) -> None:
    async def story() -> None:
        async with asyncio.timeout(120), Crowd(fleet, 8, delay=0.05) as crowd:
            await asyncio.sleep(1)
            worker, began = min(fleet.rotation()), time.monotonic()
            hung = fleet.engine(worker)
            kill(hung, signal.SIGSTOP)
            try:
                await asyncio.to_thread(fleet.wait_for, 2, without=worker)
                report("hung, out of rotation", crowd, began)
            finally:
                kill(hung, signal.SIGCONT)
            back = time.monotonic()
            await asyncio.to_thread(eventually, lambda: len(fleet.rotation()) == 3, within=10)
            report("awake again, back in rotation", crowd, back)
        assert crowd.bad == []

    asyncio.run(story())


def test_an_evicted_sandbox_is_replaced(fleet: Fleet) -> None:
    async def story() -> None:
        from e2e.scriptedmodel import client

        sandbox = client(fleet.shell).get(min(fleet.rotation()))
        async with asyncio.timeout(120), Crowd(fleet, 8, delay=0.05) as crowd:
            await asyncio.sleep(1)
            began = time.monotonic()
            await asyncio.to_thread(sandbox.delete)
            await asyncio.to_thread(fleet.wait_for, 3, without=sandbox.name, within=60)
            report("evicted, replaced", crowd, began)
        assert crowd.bad == []

    asyncio.run(story())


def test_a_gateway_that_is_killed_is_back_at_once(fleet: Fleet) -> None:
    """What it had in its hands is lost for who asks once, as each sees; what comes after that waits and is answered."""

    async def story() -> None:
        async with customers(fleet) as client:
            inside = [asyncio.create_task(ask(client, fleet, delay=2)) for _ in range(8)]
            await asyncio.to_thread(
                eventually, lambda: sum(one["in_flight"] for one in fleet.workers().values()) == len(inside)
            )
            began = time.monotonic()
            kill([fleet.processes()["gateway"]])
            told = await asyncio.gather(*inside)
            assert [one for one in told if one.status == 0] == told
            assert (await ask(client, fleet)).good
            await asyncio.to_thread(fleet.wait_for, 3, within=15)
            seconds = time.monotonic() - began
            print(f"\ngateway killed: {len(told)} lost with it, all seen; back after {seconds:.1f} s")  # noqa: T201  # as above

    asyncio.run(story())


def test_a_keeper_that_is_killed_loses_nothing(fleet: Fleet) -> None:
    """With one worker's token wrong in what it remembers: it asks the platform for the right one."""
    cache = fleet.shell.home / "cache" / "gpuserve" / "deployments.json"
    worker = min(fleet.rotation())
    entries = json.loads(cache.read_text())["deployments"].values()
    right = next(
        one["endpoint"]["headers"]["x-daytona-preview-token"] for one in entries if one["deployment"]["name"] == worker
    )
    cache.write_text(cache.read_text().replace(right, "x" * len(right)))

    async def story() -> None:
        async with asyncio.timeout(120), Crowd(fleet, 50, delay=0.2) as crowd:
            await asyncio.sleep(1)
            began = time.monotonic()
            kill([fleet.processes()["keeper"]])
            await asyncio.to_thread(eventually, lambda: right in cache.read_text())
            await asyncio.to_thread(fleet.wait_for, 3, within=10)
            report("injector killed, a token wrong", crowd, began)
        assert crowd.bad == []

    asyncio.run(story())


def test_the_supervisor_takes_its_processes_along_and_all_starts_again(fleet: Fleet) -> None:
    processes = fleet.processes()
    kill([processes["supervisor"]])
    eventually(lambda: not any(one.is_running() for one in processes.values()))
    assert fleet.status()["gateway"] == "stopped"
    fleet.shell.ok("fleet", "start", "f")
    fleet.wait_for(3)


def test_from_three_to_five_to_two_under_fifty_requests(fleet: Fleet) -> None:
    async def story() -> None:
        async with asyncio.timeout(180), Crowd(fleet, 25, delay=0.5) as whole:
            async with Crowd(fleet, 25, stream=True, pieces=10, pause=0.1) as streamed:
                began = time.monotonic()
                for size in (5, 2):
                    await asyncio.to_thread(fleet.shell.ok, "fleet", "scale", "f", str(size))
                    assert len(await asyncio.to_thread(fleet.wait_for, size)) == size
            report("3 to 5 to 2, streams", streamed, began)
        report("3 to 5 to 2, whole answers", whole, began)
        assert whole.bad == []
        assert streamed.bad == []

    asyncio.run(story())
    assert fleet.status()["keep"] == 2


def test_a_rolling_change_loses_nothing(fleet: Fleet) -> None:
    before = fleet.rotation()

    async def story() -> None:
        async with asyncio.timeout(180), Crowd(fleet, 8, delay=0.1) as crowd:
            began = time.monotonic()
            rolled = ("fleet", "roll", "f", "--json", "--", "--max-model-len", "1234")
            data = (await asyncio.to_thread(fleet.shell.ok, *rolled)).data
            report(f"rolled {len(before)}", crowd, began)
        assert crowd.bad == []
        assert {one["name"] for one in data["went"]} == before
        assert set(data["came"]) == fleet.rotation()

    asyncio.run(story())
    for worker in fleet.rotation():
        assert any("1234" in one.cmdline() for one in fleet.engine(worker))
    assert fleet.record["request"]["engine_args"] == ["--max-model-len", "1234"]


def test_no_credential_was_told_while_all_that_went_wrong(fleet: Fleet) -> None:
    """Not of any worker that there ever was, nor the account's: to no client, in no log, no metric, no list."""
    import httpx

    tokens = {*TOKENS, fleet.shell.ok("host", "status", "--show-key", "--json").data["api_key"]}
    assert len(tokens) > len(fleet.rotation()) + 1
    for worker in fleet.workers():
        fleet.behave(worker, "401")

    async def story() -> None:
        async with customers(fleet) as client:
            assert not (await ask(client, fleet)).good

    asyncio.run(story())
    for worker in fleet.workers():
        fleet.behave(worker, "")
    ours = {"Authorization": f"Bearer {fleet.key}"}
    told = [*UGLY, fleet.log, json.dumps(fleet.status()), httpx.get(f"{fleet.base}/workers", headers=ours).text]
    told.append(httpx.get(f"http://127.0.0.1:{fleet.record['metrics_port']}/metrics").text)
    assert UGLY
    assert not [text for text in told for token in tokens if token in text]
    assert not [text for text in UGLY if "/preview/" in text or "<html" in text]  # addresses, and sign-in pages


def test_enough_is_enough_and_too_few_leave_nothing(fleet: Fleet) -> None:
    """Two of three get a GPU: the third waits in vain."""
    scarce = ("--gpu", "RTX-PRO-6000")  # the host has two
    shell, crowded = fleet.shell, (*SCRIPTED, *scarce, "--replicas", "3", "--timeout", "20s", "--name", "g")
    before = {row["name"] for row in shell.live()}
    done = shell.run("fleet", "up", *crowded, "--json")
    assert (done.status, done.error["code"]) == (6, "no_capacity"), done
    assert "1 of 3 workers failed" in done.error["message"]
    assert {row["name"] for row in shell.live()} == before
    assert not (fleet.home.parent / "g").exists()
    data = shell.ok("fleet", "up", *crowded, "--min-ready", "2", "--json").data
    assert (len(data["workers"]), len(data["failed"])) == (2, 1)
    shell.ok("fleet", "down", "g")
    assert {row["name"] for row in shell.live()} == before


def test_ctrl_c_leaves_nothing(fleet: Fleet) -> None:
    shell = fleet.shell
    before = {row["name"] for row in shell.live()}
    slow = ("--label", "host/fault=slow-boot=30")
    process = shell.start("fleet", "up", *SCRIPTED, *slow, "--replicas", "3", "--name", "g", "--json")
    eventually(lambda: len(shell.live()) == len(before) + 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, (out, err)
    assert {row["name"] for row in shell.live()} == before
    assert not (fleet.home.parent / "g").exists()


def test_a_fleet_ends_with_down_all_and_with_its_time(tmp_path: Path) -> None:
    """Whatever deletes its workers for good ends the processes too, and nothing is replaced then."""
    with scripted_shell(tmp_path) as shell:
        kept = ("--replicas", "1", "--keep", "1")
        for name, more in (("all", ()), ("timed", ("--ttl", "1m"))):
            fleet = Fleet(shell, name, shell.ok("fleet", "up", "--name", name, *SCRIPTED, *kept, *more, "--json").data)
            processes = list(fleet.processes().values())
            if name == "all":
                assert len(shell.ok("down", "--all", "--yes", "--json").data) == 1
            eventually(lambda: not any(one.is_running() for one in processes), within=150, every=1)  # noqa: B023
            assert shell.live() == []
            assert not fleet.home.exists()
