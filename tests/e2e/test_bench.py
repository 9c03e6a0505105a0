"""``gpuserve bench`` against a server whose speed is known; at the real embedded engine: ``test_batch_engine.py``."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from e2e.inside import Inside, inside
from e2e.usershell import Shell, eventually
from fakes.apart import Apart
from fakes.steady import steady
from gpuserve import Endpoint
from gpuserve.bench.measure import measure
from gpuserve.bench.wanted import Load, Wanted

PREFILL, TOKEN = 0.04, 0.005


@pytest.fixture(scope="module")
def server() -> Iterator[Apart]:
    with steady(prefill=PREFILL, token=TOKEN) as running:
        yield running


@pytest.fixture
def user(shell: Shell) -> Inside:
    return inside(shell)


def bench(user: Inside, server: Apart, *more: str) -> dict[str, Any]:
    """What --json says."""
    lengths = ("--prompt-tokens", "200", "--output-tokens", "10", "--requests", "12")
    done = user.ok("bench", "--url", server.url, "--model", "m", *lengths, *more, "--json")
    found: dict[str, Any] = done.data
    return found


def test_closed_loads_are_full_and_prompts_and_answers_as_long_as_asked(user: Inside, tmp_path: Path) -> None:
    with steady(prefill=PREFILL, token=TOKEN) as server:
        files = ("-o", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg"))
        found = bench(user, server, "-c", "1,4", "--slo", "ttft=30s,itl=30s", *files)
        stats = server.stats()
    one, four = found["points"]
    assert 4 <= stats["most_open"] <= 5  # the last of one point may still be about to be given up
    for point, concurrency in ((one, 1), (four, 4)):
        assert (point["requests"], point["failed"]) == (12, 0)
        assert point["prompt_tokens"] == {"least": 200, "mean": 200.0, "most": 200}
        assert point["output_tokens"] == {"least": 10, "mean": 10.0, "most": 10}
        assert point["ttft"]["p50"] >= PREFILL * 0.9
        assert point["itl"]["p50"] >= TOKEN * 0.9
        assert point["latency"]["p50"] >= point["ttft"]["p50"] + 9 * point["itl"]["p50"] * 0.9
        assert point["in_flight"] == pytest.approx(concurrency, rel=0.2)
        # Little's law: what is in flight is what comes in a second times how long it stays.
        assert point["requests_per_second"] * point["latency"]["mean"] == pytest.approx(concurrency, rel=0.3)
        assert point["goodput"]["share"] == 1.0
    assert four["output_tokens_per_second"] > 2 * one["output_tokens_per_second"]
    begins = [tuple(seen["words"][:8]) for seen in stats["seen"]]
    assert len(set(begins)) == len(begins)
    assert len(begins) >= 3 + 3 + 12 + 4 + 12  # the gauging, both warm-ups, what is counted
    assert found["settings"]["outputs_held"] is True
    assert json.loads((tmp_path / "a.json").read_text())["data"] == found
    assert ET.fromstring((tmp_path / "a.svg").read_text()).tag.endswith("svg")


def test_no_answer_is_good_that_breaks_a_limit(user: Inside, server: Apart) -> None:
    limit = f"ttft={PREFILL * 500:g}ms"  # half of what the prompt takes
    (point,) = bench(user, server, "-c", "2", "--slo", limit)["points"]
    assert point["goodput"] == {"requests_per_second": 0.0, "share": 0.0}


def test_an_open_load_is_timed_from_when_each_request_was_due(user: Inside) -> None:
    """A server that answers one at a time: of four times as many as it can answer most wait long, and that counts."""
    with steady(prefill=0.01, token=0.001, slots=1) as server:
        (alone,) = bench(user, server, "-c", "1")["points"]
        most = 1 / alone["latency"]["mean"]
        found = bench(user, server, "--rate", f"{most / 4:.4g},{most * 4:.4g}", "--requests", "32")
    calm, flooded = found["points"]
    assert (alone["kept_up"], calm["kept_up"], flooded["kept_up"]) == (None, True, False)
    assert flooded["ttft"]["p50"] > 3 * alone["ttft"]["p50"]
    assert flooded["in_flight"] > 3 * calm["in_flight"]
    assert flooded["requests_per_second"] < 2 * most
    assert f"doesn't keep up with {flooded['load']['rate']:g}/s" in found["verdict"]


def test_what_a_shared_beginning_saves(user: Inside, server: Apart) -> None:
    found = bench(user, server, "-c", "2", "--shared-prefix", "0.8")
    cold, warm = found["points"]
    assert cold["cached_share"] == 0.0
    assert 0.6 < warm["cached_share"] < 0.8
    (gain,) = found["gains"]
    assert gain["ttft_times_sooner"] > 1.3
    assert warm["ttft"]["p50"] < cold["ttft"]["p50"]


def test_an_endpoint_that_ends_when_it_likes_is_told(user: Inside) -> None:
    with steady(prefill=PREFILL, token=TOKEN, strict=True) as server:
        found = bench(user, server, "-c", "1")
    assert found["settings"]["outputs_held"] is False
    assert found["points"][0]["output_tokens"]["most"] == 3
    assert "doesn't take ignore_eos" in found["notes"][0]
    assert "they had 3" in found["notes"][1]


def test_failures_are_counted_and_told(user: Inside) -> None:
    with steady(prefill=0.01, token=0.001, fail=5) as server:
        found = bench(user, server, "-c", "1")
    (point,) = found["points"]
    assert 2 <= point["failed"] <= 3
    assert "HTTP 500" in found["notes"][-1]


def test_the_time_can_be_said_instead_of_the_number(user: Inside, server: Apart) -> None:
    lengths = ("--prompt-tokens", "50", "--output-tokens", "2", "--duration", "1s")
    done = user.ok("bench", "--url", server.url, "--model", "m", *lengths, "-c", "2", "--json")
    (point,) = done.data["points"]
    assert point["seconds"] == pytest.approx(1.0, rel=0.5)
    assert point["requests"] > 2


def test_what_was_measured_is_told_although_the_file_cannot_be_written(user: Inside, server: Apart) -> None:
    few = ("--prompt-tokens", "50", "--output-tokens", "2", "--requests", "3", "-c", "1")
    done = user.run("bench", "--url", server.url, "--model", "m", *few, "-o", "/dev/full")
    assert done.status == 2
    assert "out tok/s" in done.out
    assert "/dev/full can't be written: No space left" in done.err


def test_the_price_of_a_million_tokens(server: Apart) -> None:
    wanted = Wanted(loads=(Load(concurrency=2),), prompts=(100,), outputs=(5,), requests=8)
    endpoint = Endpoint(url=server.url, served_model="m")
    (point,) = measure(endpoint, wanted, price=7.2, emit=lambda _: None)["points"]
    second = 7.2 / 3600
    assert point["cost_per_million_output_tokens"] == pytest.approx(
        1e6 * second / point["output_tokens_per_second"], 0.01
    )
    both = point["output_tokens_per_second"] + point["input_tokens_per_second"]
    assert point["cost_per_million_tokens"] == pytest.approx(1e6 * second / both, 0.01)


def test_two_results_are_compared(user: Inside, server: Apart, tmp_path: Path) -> None:
    with steady(prefill=3 * PREFILL, token=2 * TOKEN) as slow:
        bench(user, slow, "-c", "1", "--requests", "6", "-o", str(tmp_path / "slow.json"))
    bench(user, server, "-c", "1", "--requests", "6", "-o", str(tmp_path / "fast.json"))
    files = (str(tmp_path / "slow.json"), str(tmp_path / "fast.json"))
    compared = user.ok("bench", "--compare", *files, "--json").data
    rows = {row["figure"]: row for row in compared["points"][0]["figures"]}
    assert rows["ttft.p50"]["better"] == rows["itl.p50"]["better"] == "second"
    assert rows["output_tokens_per_second"]["ratio"] > 1.2
    assert "second/first" in user.ok("bench", "--compare", *files).out


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("--concurrency", "0"), 2, "out of range"),
        (("--slo", "ttft=soon"), 2, "no limit"),
        (("--shared-prefix", "1"), 2, "share"),
        (("--url", "http://127.0.0.1:9"), 2, "model"),
        (("--url", "http://127.0.0.1:9", "--model", "m"), 12, "doesn't answer"),
        (("--compare", "no-a.json", "no-b.json"), 2, "can't read"),
        (("--compare", "/etc/hostname", "/etc/hostname"), 2, "no result"),
        (("-o", "no/such/directory.json"), 2, "can't be written"),
        (("no-such-deployment",), 4, "no-such-deployment"),
    ],
)
def test_what_goes_wrong_is_named(user: Inside, argv: tuple[str, ...], status: int, words: str) -> None:
    done = user.run("bench", *argv)
    assert done.status == status, done
    assert words in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_and_is_told(shell: Shell, number: signal.Signals) -> None:
    with steady(prefill=0.02, token=0.002) as server:
        process = shell.start("bench", "--url", server.url, "--model", "m", "--rate", "20", "--duration", "10m")
        eventually(lambda: len(server.stats()["seen"]) > 5)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "never retrieved" not in err


def test_an_endpoint_that_answers_nothing_is_an_error(user: Inside) -> None:
    with steady(fail=1) as server:
        done = user.run("bench", "--url", server.url, "--model", "m")
    assert done.status == 11, done
    assert "made to fail" in done.err
