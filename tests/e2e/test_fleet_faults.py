"""A fleet while its workers fail: nobody's request is lost, and who is well again comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from e2e.fleetbench import SCRIPTED, Crowd, Fleet, ask, customers, fleet_of, kill, shares
from e2e.fleetbench import shell as shell  # a fixture
from e2e.usershell import Shell, eventually


@pytest.fixture(scope="module")
def fleet(shell: Shell) -> Iterator[Fleet]:
    with fleet_of(shell, "f", *SCRIPTED, "--replicas", "3") as made:
        yield made


def under_load(fleet: Fleet, fault: Callable[[], Awaitable[None]], **more: object) -> Crowd:
    """What a crowd was told before, while and after ``fault`` happened."""

    async def story() -> Crowd:
        async with asyncio.timeout(120), Crowd(fleet, 8, delay=0.05, **more) as crowd:
            await asyncio.sleep(1)
            await fault()
        return crowd

    return asyncio.run(story())


def test_questions_with_the_same_beginning_go_to_the_same_worker(fleet: Fleet) -> None:
    found = asyncio.run(shares(fleet, groups=12, each=10, at_once=8, delay=0.05))
    main = [counts.most_common(1)[0][1] / counts.total() for counts in found.values()]
    assert sum(main) / len(main) >= 0.9, found
    loads = [sum(counts[worker] for counts in found.values()) for worker in fleet.rotation()]
    assert len(loads) == 3
    assert max(loads) <= 60, loads


@pytest.mark.parametrize("answer", ["503", pytest.param("401", marks=pytest.mark.slow)])
def test_a_worker_that_refuses_everything_costs_nobody_anything(fleet: Fleet, answer: str) -> None:
    worker = min(fleet.rotation())
    asked = Path(fleet.shell.env["BEHAVIOUR"], "asked")
    sandbox = fleet.workers()[worker]["sandbox_id"]

    async def fault() -> None:
        before = asked.stat().st_size  # noqa: ASYNC240  # a look at a small file
        fleet.behave(worker, answer)
        await asyncio.to_thread(eventually, lambda: sandbox in asked.read_text()[before:])
        await asyncio.sleep(1)

    crowd = under_load(fleet, fault)
    fleet.behave(worker, "")
    assert crowd.told
    assert crowd.bad == []
    fleet.wait_for(3, within=10)


@pytest.mark.slow
def test_a_sick_worker_leaves_the_rotation_and_comes_back(fleet: Fleet) -> None:
    worker = min(fleet.rotation())

    async def fault() -> None:
        fleet.behave(worker, "sick")
        await asyncio.to_thread(fleet.wait_for, 2, without=worker)
        fleet.behave(worker, "")
        await asyncio.to_thread(fleet.wait_for, 3, within=10)

    assert under_load(fleet, fault).bad == []


@pytest.mark.slow
def test_a_sign_in_page_never_reaches_a_client(fleet: Fleet) -> None:
    """The platform answers for one worker with a redirect to its login, as for an unknown token."""
    worker = min(fleet.rotation())
    sandbox = sandbox_of(fleet, worker)
    labels = dict(sandbox.labels)

    async def fault() -> None:
        await asyncio.to_thread(sandbox.set_labels, {**labels, "host/fault": "login-redirect"})
        await asyncio.to_thread(fleet.wait_for, 2, without=worker)
        await asyncio.to_thread(sandbox.set_labels, labels)
        await asyncio.to_thread(fleet.wait_for, 3, within=10)

    crowd = under_load(fleet, fault)
    assert crowd.bad == []
    assert not [one for one in crowd.told if "<html" in one.text]


def test_a_stream_that_loses_its_worker_ends_with_an_error_that_can_be_seen(fleet: Fleet) -> None:
    async def story() -> None:
        async with customers(fleet) as client:
            question = asyncio.create_task(ask(client, fleet, stream=True, pieces=200, pause=0.1))
            busy: str = await asyncio.to_thread(
                eventually, lambda: next((name for name, one in fleet.workers().items() if one["in_flight"]), "")
            )
            kill(fleet.engine(busy))
            told = await asyncio.wait_for(question, 20)
            assert not told.good
            assert told.broken or '"error"' in told.text, told
            assert "0 " in told.text

    asyncio.run(story())
    assert len(fleet.wait_for(2)) == 2


@pytest.mark.slow
def test_a_dead_worker_can_be_taken_out_and_another_put_in(fleet: Fleet) -> None:
    """The platform still lists it, its engine is dead. The test above may have killed one."""
    if len(fleet.rotation()) == 3:
        kill(fleet.engine(min(fleet.rotation())))
        fleet.wait_for(2)
    dead = next(name for name, one in fleet.workers().items() if not one["in_rotation"])
    assert fleet.shell.ok("fleet", "remove", "f", dead, "--json").data["went"][0]["deleted"]
    assert len(fleet.shell.ok("fleet", "scale", "f", "3", "--json").data["came"]) == 1
    assert len(fleet.wait_for(3)) == 3


def sandbox_of(fleet: Fleet, worker: str):  # type: ignore[no-untyped-def]  # the SDK's sandbox, imported late
    from e2e.scriptedmodel import client

    return client(fleet.shell).get(worker)
