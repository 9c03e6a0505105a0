"""The figures of a benchmark against brute force, its options, its verdict, and its picture."""

from __future__ import annotations

import json
import math
import random
import statistics
from array import array
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuserve.bench.prompts import WORDS, Gauge, Prompts, gauge
from gpuserve.bench.shooter import Broken, take_apart
from gpuserve.bench.stats import Shot, Window, figures, keeps, percentile, spread
from gpuserve.bench.svg import nice, picture
from gpuserve.bench.verdict import compare, gains, verdict
from gpuserve.bench.wanted import Load, Wanted, loads, slo, whole_numbers
from gpuserve.errors import EngineError, UsageError

TIMES = st.floats(0.001, 100.0)
#: How busy the machine is says nothing of the figures.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def shots(draw: st.DrawFn) -> list[Shot]:
    """Requests of all kinds: whole and failed, measured or not, of one token or more."""
    made = []
    for _ in range(draw(st.integers(1, 12))):
        due = draw(TIMES)
        gaps = draw(st.lists(st.floats(0.0001, 5.0), min_size=1, max_size=8))
        times = array("d")
        for gap in gaps:
            times.append((times[-1] if times else due) + gap)
        failed = draw(st.booleans())
        made.append(
            Shot(
                due=due, measured=draw(st.booleans()), sent=due + gaps[0] / 2, done=times[-1] + gaps[0],
                times=array("d") if failed else times, prompt=draw(st.integers(1, 500)),
                completion=len(times) + draw(st.integers(0, 3)), cached=draw(st.none() | st.integers(0, 100)),
                error="HTTP 500" if failed else "",
            )
        )  # fmt: skip
    return made


@PATIENT
@given(st.lists(TIMES, min_size=2, max_size=60))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    found = spread(values)
    assert found["p50"] == pytest.approx(statistics.median(values), rel=1e-4)
    assert found["p90"] == pytest.approx(cuts[89], rel=1e-4)
    assert found["p99"] == pytest.approx(cuts[98], rel=1e-4)
    assert found["mean"] == pytest.approx(statistics.mean(values), rel=1e-4)
    assert found["sd"] == pytest.approx(statistics.stdev(values), rel=1e-3, abs=1e-6)


@PATIENT
@given(st.lists(TIMES, min_size=1, max_size=30), st.floats(0, 1))
def test_a_percentile_has_its_share_on_either_side(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(value <= found + 1e-9 for value in ordered) >= math.floor(share * (len(ordered) - 1)) + 1
    assert sum(value >= found - 1e-9 for value in ordered) >= len(ordered) - 1 - math.floor(share * (len(ordered) - 1))


@PATIENT
@given(shots(), TIMES, TIMES)
def test_the_figures_of_a_point_are_those_of_brute_force(made: list[Shot], began: float, seconds: float) -> None:
    window = Window(began, began + seconds)
    limits = {"ttft": 0.5, "itl": 0.3, "e2e": 3.0}
    found = figures(made, window, limits)
    good = [shot for shot in made if shot.measured and not shot.error]
    tokens = taken = ended = whole = 0.0
    for shot in made:
        inside = began <= shot.done < began + seconds
        ended += inside
        if not shot.error:
            whole += inside
            taken += shot.prompt * (began <= shot.times[0] < began + seconds)
            tokens += sum(shot.completion / len(shot.times) for one in shot.times if began <= one < began + seconds)
    assert found["requests"] == sum(shot.measured for shot in made)
    assert found["failed"] == found["requests"] - len(good)
    assert found["requests_per_second"] == pytest.approx(whole / window.seconds, rel=1e-3)
    assert found["input_tokens_per_second"] == pytest.approx(taken / window.seconds, rel=1e-3)
    assert found["output_tokens_per_second"] == pytest.approx(tokens / window.seconds, rel=1e-3)
    firsts = [shot.times[0] - shot.due for shot in good]
    assert found["ttft"]["p50"] == (pytest.approx(statistics.median(firsts), rel=1e-3) if firsts else None)
    kept = [
        shot for shot in good
        if shot.times[0] - shot.due <= 0.5 and shot.done - shot.due <= 3.0
        and (len(shot.times) < 2 or (shot.times[-1] - shot.times[0]) / (shot.completion - 1) <= 0.3)
    ]  # fmt: skip
    share = len(kept) / max(found["requests"], 1)
    assert found["goodput"]["share"] == pytest.approx(share, rel=1e-3)
    assert found["goodput"]["requests_per_second"] == pytest.approx(share * ended / window.seconds, rel=1e-3)


@PATIENT
@given(shots())
def test_a_stricter_limit_is_never_kept_by_more(made: list[Shot]) -> None:
    for shot in made:
        if keeps(shot, {"ttft": 0.1, "itl": 0.1}):
            assert keeps(shot, {"ttft": 0.2})
    assert not any(keeps(shot, {"e2e": 1e9}) for shot in made if shot.error)


def event(content: object) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


ANSWER = b"".join(
    [
        event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
        event({"choices": [{"index": 0, "delta": {"reasoning": "hm"}}]}),
        event({"choices": [{"index": 0, "delta": {"content": "yes"}}]}),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}),
        event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}),
        b"data: [DONE]\n\n",
    ]
)


