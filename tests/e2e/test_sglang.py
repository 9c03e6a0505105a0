"""Real SGLang on the CPU: ``python scripts/sglang_env.py`` builds it, then ``pytest -m sglang``.

Server, scheduler, parsers, log, routes and metrics are those of SGLang 0.5.12.post1, the weights SmolLM2's; what stands
in for its compiled kernels is said in the script. Each boot takes a minute and more, each token half a second: so there
are two deployments for all of it, one held to forms of answer and behind a key, one that thinks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sglang_env
from engine_models import default_place

from e2e.usershell import Done, Shell, eventually, make_shell, names
from gpuserve import engines
from gpuserve.serving.plan import is_taken

PLACE = default_place()
PLAIN, THINKING = sglang_env.models(PLACE)
#: For the busiest machine; boots take 60 to 300 s.
PATIENCE = 1200.0
HELLO = ("Say hello.", "--temperature", "0")
#: What SmolLM2 says to that, as far as it is asked for: greedy, so always the same.
ANSWER = "Hello there! I'm here"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(2 * PATIENCE)]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A home and a host of its own, where SGLang's image means the environment that the script built."""
    if absent := sglang_env.missing(PLACE):
        pytest.fail(f"{absent[0]} is missing: run python scripts/sglang_env.py first")
    home = tmp_path_factory.mktemp("sglang-home")
    made = make_shell(home, tmp_path_factory.mktemp("weights"))
    made.env["GPUSERVE_HOST_IMAGES"] = str(sglang_env.images_file(PLACE))
    made.ok("host", "start")
    yield made
    made.ok("down", "--all", "--yes")
    made.ok("host", "stop")
    assert made.processes() == []


def up(shell: Shell, name: str, model: Path, *more: str) -> Done:
    """``up`` with what a CPU needs."""
    flags = [f"--engine-arg={flag}" for flag in sglang_env.CPU_FLAGS]
    wanted = ("--local", "--engine", "sglang", "--model", str(model), "--name", name, "--timeout", str(int(PATIENCE)))
    return shell.run("up", *wanted, *flags, *more, timeout=PATIENCE + 60)


@pytest.fixture(scope="module")
def booted(shell: Shell) -> Done:
    """A deployment behind a key, whose answers can be held to a form: how ``up`` ended."""
    done = up(shell, "forms", PLAIN, "--access", "key", "--engine-arg=--grammar-backend=llguidance", "--json")
    assert done.status == 0, done
    return done


@pytest.fixture(scope="module")
def forms(booted: Done) -> dict[str, Any]:
    """The same: what ``up`` handed off."""
    handed: dict[str, Any] = booted.data
    return handed


@pytest.fixture(scope="module")
def thinking(shell: Shell, forms: dict[str, Any]) -> dict[str, Any]:
    """A deployment with a reasoning parser; the first one is gone by then, since both want the same two cores."""
    shell.run("down", "forms")
    high = next(port for port in range(55_600, 65_000) if not is_taken(port))  # SGLang adds 10,000 for its gRPC
    done = up(shell, "thinks", THINKING, "--engine-arg=--reasoning-parser=qwen3", "--port", str(high), "--json")
    assert done.status == 0, done
    handed: dict[str, Any] = done.data
    return handed


def asked(shell: Shell, *more: str) -> dict[str, Any]:
    """The answer to one question."""
    answer: dict[str, Any] = shell.ok("query", *more, "--json", timeout=PATIENCE).data
    return answer


def seen_ready(shell: Shell) -> dict[str, Any]:
    """What ``status`` says once it finds the engine ready: its health route takes a token, on a busy machine long."""
    found: list[dict[str, Any]] = eventually(
        lambda: [one for one in shell.live() if one["health"] == "ready"], within=300
    )
    return found[0]


