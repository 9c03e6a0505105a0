"""``connect``, ``env`` and ``snippet`` as a user runs them: the real engine, and clients that others wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.test_ci_contract import conforms
from e2e.usershell import QUICK, Shell, bring_up, eventually

NAME = "connected"
#: An answer ends after so many tokens, whatever the client asks for: left alone, so small a model may ramble on.
SHORT = ("--engine-arg=--n-predict", "--engine-arg=16")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
OPENAI = """
import os, sys
from openai import OpenAI
with OpenAI() as client:
    asked = dict(model=os.environ["OPENAI_MODEL"], messages=[{"role": "user", "content": "Say hello."}], max_tokens=8,
                 temperature=0)
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)
              if chunk.choices]
assert len(pieces) > 3, pieces
assert "".join(pieces) == whole, (pieces, whole)
print(whole)
"""


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    yield bring_up(shell, "--name", NAME, *SHORT)
    shell.run("down", NAME)


def running(shell: Shell, *argv: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """``connect`` in the background, and what it printed once it listened."""
    process = shell.start("connect", NAME, "--port", "0", "--json", *argv)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    data: dict[str, Any] = json.loads(line)["data"]
    return process, data


def curl(*argv: str) -> tuple[int, str]:
    """Status and body."""
    done = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", *argv], capture_output=True, text=True, timeout=60, check=True
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def end(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_curl_and_openai_need_only_the_address(shell: Shell, live: dict[str, Any]) -> None:
    process, told = running(shell)
    conforms("connect", told)
    assert told["needs_key"] is False
    base = told["base_url"]
    status, body = curl(f"{base}/chat/completions", "-H", "Content-Type: application/json", "-d", json.dumps(CHAT))
    assert status == 200
    whole = json.loads(body)["choices"][0]["message"]["content"]
    status, body = curl(f"{base}/chat/completions", "-d", json.dumps({**CHAT, "stream": True}))
    assert status == 200
    events = [line.removeprefix("data: ") for line in body.splitlines() if line]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events) == whole
    env = {**shell.env, "OPENAI_BASE_URL": base, "OPENAI_API_KEY": "any", "OPENAI_MODEL": told["served_model"]}
    done = subprocess.run([sys.executable, "-c", OPENAI], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == whole.strip(), done.stderr
    for header in ("Host: evil.example", "Origin: https://evil.example"):
        assert curl(f"{base}/models", "-H", header)[0] == 403
    assert end(process)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_an_end_by_signal_is_a_regular_one(shell: Shell, live: dict[str, Any], number: int) -> None:
    process, told = running(shell)
    status, out, _ = end(process, number)
    assert (status, out) == (0, "")
    with pytest.raises(subprocess.CalledProcessError):
        curl(told["base_url"])


def test_nothing_secret_can_be_seen(shell: Shell, live: dict[str, Any]) -> None:
    """Not in its output, not in its argv or environment, nor in those of a command that it runs."""
    secrets = [live["token"], shell.ok("host", "status", "--show-key", "--json").data["api_key"]]
    spy = "import sys, json, os; print(json.dumps(dict(os.environ))); sys.stdout.flush(); sys.stdin.readline()"
    process = shell.start("connect", NAME, "-v", "--", sys.executable, "-c", spy, stdin=subprocess.PIPE)
    assert process.stdout is not None
    environment = process.stdout.readline()
    seen = [environment]
    for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children()):
        seen += [Path(f"/proc/{one.pid}/{file}").read_text(errors="replace") for file in ("cmdline", "environ")]
    assert len(seen) == 5
    key = json.loads(environment)["OPENAI_API_KEY"]
    out, err = process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert "connected" in err
    assert not [secret for secret in secrets for text in (*seen, out, err) if secret in text]
    assert not [text for text in (*seen[1:3], out, err) if key in text]


def test_a_command_finds_its_server(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.ok("connect", NAME, "--", sys.executable, "-c", OPENAI, env={"HTTP_PROXY": "http://127.0.0.1:9"})
    assert done.out.strip()
    assert done.err.count("\n") == 1


ANTHROPIC = """
curl -sS "$ANTHROPIC_BASE_URL/v1/messages" -H "x-api-key: $ANTHROPIC_API_KEY" -H 'anthropic-version: 2023-06-01' \
  -d '{"model": "'"$ANTHROPIC_MODEL"'", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}'
