"""Parts of a fleet are killed under many requests, asked by OpenAI's own client and by ``gpuserve batch``.

Nothing is lost but streams that were cut in the middle, and who reads one of those sees it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from e2e.fleetbench import SCRIPTED, Fleet, fleet_of, kill
from e2e.fleetbench import shell as shell  # a fixture
from e2e.fleetclients import Clients
from e2e.usershell import Shell, eventually

pytestmark = pytest.mark.slow
AT_ONCE = 50
KILLS = 4


@pytest.fixture(scope="module")
def fleet(shell: Shell) -> Iterator[Fleet]:
    with fleet_of(shell, "f", *SCRIPTED, "--replicas", "3") as made:
        yield made


def in_flight(fleet: Fleet) -> int:
    return sum(one["in_flight"] for one in fleet.workers().values())


@pytest.mark.parametrize("part", ["gateway", "keeper"])
def test_whoever_asks_again_as_usual_loses_nothing(fleet: Fleet, part: str) -> None:
    """Streams wait before they begin, so that some are killed before that: those are asked again too."""
    asked = {"delay": 0.3, "pieces": 10, "pause": 0.05}
    said = "".join(f"{number} " for number in range(10))
    fleet.wait_for(3)

    async def story() -> None:
        half = AT_ONCE // 2
        async with asyncio.timeout(240), Clients(fleet, whole=half, streams=half, said=said, asked=asked) as crowd:
            seconds = []
            for _ in range(KILLS):
                await crowd.more(3 * AT_ONCE)
                victim = fleet.processes()[part]
                await asyncio.to_thread(eventually, lambda: in_flight(fleet) > AT_ONCE // 2 and crowd.begun, every=0.01)
                began = time.monotonic()
                kill([victim])
                await asyncio.to_thread(eventually, lambda: not victim.is_running(), every=0.01)  # noqa: B023
                await asyncio.to_thread(fleet.wait_for, 3)
                seconds.append(f"{time.monotonic() - began:.1f}")
            await crowd.more(3 * AT_ONCE)
        toll = crowd.toll
        print(  # noqa: T201  # the numbers
            f"\n{part} killed {KILLS} times, all in rotation again after {', '.join(seconds)} s: {toll.whole} whole"
            f" answers, {toll.streams} streams, {len(toll.cut)} cut: {Counter(toll.cut)}"
        )
        assert (toll.lost, toll.short) == ([], [])
        assert toll.cut  # it was felt

    asyncio.run(story())


def test_a_batch_answers_each_row_once_while_the_gateway_is_killed(fleet: Fleet) -> None:
    rows, directory = 600, fleet.shell.home
    lines = [
        {
            "custom_id": f"row-{row}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"row {row}"}], "delay": 0.5},
        }
        for row in range(rows)
    ]
    (directory / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    output = directory / "out.jsonl"
    argv = ("batch", "in.jsonl", "-o", "out.jsonl", "--id", "f", "--concurrency", str(AT_ONCE), "--json")
    process = fleet.shell.start(*argv)
    killed = 0
    for goal in (20, 200, 400):
        eventually(lambda: output.exists() and output.read_bytes().count(b"\n") >= goal, within=60, every=0.02)  # noqa: B023
        assert in_flight(fleet)
        kill([fleet.processes()["gateway"]])
        killed += 1
        fleet.wait_for(3)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    told = [json.loads(line) for line in output.read_text().splitlines()]
    assert Counter(one["custom_id"] for one in told) == Counter(f"row-{row}" for row in range(rows))
    assert not [one for one in told if one["error"] or one["response"]["status_code"] != 200]
    data = json.loads(out.splitlines()[-1])["data"]
    print(f"\nbatch: {rows} rows, gateway killed {killed} times: {data}")  # noqa: T201  # the numbers