def posted(live: dict[str, Any], body: dict[str, Any]) -> httpx.Response:
    """The engine's own answer, with nothing of gpuserve between but the host's proxy."""
    headers = {"Authorization": f"Bearer {live['api_key']}", **live["headers"]}
    return httpx.post(f"{live['base_url']}/chat/completions", json=body, headers=headers, timeout=PATIENCE)


def of_engine(name: str = "") -> list[psutil.Process]:
    """SGLang's processes that serve a model of ours; those only whose title has ``name``."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            served = "sglang.launch_server" in line and str(PLACE / "models") in line
            ours = served or line.startswith("sglang::")
            found += [process] if ours and name in line and process.status() != psutil.STATUS_ZOMBIE else []
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


# ---- the boot


def test_the_boot_is_told_phase_by_phase(booted: Done) -> None:
    events = [json.loads(line)["event"] for line in booted.out.splitlines() if '"event"' in line]
    boot = [event for event in events if event["kind"] == "boot"]
    assert list(dict.fromkeys(event["phase"] for event in boot)) == ["loading", "kv_cache", "serving"]
    figures = {name: value for event in boot for name, value in event["figures"].items()}
    assert figures["kv_cache_tokens"] == 16_384
    assert figures["max_context"] == 8192
    assert [event["detail"] for event in boot if "loaded in" in event["detail"]] != []
    assert boot[-1]["detail"] == "answering"
    assert events[-1]["kind"] == "ready"


def test_ready_is_the_first_200_of_health_generate(shell: Shell, forms: dict[str, Any]) -> None:
    log = (shell.home / "state" / "gpuserve" / "logs" / "forms.log").read_text()
    looks = re.findall(r'"GET (\S+) HTTP/1.1" (\d+)', log.partition("fired up and ready to roll")[0])
    assert ("/health_generate", "503") in looks  # it asked while SGLang warmed up, and took that for no answer
    assert not [path for path, status in looks if path.startswith("/health") and status == "200"]
    after = log.partition("fired up and ready to roll")[2]
    assert re.findall(r'"GET (\S+) HTTP/1.1" (\d+)', after)[0] == ("/health_generate", "200")


# ---- answers


def test_a_question_whole_and_streamed(shell: Shell, forms: dict[str, Any]) -> None:
    whole = asked(shell, *HELLO, "--max-tokens", "6", "--no-stream")
    streamed = asked(shell, *HELLO, "--max-tokens", "6")
    assert whole["content"] == streamed["content"] == ANSWER
    assert whole["model"] == streamed["model"] == forms["served_model"] == "smollm2"
    assert whole["finish_reason"] == streamed["finish_reason"] == "length"
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 6
    assert 0 < streamed["timing"]["ttft_seconds"] < streamed["timing"]["total_seconds"]
    assert streamed["usage"]["cached_tokens"] == streamed["usage"]["prompt_tokens"] - 1  # all that a hit can be


def test_the_prefix_cache_is_measured(shell: Shell, forms: dict[str, Any]) -> None:
    report = shell.ok("cache-check", "--pairs", "1", "--tokens", "96", "--json", timeout=PATIENCE).data
    assert report["works"] is True, report
    (pair,) = report["pairs"]
    assert pair["warm"]["cached_tokens"] == pair["warm"]["prompt_tokens"] - 1
    assert pair["cold"]["cached_tokens"] < pair["cold"]["prompt_tokens"] / 2


def test_a_json_schema_is_kept_to(shell: Shell, forms: dict[str, Any]) -> None:
    answer = asked(shell, "Name a colour.", "--schema", json.dumps(SCHEMA), "--max-tokens", "40", "--temperature", "0")
    assert answer["parsed"]["colour"] in ("red", "green")
    assert answer["finish_reason"] == "stop"


def test_the_other_forms(shell: Shell, forms: dict[str, Any], tmp_path: Path) -> None:
    grammar = tmp_path / "answer.gbnf"
    grammar.write_text('root ::= "ja" | "nein"\n')
    short = ("--temperature", "0", "--max-tokens", "8")
    assert asked(shell, "Yes or no?", "--choice", "yes,no", *short)["content"] in ("yes", "no")
    assert asked(shell, "Ja?", "--grammar", str(grammar), *short)["content"] in ("ja", "nein")
    assert re.fullmatch(r"[0-9]{2}", asked(shell, "A number:", "--regex", "[0-9]{2}", *short)["content"])
    # its own route, /generate
    bare = asked(shell, "The number is ", "--raw", "--regex", "[0-9]{2}", *short)
    assert re.fullmatch(r"[0-9]{2}", bare["content"])
    assert bare["usage"]["prompt_tokens"] < 10  # no chat template


def test_a_prompt_that_is_too_long_is_refused_with_what_to_do(shell: Shell, forms: dict[str, Any]) -> None:
    done = shell.run("query", "--max-tokens", "2", "--json", stdin="word " * 9000)
    assert done.error["code"] == "engine_error"
    assert "8192 tokens" in done.error["message"]
    assert "shorten the prompt" in done.error["hint"]


# ---- names, keys, figures


def test_it_serves_a_model_name_that_it_does_not_know(shell: Shell, forms: dict[str, Any]) -> None:
    """So a name that works proves nothing there. It lists one only, which is the one that gpuserve sends."""
    question = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    wrong = posted(forms, {"model": "no-such-model", **question})
    assert (wrong.status_code, wrong.json()["model"]) == (200, "no-such-model")
    headers = {"Authorization": f"Bearer {forms['api_key']}"}
    listed = httpx.get(f"{forms['base_url']}/models", headers=headers, timeout=60).json()["data"]
    assert [one["id"] for one in listed] == [forms["served_model"]]


def test_its_key_is_asked_for_and_shown_to_nobody(shell: Shell, forms: dict[str, Any]) -> None:
    url, key = forms["endpoint"], forms["api_key"]
    assert forms["headers"] == {}
    for headers in ({}, {"Authorization": "Bearer sk-wrong-key"}):
        for path in ("/v1/models", "/generate", "/model_info", "/server_info", "/flush_cache", "/docs"):
            assert httpx.get(url + path, headers=headers, timeout=60).status_code == 401, path
    for path in ("/health", "/health_generate", "/metrics"):  # as its own sentence in ``who`` says
        assert httpx.get(url + path, timeout=60).status_code == 200, path
        assert path in engines.load("sglang").key_check.uncovered  # type: ignore[attr-defined]  # it checks keys
    assert of_engine() != []
    assert not [process for process in of_engine() if key in " ".join(process.cmdline())]
    log = shell.ok("logs").out
    assert "api_key=***" in log
    assert key not in log


def test_status_reads_its_metrics(shell: Shell, forms: dict[str, Any]) -> None:
    def prompt_tokens() -> list[str]:
        text = httpx.get(f"{forms['endpoint']}/metrics", timeout=60).text
        return re.findall(r"^sglang:prompt_tokens_total\S+ (\S+)$", text, re.MULTILINE)

    before = prompt_tokens()
    first, second = seen_ready(shell), seen_ready(shell)
    assert (first["running"], first["waiting"]) == (0, 0)
    assert 0 <= first["kv_usage"] <= 1
    # Its health route generates a token, which its counters leave out: a look is no use.
    assert prompt_tokens() == before != []
    assert second["idle_since"] == first["idle_since"] is not None


def test_a_request_in_work_is_counted(shell: Shell, forms: dict[str, Any]) -> None:
    asking = shell.start("query", "Write a long story.", "--max-tokens", "60", "--temperature", "0")
    busy = eventually(lambda: [one for one in shell.live() if one["running"]], within=120)
    assert (busy[0]["running"], busy[0]["waiting"]) == (1, 0)
    assert busy[0]["health"] == "ready"
    assert asking.wait(PATIENCE) == 0


def test_logs_by_number_and_by_time(shell: Shell, forms: dict[str, Any]) -> None:
    assert len(shell.ok("logs", "--tail", "3").out.splitlines()) == 3
    httpx.get(f"{forms['endpoint']}/v1/no-such-route", timeout=60)
    recent = shell.ok("logs", "--since", "30s").out
    assert "/v1/no-such-route" in recent
    assert "server_args=" not in recent  # the boot alone takes longer
    assert "server_args=" in shell.ok("logs").out


def test_down_leaves_nothing(shell: Shell, forms: dict[str, Any]) -> None:
    assert len(of_engine()) >= 3  # server, scheduler, detokenizer
    shell.ok("down", "forms")
    assert of_engine() == []
    assert shell.processes(forms["id"]) == []
    assert names(shell.live()) == []


# ---- reasoning


def test_reasoning_comes_apart_from_the_answer(shell: Shell, thinking: dict[str, Any]) -> None:
    """This model says "</think>" where the other would say "!": "Hello" is as far as it thinks."""
    streamed, whole = (asked(shell, *HELLO, "--max-tokens", "8", *more) for more in ((), ("--no-stream",)))
    for answer in (streamed, whole):
        assert answer["reasoning"].strip(), answer
        assert answer["content"].strip(), answer
        assert "think>" not in answer["reasoning"] + answer["content"]
        assert 0 < answer["usage"]["reasoning_tokens"] < answer["usage"]["completion_tokens"]
    for_people = shell.ok("query", *HELLO, "--max-tokens", "8", timeout=PATIENCE)
    assert for_people.out.strip() == streamed["content"].strip() == whole["content"].strip()
    assert whole["reasoning"].strip() in for_people.err


def test_it_is_called_reasoning_content_and_can_be_switched_off(shell: Shell, thinking: dict[str, Any]) -> None:
    engine: Any = engines.load("sglang")
    body = {"model": "x", "messages": [{"role": "user", "content": HELLO[0]}], "max_tokens": 8, "temperature": 0}
    on = posted(thinking, body).json()
    off = posted(thinking, {**body, **engine.reasoning_body("none")}).json()
    message = on["choices"][0]["message"]
    assert message[engine.reasoning_field].strip()
    assert "reasoning" not in message
    assert off["choices"][0]["message"][engine.reasoning_field] is None
    assert off["choices"][0]["message"]["content"].startswith(message[engine.reasoning_field].strip())


def test_a_killed_scheduler_is_told_as_what_it_was(shell: Shell, thinking: dict[str, Any]) -> None:
    """As Linux does where memory runs out. SGLang kills its own group then, its shell's words included."""
    (scheduler,) = of_engine("scheduler")
    scheduler.kill()
    eventually(lambda: not of_engine(), within=60)
    done = shell.run("wait", "thinks", "--timeout", "60", "--json")
    assert done.status == 9
    assert "code 137: SGLang's scheduler was killed from outside" in done.error["message"]
    assert "--memory" in done.error["hint"]
    (dead,) = shell.live()
    assert dead["health"] == "not ready"
    assert dead["detail"] == "the engine ended with exit code 137; why: gpuserve wait thinks"
    shell.ok("down", "thinks")
    assert shell.processes(thinking["id"]) == []


# ---- what goes wrong before


def test_a_parser_that_it_does_not_have(shell: Shell) -> None:
    done = up(shell, "wrong", PLAIN, "--engine-arg=--tool-call-parser=nosuch", "--json")
    assert (done.status, done.error["code"]) == (9, "boot_failed")
    assert done.error["message"].endswith("exited with code 2: SGLang has no tool-call parser nosuch.")
    assert "'hermes'" in done.error["hint"]
    assert "invalid choice: 'nosuch'" in Path(done.error["log_file"]).read_text()
    assert of_engine() == []
    assert "wrong" not in names(shell.live())