@PATIENT
@given(st.lists(st.integers(1, len(ANSWER) - 1), unique=True, max_size=9))
def test_a_token_comes_with_the_piece_that_ends_it(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]
    pieces = [(float(end), ANSWER[start:end]) for start, end in pairwise(edges)]
    shot = Shot()
    take_apart(shot, pieces)
    ends = [ANSWER.index(b"\n", ANSWER.index(word)) + 1 for word in (b"hm", b"yes")]
    assert list(shot.times) == [float(min(edge for edge in edges if edge >= end)) for end in ends]
    assert (shot.prompt, shot.completion, shot.cached) == (7, 2, None)


def test_half_an_answer_and_one_without_its_tokens_are_told() -> None:
    with pytest.raises(Broken, match="ended before"):
        take_apart(Shot(), [(0.0, ANSWER[:200])])
    with pytest.raises(Broken, match="broke off"):
        take_apart(Shot(), [(0.0, event({"error": {"message": "no"}}))])
    with pytest.raises(EngineError, match="tokens"):
        take_apart(Shot(), [(0.0, b"\n".join(line for line in ANSWER.split(b"\n") if b"usage" not in line))])
    with pytest.raises(EngineError, match="tokens"):
        take_apart(Shot(), [(0.0, ANSWER.replace(b"completion_tokens", b"tokens_out"))])


@PATIENT
@given(st.integers(0, 200), st.integers(1, 3), st.integers(64, 5000))
def test_a_gauge_gives_back_the_length(around: int, word: int, tokens: int) -> None:
    made = gauge((16, around + 16 * word), (400, around + 400 * word))
    words = made.words(tokens)
    assert words == 1 or abs(around + words * word - tokens) <= word / 2 + 1e-6
    assert Gauge(0.0, 1.0) == gauge((16, 50), (400, 50))  # a count that doesn't move tells nothing


def test_prompts_differ_from_their_first_words_on_but_for_what_they_share() -> None:
    chance = random.Random(1)
    alone = Prompts(100, 0.0, chance)
    assert len({" ".join(next(alone).split()[:8]) for _ in range(200)}) == 200
    shared = Prompts(100, 0.75, chance)
    made = [next(shared).split() for _ in range(50)]
    assert {len(words) for words in made} == {100}
    assert len({tuple(words[:75]) for words in made}) == 1
    assert len({tuple(words[:85]) for words in made}) == 50
    assert len(set(WORDS)) == len(WORDS)


def test_options_are_read() -> None:
    assert loads("1, 8", "0.5") == (Load(concurrency=1), Load(concurrency=8), Load(rate=0.5))
    assert slo("ttft=500ms,itl=0.05s,e2e=2s") == {"ttft": 0.5, "itl": 0.05, "e2e": 2.0}
    wanted = Wanted(loads=loads("1", ""), prompts=(10, 20), outputs=(5,), shared=0.5)
    assert [(point.prompt, point.shared) for point in wanted.points] == [(10, 0.0), (10, 0.5), (20, 0.0), (20, 0.5)]
    assert (wanted.number(Load(concurrency=1)), wanted.number(Load(concurrency=64))) == (32, 256)


@pytest.mark.parametrize("text", ["ttft", "ttft=5", "ttft=-1s", "ttft=nans", "ttft=infs", "tpot=1s", "ttft=xms", "=1s"])
def test_a_limit_that_is_none_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="no limit"):
        slo(text)


@pytest.mark.parametrize("text", ["0", "1.5", "a", "1,,2", "-3", "nan", "inf", "99999999999"])
def test_a_number_that_is_none_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--concurrency"):
        whole_numbers("--concurrency", text, 1000)