"""


def test_a_command_finds_anthropic_s_api_where_the_engine_speaks_it(shell: Shell, live: dict[str, Any]) -> None:
    message = json.loads(shell.ok("connect", NAME, "--", "sh", "-c", ANTHROPIC).out)
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert message["content"][0]["text"]


def test_the_key_of_a_command_is_asked_for(shell: Shell, live: dict[str, Any]) -> None:
    script = 'curl -s -o /dev/null -w "%{http_code}" "$OPENAI_BASE_URL/models" -H "Authorization: Bearer $KEY"'
    both = f'KEY=wrong; {script}; echo; KEY="$OPENAI_API_KEY"; {script}'
    assert shell.ok("connect", NAME, "--", "sh", "-c", both).out.split() == ["401", "200"]


def test_a_key_of_one_s_own(shell: Shell, live: dict[str, Any]) -> None:
    shell.env["MY_KEY"] = "my-key-0123456789"
    try:
        process, told = running(shell, "--key-env", "MY_KEY")
    finally:
        del shell.env["MY_KEY"]
    assert told["needs_key"] is True
    assert curl(f"{told['base_url']}/models")[0] == 401
    assert curl(f"{told['base_url']}/models", "-H", "Authorization: Bearer my-key-0123456789")[0] == 200
    status, out, err = end(process)
    assert status == 0
    assert "my-key" not in out + err


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_status_of_a_command_is_passed_on(
    shell: Shell, live: dict[str, Any], command: str, status: int
) -> None:
    done = shell.run("connect", "-q", NAME, "--", "sh", "-c", command)
    assert (done.status, done.out, done.err) == (status, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command(shell: Shell, live: dict[str, Any], number: int) -> None:
    script = "import signal, sys; print('up', flush=True); print(signal.sigwait(set(map(int, sys.argv[1:]))))"
    block = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [{number}]); {script}"
    process = shell.start("connect", NAME, "--", sys.executable, "-c", block, str(number))
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    status, out, _ = end(process, number)
    assert (status, out.strip().removeprefix("Signals.")) in {(0, str(number)), (0, signal.Signals(number).name)}


def test_what_can_not_be_done_is_told(shell: Shell, live: dict[str, Any]) -> None:
    process, told = running(shell)
    port = told["base_url"].split(":")[2].removesuffix("/v1")
    assert shell.run("connect", NAME, "--json", "--port", port).error["code"] == "conflict"
    done = shell.run("connect", NAME, "--", "no-such-program")
    assert (done.status, "no program 'no-such-program'" in done.err) == (2, True)
    assert end(process)[0] == 0


def signed_urls(shell: Shell) -> int:
    """How many signed URLs the host has written down; it does so at its leisure."""
    file = shell.home / "state" / "gpuserve" / "host" / "store.json"
    return len(json.loads(file.read_text(encoding="utf-8"))["signed"])


def test_a_signed_way_is_given_up_at_the_end(shell: Shell, live: dict[str, Any]) -> None:
    """It opens the one port, and no credential of it is left behind."""
    before = signed_urls(shell)
    process, told = running(shell, "--via", "signed")
    assert curl(f"{told['base_url']}/models")[0] == 200
    assert eventually(lambda: signed_urls(shell) == before + 1)
    assert end(process)[0] == 0
    assert eventually(lambda: signed_urls(shell) == before)


def test_a_deployment_that_goes_is_told_to_the_client(shell: Shell, live: dict[str, Any]) -> None:
    other = bring_up(shell, "--name", "going")
    process = shell.start("connect", "going", "--port", "0", "--json")
    assert process.stdout is not None
    base = json.loads(process.stdout.readline())["data"]["base_url"]
    assert curl(f"{base}/models")[0] == 200
    shell.ok("down", other["name"])
    status, body = curl(f"{base}/models")
    assert status == 502
    error = json.loads(body)["error"]
    assert error["code"] in ("upstream_refused", "upstream_unavailable")
    assert "going" in error["message"]
    assert other["token"] not in body
    assert end(process)[0] == 0


# -- env and snippet ---------------------------------------------------------------------------------------------------

USE = (
    'test "$(curl -s -o /dev/null -w "%{http_code}" "$ENDPOINT/v1/models" -H "x-daytona-preview-token: $TOKEN")" = 200'
)


def test_env_gives_a_shell_what_it_needs(shell: Shell, live: dict[str, Any]) -> None:
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", f'eval "$(gpuserve env {NAME})" && {USE}'],
        env=shell.env | env, cwd=shell.home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done


def test_env_prints_what_up_printed(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    assert json.loads(shell.ok("env", NAME, "--format", "json").out)["token"] == live["token"]
    assert shell.ok("env", NAME).out == shell.ok("up", *QUICK, *SHORT, "--name", NAME).out
    assert shell.ok("env", NAME, "--format", "fish").out == (
        f"set -gx ENDPOINT '{live['endpoint']}'\nset -gx TOKEN '{live['token']}'\n"
    )
    target = tmp_path / "output"
    masks = shell.ok("env", NAME, "--format", "github", env={"GITHUB_OUTPUT": str(target)}).out
    assert masks == f"::add-mask::{live['token']}\n"
    assert f"token={live['token']}\n" in target.read_text()


@pytest.mark.parametrize("way", [(), ("--reveal",)], ids=["variables", "revealed"])
@pytest.mark.parametrize("client", ["curl", "openai"])
def test_a_snippet_runs(shell: Shell, live: dict[str, Any], client: str, way: tuple[str, ...]) -> None:
    made = shell.ok("snippet", NAME, "--for", client, *way, "--json").data
    conforms("snippet", made)
    known = {"ENDPOINT": live["endpoint"], "TOKEN": live["token"]}
    assert made["variables"] == ([] if way else list(known))
    assert (live["token"] in made["text"]) is bool(way)
    argv = ["sh", "-c"] if client == "curl" else [sys.executable, "-c"]
    env = shell.env | ({} if way else known)
    done = subprocess.run([*argv, made["text"]], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done
    said = json.loads(done.stdout)["choices"][0]["message"]["content"] if client == "curl" else done.stdout
    assert said.strip()


def test_a_snippet_through_connect_holds_no_credential(shell: Shell, live: dict[str, Any]) -> None:
    process, told = running(shell)
    port = told["url"].rpartition(":")[2]
    text = shell.ok("snippet", NAME, "--for", "curl", "--connect", port).out
    assert live["token"] not in text
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=100, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"].strip()
    assert end(process)[0] == 0
