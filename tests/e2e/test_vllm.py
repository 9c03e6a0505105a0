"""Real vLLM on the CPU with small real weights: ``python scripts/vllm_env.py``, then ``pytest -m vllm``.

The model is SmolLM2-135M-Instruct with marker tokens of parsers and a template that knows of tools and thinking
(``scripts/engine_models.py``). What it says is its own; that its answers have a form is vLLM's and gpuserve's doing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_models import default_place
from vllm_env import PROFILE, options, programs

from e2e.realengine import data, figures, members, need, nothing_left, phases, titled, traces
from e2e.usershell import Done, Shell, eventually
from gpuserve.client.chat import ChatRequest, ask
from gpuserve.client.reply import ContentDelta, ReasoningDelta
from gpuserve.records import Endpoint

PLACE = default_place()
NAME, PLAIN, SEVERAL = "real-vllm", "plain-vllm", "several-vllm"
PARSERS = ("--engine-arg=--tool-call-parser=hermes", "--engine-arg=--reasoning-parser=deepseek_v3")
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 24}, "season": {"enum": ["summer", "winter"]}},
    "required": ["title", "season"],
    "additionalProperties": False,
}
TOOL = '''
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return f"22 degrees and sunny in {city}"
'''
HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module", autouse=True)
def _vllm_is_found(shell: Shell, request: pytest.FixtureRequest) -> None:
    """The local host is told where vLLM is as its users tell it."""
    need(request.config, "vllm", programs(PLACE) / "vllm", "python scripts/vllm_env.py")
    profile = PROFILE.format(path=programs(PLACE))
    (shell.home / "state" / "gpuserve" / "images.toml").write_text(profile, encoding="utf-8")
    (shell.home / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    (shell.home / "weather.py").write_text(TOOL, encoding="utf-8")


def bring_up(shell: Shell, name: str, model: str, *more: str) -> Done:
    """``up`` of one of the two models."""
    return shell.run("up", *options(PLACE / "models" / model), "--name", name, *more, "--json", timeout=1200)


@pytest.fixture(scope="module")
def booted(shell: Shell) -> Iterator[Done]:
    """What ``up`` printed: a deployment whose engine asks for a key, with parsers for tools and reasoning."""
    done = bring_up(shell, NAME, "marked", "--access", "key", *PARSERS)
    assert done.status == 0, done
    yield done
    shell.run("down", NAME, "--yes")


@pytest.fixture(scope="module")
def live(booted: Done) -> dict[str, Any]:
    """What ``up`` handed off."""
    found: dict[str, Any] = booted.data
    return found


def query(shell: Shell, *argv: str) -> Any:
    return data(shell, "query", "--id", NAME, "--temperature", "0", *argv)


def test_the_boot_is_told_in_phases(booted: Done, live: dict[str, Any]) -> None:
    assert phases(booted.out) == ["loading", "kv_cache", "serving"]
    told = figures(booted.out)
    assert (told["max_context"], told["weights_gib"], told["kv_cache_gib"]) == (4096, 0.25, 1)
    assert told["requests"] == pytest.approx(told["kv_cache_tokens"] / 4096, abs=0.01)
    assert (live["ready"], live["served_model"], live["access"]) == (True, "marked", "key")
    assert "Application startup complete" in Path(live["log_file"]).read_text()


def test_one_answer_whole_and_streamed(shell: Shell, live: dict[str, Any]) -> None:
    whole = query(shell, "Say hello.", "--max-tokens", "12", "--no-stream")
    assert (whole["usage"]["completion_tokens"], whole["finish_reason"], whole["reasoning"]) == (12, "length", "")
    streamed = shell.ok("query", "--id", NAME, "--temperature", "0", "--max-tokens", "12", "Say hello.")
    assert streamed.out == whole["content"] + "\n"
    pieces: list[Any] = []
    endpoint = Endpoint(url=live["endpoint"], served_model=live["served_model"], api_key=live["api_key"])
    reply = ask(endpoint, ChatRequest(prompt="Say hello.", temperature=0, max_tokens=12), emit=pieces.append)
    assert [type(piece) for piece in pieces] == [ContentDelta] * len(pieces)
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == reply.content == whole["content"]


def test_reasoning_comes_apart_when_it_is_asked_for(shell: Shell, live: dict[str, Any]) -> None:
    """This small model never ends its thinking, so all that it says is reasoning."""
    pieces: list[Any] = []
    endpoint = Endpoint(url=live["endpoint"], served_model=live["served_model"], api_key=live["api_key"])
    # Without ``min_tokens`` it often thinks nothing at all.
    extra = {"reasoning_effort": "low", "min_tokens": 8}
    asked = ChatRequest(prompt="Tell me about the sea.", temperature=0, max_tokens=8, extra=extra)
    reply = ask(endpoint, asked, emit=pieces.append)
    assert {type(piece) for piece in pieces} == {ReasoningDelta}
    assert "".join(piece.text for piece in pieces) == reply.reasoning
    assert (reply.content, reply.finish_reason) == ("", "length")
    sea = ("query", "--id", NAME, "--temperature", "0", "--max-tokens", "8", "Tell me about the sea.", "--json")
    done = shell.run(*sea, "--reasoning-effort", "low")
    assert (done.status, done.error["code"]) == (15, "bad_reply")
    assert "on reasoning and gave no answer" in done.error["message"]
    answered = data(shell, *sea[:-1], "--reasoning-effort", "none")
    assert answered["content"]
    assert answered["reasoning"] == ""


def test_an_answer_of_a_schema_and_other_forms(shell: Shell, live: dict[str, Any]) -> None:
    parsed = query(shell, "A haiku's title and season as JSON", "--schema", "schema.json", "--max-tokens", "100")
    assert json.loads(parsed["content"]) == parsed["parsed"]
    assert set(parsed["parsed"]) == {"title", "season"}
    hot = ("--temperature", "2", "--max-tokens", "20", "The best color for a terminal theme is")
    for more in (("--regex", " (red|green|blue|amber)"), ("--raw", "--regex", " (red|green|blue|amber)")):
        assert query(shell, *more, *hot)["content"] in (" red", " green", " blue", " amber")
    assert query(shell, "--choice", "yes,no", *hot)["content"] in ("yes", "no")


def test_a_tool_is_called_and_its_result_used(shell: Shell, live: dict[str, Any]) -> None:
    asked = ("What is the weather in Paris?", "--tool", "weather:get_weather", "--max-tokens", "60")
    told = query(shell, *asked, "--tool-choice", "required", "--max-rounds", "1")
    first = told["tool_results"][0]
    assert (first["name"], first["error"]) == ("get_weather", False)
    assert first["result"].startswith("22 degrees and sunny in ")
    assert told["transcript"][2]["role"] == "tool"


def test_the_key_guards_v1_and_no_more(shell: Shell, live: dict[str, Any]) -> None:
    own = {"Authorization": f"Bearer {live['api_key']}"}
    body = {**HELLO, "model": live["served_model"]}

    def status(path: str, headers: dict[str, str]) -> int:
        return httpx.post(live["endpoint"] + path, json=body, headers=headers, timeout=120).status_code

    assert status("/v1/chat/completions", {}) == 401
    assert status("/v1/chat/completions", {"Authorization": "Bearer wrong"}) == 401
    assert status("/v1/chat/completions", own) == 200
    # What ``up`` and ``status`` warn of.
    assert status("/invocations", {}) == 200
    assert any("/invocations" in sentence for sentence in data(shell, "status", NAME)["who"])
    command_lines = [" ".join(one.cmdline()) for one in members(live["id"])]
    assert [line for line in command_lines if live["api_key"] in line] == []


def test_an_unknown_model_name_is_refused(live: dict[str, Any]) -> None:
    own = {"Authorization": f"Bearer {live['api_key']}"}
    asked = httpx.post(live["base_url"] + "/chat/completions", json={**HELLO, "model": "other"}, headers=own)
    assert asked.status_code == 404


def test_the_prefix_cache_is_measured(shell: Shell, live: dict[str, Any]) -> None:
    told = data(shell, "cache-check", NAME, "--pairs", "1", "--tokens", "400")
    assert told["works"] is True
    (pair,) = told["pairs"]
    assert pair["cold"]["cached_tokens"] == 0
    assert pair["warm"]["cached_tokens"] > pair["warm"]["prompt_tokens"] / 2


def test_status_tells_the_engines_own_counters(shell: Shell, live: dict[str, Any]) -> None:
    assert data(shell, "status", NAME)["running"] == 0
    asking = shell.start("query", "--id", NAME, "--max-tokens", "400", "--temperature", "2", "A long story, please.")
    busy = eventually(lambda: (row := data(shell, "status", NAME))["running"] and row, within=100)
    assert (busy["health"], busy["running"], busy["waiting"]) == ("ready", 1, 0)
    assert 0 < busy["kv_usage"] < 1
    asking.terminate()
    eventually(lambda: data(shell, "status", NAME)["running"] == 0, within=100)  # vLLM drops what nobody reads


def test_a_prompt_that_is_too_long_says_what_to_do(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.run("query", "--id", NAME, "word " * 5000, "--json")
    assert done.status == 11
    assert "4096" in done.error["message"]
    assert "shorten the prompt" in done.error["hint"]


@pytest.mark.parametrize(
    ("flag", "message", "hint"),
    [
        ("--tool-call-parser=nosuch", "vLLM has no tool-call parser nosuch", r"--tool-call-parser=….*\bhermes\b"),
        ("--max-model-len=100000", "100000 tokens was asked for; the model takes 8192", "--max-model-len=8192"),
    ],
    ids=["wrong-parser", "too-long-context"],
)
def test_what_vllm_refuses_is_told(shell: Shell, flag: str, message: str, hint: str) -> None:
    done = bring_up(shell, "refused", "smollm2", f"--engine-arg={flag}")
    assert (done.status, done.error["code"]) == (9, "boot_failed")
    assert "exited with code 1" in done.error["message"]
    assert message in done.error["message"]
    assert re.search(hint, done.error["hint"])
    assert "refused" not in [row["name"] for row in shell.live()]
    assert "nosuch" in Path(done.error["log_file"]).read_text() or "100000" in done.error["message"]


def test_down_leaves_nothing(shell: Shell, live: dict[str, Any]) -> None:
    processes = members(live["id"])
    left = traces(processes)
    assert titled(processes, "VLLM::EngineCore").is_running()
    assert titled(processes, "VLLM::Worker").is_running()
    assert any(path.parent == Path("/dev/shm") for path in left)
    shell.ok("down", NAME)
    nothing_left(shell, live["id"], processes, left)


def test_several_api_servers_are_counted_together_and_all_end(shell: Shell, booted: Done) -> None:
    """As docs/gpu-run.md recommends for many long prompts: each server has metrics of its own, and any may answer."""
    shell.ok("down", "--all", "--yes")
    several = ("--engine-arg=--api-server-count=2", "--fast-boot")
    done = bring_up(shell, SEVERAL, "smollm2", *several)
    assert done.status == 0, done
    processes = members(done.data["id"])
    left = traces(processes)
    assert all(titled(processes, f"VLLM::APIServer_{number}").is_running() for number in (0, 1))
    for number in range(4):  # each on a connection of its own
        assert shell.ok("query", "--id", SEVERAL, "--max-tokens", "4", f"Say {number}.").out.strip()
    asking = [
        shell.start("query", "--id", SEVERAL, "--max-tokens", "400", "--temperature", "2", f"Story {number}, please.")
        for number in range(3)
    ]
    busy = eventually(lambda: (row := data(shell, "status", SEVERAL))["running"] == 3 and row, within=100)
    assert 0 < busy["kv_usage"] < 1
    for one in asking:
        one.terminate()
    shell.ok("down", SEVERAL)
    nothing_left(shell, done.data["id"], processes, left)


def test_an_engine_that_is_killed_is_told(shell: Shell, booted: Done) -> None:
    """The plain model, brought up without waiting; when its engine process is killed, the server ends with status 0."""
    shell.ok("down", "--all", "--yes")  # there is memory for one
    begun = bring_up(shell, PLAIN, "smollm2", "--no-wait")
    assert begun.status == 0, begun
    ready = shell.ok("wait", PLAIN, "--json", timeout=1200)
    assert phases(ready.out)[-1] == "serving"
    assert shell.ok("query", "--id", PLAIN, "--max-tokens", "4", "Say hello.").out.strip()
    processes = members(begun.data["id"])
    left = traces(processes)
    titled(processes, "VLLM::EngineCore").kill()
    eventually(lambda: data(shell, "status", PLAIN)["health"] != "ready", within=60)
    told = shell.run("wait", PLAIN, "--json", timeout=300)
    assert (told.status, told.error["code"]) == (9, "boot_failed")
    assert "died without writing a reason" in told.error["message"]
    shell.ok("down", PLAIN)
    nothing_left(shell, begun.data["id"], processes, left)