def point(concurrency: int = 0, rate: float = 0.0, shared: float = 0.0, **more: Any) -> dict[str, Any]:
    """A point as ``--json`` tells it."""
    shot = Shot(due=0.0, measured=True, done=1.0, times=array("d", (0.2, 0.6, 1.0)), prompt=100, completion=3)
    return {
        "load": {"concurrency": concurrency or None, "rate": rate or None},
        "asked": {"prompt_tokens": 100, "output_tokens": 3, "shared_prefix": shared},
        **figures([shot] * 9, Window(0.0, 2.0), {"ttft": 0.5}),
        "cost_per_million_output_tokens": None,
        "kept_up": True if rate else None,
        "client": {"limited": False},
        **more,
    }


def test_the_verdict_says_what_to_believe() -> None:
    fast = point(8, output_tokens_per_second=900.0, goodput={"requests_per_second": 5.0, "share": 0.5})
    slow = point(1, output_tokens_per_second=100.0, goodput={"requests_per_second": 2.0, "share": 1.0})
    assert verdict([slow, fast], {}).startswith("Most output: 900 tokens/s with 8 in flight")
    told = verdict([slow, fast], {"ttft": 0.5})
    assert "Best goodput: 5 requests/s with 8 in flight" in told
    assert "90% keep them up to 2 requests/s with 1 in flight" in told
    none = point(1, goodput={"requests_per_second": 0.0, "share": 0.0})
    assert verdict([none], {"ttft": 0.5}) == "No request at any point kept ttft 500 ms."
    behind = verdict([point(rate=4.0, kept_up=False, client={"limited": True})], {})
    assert "doesn't keep up with 4/s" in behind
    assert "At all points this machine may have been the limit" in behind


def test_a_gain_is_a_point_beside_the_same_without_sharing() -> None:
    warm = point(1, shared=0.8, ttft={"p50": 0.05}, output_tokens_per_second=9.0, cached_share=0.7)
    cold = point(1, ttft={"p50": 0.2}, output_tokens_per_second=6.0)
    (gain,) = gains([cold, point(2), warm])
    assert (gain["ttft_times_sooner"], gain["output_times_more"], gain["cached_share"]) == (4.0, 1.5, 0.7)


def test_two_runs_are_compared_where_they_have_the_same_points_and_chance_is_told() -> None:
    times = {"p50": 0.2, "p99": 0.3, "mean": 0.2, "sd": 0.02}
    first = {"points": [point(1, ttft=times, output_tokens_per_second=50.0), point(2)]}
    sooner = {"p50": 0.1, "p99": 0.2, "mean": 0.1, "sd": 0.02}
    second = {"points": [point(1, ttft=sooner, output_tokens_per_second=100.0), point(rate=2.0)]}
    (row,) = compare(first, second)
    found = {one["figure"]: one for one in row["figures"]}
    assert found["output_tokens_per_second"]["ratio"] == 2.0
    assert found["ttft.p50"] == {"figure": "ttft.p50", "first": 0.2, "second": 0.1, "ratio": 0.5, "better": "second"}
    assert found["latency.p50"]["better"] == ""
    noisy = {"points": [point(1, ttft={**sooner, "sd": 5.0})]}
    (row,) = compare(first, noisy)
    assert {one["better"] for one in row["figures"] if one["figure"].startswith("ttft")} == {""}
    with pytest.raises(UsageError, match="in common"):
        compare(first, {"points": [point(64)]})


@PATIENT
@given(st.floats(1e-6, 1e9))
def test_an_axis_ends_just_above_what_it_shows(value: float) -> None:
    assert value <= nice(value) * (1 + 1e-9)
    assert nice(value) < 2.6 * value


def test_the_picture_is_an_svg_with_every_point_in_it() -> None:
    made = [point(1), point(8), point(64), point(rate=2.0), point(rate=4.0, itl=dict.fromkeys(("p50", "p90", "p99")))]
    found = {"model": "<m & co>", "engine": "vllm", "gpu": "", "settings": {"slo": {"ttft": 1.0}}, "points": made}
    root = ET.fromstring(picture(found))
    space = "{http://www.w3.org/2000/svg}"
    titles = [text.text for text in root.iter(f"{space}text")]
    assert "<m & co> · vllm" in titles
    assert titles.count("goodput, requests/s") == 2
    # 1 + 3 + 3 + 1 lines: three points each in closed loads, two in open ones, one of which has no time between tokens
    assert len(list(root.iter(f"{space}circle"))) == 8 * 3 + 8 * 2 - 3
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert width > 500
    assert height > 500
