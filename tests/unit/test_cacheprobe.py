"""The prefix cache, measured on servers that speak as each engine does."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.scripted import Reply, Scripted, stream
from gpuserve.client.cacheprobe import Pair, Shot, judge, measure
from gpuserve.records import Endpoint


def answer(prompt: int, details: Any) -> Reply:
    usage = {"prompt_tokens": prompt, "completion_tokens": 2, "total_tokens": prompt + 2}
    if details != "absent":
        usage["prompt_tokens_details"] = details
    return stream(
        {"choices": [{"index": 0, "delta": {"content": "A"}}]},
        {"choices": [{"index": 0, "delta": {"content": "B"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    )


def measured(*details: Any, pairs: int = 1) -> tuple[Any, list[dict[str, Any]]]:
    seen: list[Pair] = []
    with Scripted(answer(9, None), *(answer(976, one) for one in details)) as server:
        report = measure(Endpoint(url=server.url, served_model="tiny"), pairs=pairs, tokens=960, emit=seen.append)
        bodies: list[dict[str, Any]] = [dict(request.json()) for request in server.requests]
    assert len(seen) == pairs
    return report, bodies


@pytest.mark.parametrize(
    ("cold", "warm", "count"),
    [
        (None, {"cached_tokens": 768}, 768),  # vLLM 0.22.1: null on a miss
        ({"cached_tokens": 0}, {"cached_tokens": 768}, 768),  # vLLM 0.32
        ("absent", {"cached_tokens": 975}, 975),  # SGLang: left out entirely on a miss
        ({"cached_tokens": 24}, {"cached_tokens": 975}, 975),  # llama.cpp: the template's own beginning is cached
    ],
)
def test_a_cache_that_works_is_seen_with_every_engine(cold: Any, warm: Any, count: int) -> None:
    report, _ = measured(cold, warm)
    assert report.works is True
    assert report.verdict.startswith(f"The prefix cache works: {count} of 976 prompt tokens")
    assert report.pairs[0].warm.cached_tokens == count


def test_a_cache_that_does_not_work_is_told() -> None:
    report, _ = measured({"cached_tokens": 0}, {"cached_tokens": 16})
    assert report.works is False
    assert "does not work" in report.verdict


def test_every_pair_has_a_prefix_of_its_own_and_is_asked_twice() -> None:
    _, bodies = measured(*([None, {"cached_tokens": 900}] * 3), pairs=3)
    prompts = [body["messages"][0]["content"] for body in bodies]
    assert len(prompts) == 7
    assert prompts[1::2] == prompts[2::2]
    assert len({prompt[:22] for prompt in prompts}) == 4  # that of the question before counts as well
    assert all(prompt.count("The Daytona platform") == 60 for prompt in prompts[1:])
    assert {body["temperature"] for body in bodies} == {0.0}


def shot(seconds: float, cached: int | None) -> Shot:
    return Shot(seconds, seconds, 1000, cached)


def test_without_counts_the_times_decide_and_it_says_so() -> None:
    soon = judge([Pair(shot(0.9, None), shot(0.3, None))] * 3)
    assert soon.works is True
    assert "seems to work" in soon.verdict
    assert "0.300 s instead of 0.900 s, 3.0 times sooner (medians of 3 pairs)." in soon.verdict
    same = judge([Pair(shot(0.9, None), shot(0.9, None))])
    assert same.works is None
    assert "can't be told: the engine tells no cached tokens" in same.verdict
    assert "no sooner" in same.verdict


def test_prompts_that_were_never_cold_prove_nothing() -> None:
    report = judge([Pair(shot(0.9, 990), shot(0.9, 990))])
    assert report.works is None
    assert "new prompts were in it already" in report.verdict


def test_one_slow_request_does_not_decide() -> None:
    pairs = [Pair(shot(1.0, 0), shot(0.5, 990)), Pair(shot(1.0, 0), shot(0.5, 990)), Pair(shot(1.0, 0), shot(9.0, 990))]
    assert judge(pairs).speedup == 2.0
