"""What a deployment costs, whether its deadline holds, since when it is idle, and what counts as nobody's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fakes.deployments import DEPLOYMENT
from gpuserve.client.metrics import Load, load_from
from gpuserve.engines.base import MetricNames
from gpuserve.errors import UsageError
from gpuserve.records import Deployment, ServeRequest
from gpuserve.sandboxes import labels
from gpuserve.serving import defaults
from gpuserve.serving.cost import cost_of, deadline_problem, gpus_of
from gpuserve.serving.extend import parse_limit
from gpuserve.serving.idle import Uses
from gpuserve.serving.plan import make_plan
from gpuserve.serving.reap import FORGOTTEN, LAUNCH_GRACE, may_lack_engine, verdict

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PRICES = {"H100": 3.95, "RTX-PRO-6000": 2.1}


def deployment(
    *,
    gpu: str = "H100",
    state: str = "started",
    age: float | None = 3600,
    left: float | None = 3600,
    marks: Mapping[str, str] | None = None,
    error: str = "",
) -> Deployment:
    return replace(
        DEPLOYMENT,
        name="one",
        sandbox_id="id-1",
        state=state,
        gpu=gpu,
        created_at=None if age is None else NOW - timedelta(seconds=age),
        expires_at=None if left is None else NOW + timedelta(seconds=left),
        error=error,
        labels=marks or {},
    )


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "count", "kind"),
    [("", 0, ""), ("H100", 1, "H100"), ("8x H200", 8, "H200"), ("RTX-PRO-6000", 1, "RTX-PRO-6000"), ("GPU", 1, "GPU")],
)
def test_the_gpus_of_a_deployment_are_read_back(gpu: str, count: int, kind: str) -> None:
    assert gpus_of(deployment(gpu=gpu)) == (count, kind)


def test_the_cost_is_price_times_gpus_times_age() -> None:
    cost = cost_of(deployment(gpu="2x H100", age=5400), PRICES, NOW)
    assert cost is not None
    assert cost.as_dict() == {"cost_per_hour": 7.9, "cost": 11.85}


@pytest.mark.parametrize("gpu", ["", "B200", "GPU"])
def test_no_cost_is_made_up(gpu: str) -> None:
    assert cost_of(deployment(gpu=gpu), PRICES, NOW) is None
    assert cost_of(deployment(gpu=gpu), {}, NOW) is None


def test_a_cost_without_an_age_is_by_the_hour_only() -> None:
    cost = cost_of(deployment(age=None), PRICES, NOW)
    assert cost is not None
    assert cost.as_dict() == {"cost_per_hour": 3.95, "cost": None}


def test_a_clock_that_is_behind_the_platforms_makes_no_negative_cost() -> None:
    cost = cost_of(deployment(age=-5), PRICES, NOW)
    assert cost is not None
    assert cost.so_far == 0


# -- the deadline ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "left", "told"),
    [
        ("7200", 3600, ""),
        ("7200", 3600 + 119, ""),  # whole minutes, and a moment for the request
        ("7200", 3600 + 121, "2m 1s later"),
        ("7200", 600, ""),  # an organisation may allow less; the deadline shown is the true one
        ("7200", None, "nothing deletes it"),
        ("none", None, ""),
        ("", None, ""),  # made by an older gpuserve, which did not write it down
        ("soon", None, ""),
    ],
)
def test_a_deadline_that_the_platform_did_not_take_is_told(asked: str, left: float | None, told: str) -> None:
    problem = deadline_problem(deployment(left=left, marks={labels.TTL: asked} if asked else {}))
    assert bool(problem) is bool(told)
    assert told in problem
    if problem:
        assert "the platform did not take the time to live of 2h" in problem
        assert "gpuserve extend one 2h" in problem


def test_both_limits_are_written_down_on_the_sandbox() -> None:
    from gpuserve.sandboxes.create import parameters

    request = ServeRequest(model="m", engine="vllm", gpus=("H100",), ttl=90 * 60, idle=61)
    launch = make_plan(request, place="daytona").launch
    sent = parameters(request, launch, "n", "r")
    assert sent.labels is not None
    assert (sent.auto_stop_interval, sent.ttl_minutes, sent.ephemeral) == (2, 90, True)
    assert labels.asked(sent.labels, labels.TTL) == 90 * 60
    assert labels.asked(sent.labels, labels.IDLE) == 61
    never = parameters(ServeRequest(model="m", engine="vllm", ttl=None), launch, "n", "r")
    assert never.labels is not None
    assert (never.auto_stop_interval, never.ttl_minutes) == (0, None)
    assert (never.labels[labels.TTL], never.labels[labels.IDLE]) == ("none", "none")


def test_an_idle_limit_is_read_checked_and_planned() -> None:
    assert [defaults.idle(text) for text in ("", "none", "30m")] == [None, None, 1800]
    with pytest.raises(UsageError, match="idle limit"):
        ServeRequest(model="m", engine="vllm", idle=59)
    plan = make_plan(ServeRequest(model="m", engine="vllm", idle=1800), place="daytona").as_dict()
    assert (plan["auto_stop_minutes"], plan["idle_seconds"]) == (30, 1800)


@pytest.mark.parametrize("text", ["0", "59s", "-1h", "", "soon"])
def test_extend_refuses_what_would_mean_no_limit_or_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        parse_limit(text)


def test_extend_takes_a_duration_or_the_word_none() -> None:
    assert [parse_limit(text) for text in ("1h", " None ", "60")] == [3600, None, 60]


# -- idle --------------------------------------------------------------------------------------------------------------

NAMES = MetricNames("e:running", "e:waiting")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_the_tokens_of_each_engine_are_counted(engine: str) -> None:
    page = f'e:running 0\ne:waiting 0\n{engine}:prompt_tokens_total{{model_name="m"}} 12.0\n'
    load = load_from(page, NAMES)
    assert load is not None
    assert load.tokens == 12
    bare = load_from("e:running 0\ne:waiting 0\n", NAMES)
    assert bare is not None
    assert bare.tokens is None


def later(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def test_an_engine_is_idle_since_its_counters_last_changed(tmp_path: Path) -> None:
    path, one = tmp_path / "uses.json", deployment()

    def look(tokens: int, at: float, running: int = 0) -> datetime | None:
        uses = Uses(path)  # each look is a process of its own
        since = uses.idle_since(one, Load(running, 0, tokens=tokens), later(at))
        uses.save()
        return since

    assert look(0, 0) == one.created_at  # it never got a token
    assert look(10, 1) == later(1)  # used at some time before this look: not idle for longer than can be told
    assert look(10, 5) == later(1)
    assert look(10, 6, running=1) is None  # it works now
    assert look(10, 7) == later(6)
    assert look(3, 8) == later(8)  # another engine, or the same anew
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_not_told_is_not_idle(tmp_path: Path) -> None:
    uses = Uses(tmp_path / "none" / "uses.json")
    assert uses.idle_since(deployment(), None, NOW) is None
    assert uses.idle_since(deployment(), Load(0, 0), NOW) is None
    uses.save()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"id-1": 3}', '{"id-1": ["x", "y"]}', '{"id-1": [5, "2026-01-01"]}']
)
def test_a_broken_memory_of_uses_begins_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "uses.json"
    path.write_text(content)
    uses = Uses(path)
    assert uses.idle_since(deployment(), Load(0, 0, tokens=5), NOW) == NOW
    uses.save()
    assert list(json.loads(path.read_text())) == ["id-1"]
    path.unlink()
    path.mkdir()  # can't be written
    uses.idle_since(deployment(), Load(0, 0, tokens=6), NOW)
    uses.save()
    assert path.is_dir()


# -- reap --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "older_than", "reason"),
    [
        ({}, None, ""),
        ({"state": "creating"}, None, ""),
        ({"state": "pending_build", "age": FORGOTTEN}, None, ""),
        ({"state": "error", "error": "disk full\nmore"}, None, "it is error: disk full"),
        ({"state": "build_failed"}, None, "it is build_failed"),
        ({"state": "stopped"}, None, "it is stopped"),
        ({"left": -30}, None, "its time ran out 30s ago"),
        ({"left": None, "age": FORGOTTEN - 1}, None, ""),
        ({"left": None, "age": FORGOTTEN + 1}, None, "it is 1d 1s old and has no deadline"),
        ({"left": 60, "age": FORGOTTEN * 3}, None, ""),
        ({"left": 60, "age": 3601}, 3600, "it is 1h 1s old"),
        ({"left": None, "age": 3599}, 3600, ""),
        ({"left": None, "age": FORGOTTEN + 1}, FORGOTTEN * 2, ""),
        ({"left": None, "age": None}, 0, ""),
    ],
)
def test_what_counts_as_nobodys(given: dict[str, object], older_than: int | None, reason: str) -> None:
    assert verdict(deployment(**given), older_than, NOW) == reason  # type: ignore[arg-type]  # by keyword


@pytest.mark.parametrize(
    ("state", "age", "expected"),
    [("started", LAUNCH_GRACE + 1, True), ("started", LAUNCH_GRACE - 1, False), ("creating", LAUNCH_GRACE + 1, False)],
)
def test_only_a_sandbox_that_runs_for_long_is_asked_for_its_engine(state: str, age: float, expected: bool) -> None:
    assert may_lack_engine(deployment(state=state, age=age), NOW) is expected
