"""The main job, command by command, on the real embedded engine."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.usershell import QUICK, Shell, bring_up, eventually, names

CAPITAL = "What is the capital of France? Answer with one word."


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    """One deployment for this module; afterwards it must be gone without a trace."""
    data = bring_up(shell, "--name", "main-job", "--ttl", "20m")
    yield data
    shell.ok("down", "main-job")
    assert "main-job" not in names(shell.live())
    assert shell.processes(data["id"]) == []
    assert not (shell.home / "state" / "gpuserve" / "host" / "sandboxes" / data["id"]).exists()


def test_the_hand_off(live: dict[str, Any]) -> None:
    assert live["ready"] is True
    assert live["name"] == "main-job"
    assert live["served_model"] == "smollm2-135m-instruct"
    assert live["base_url"] == live["endpoint"] + "/v1"
    assert live["token"]


def test_the_endpoint_answers_as_the_guides_call_it(live: dict[str, Any]) -> None:
    """The guides' curl: the header, the route, the model's name."""
    body = {"model": live["served_model"], "messages": [{"role": "user", "content": CAPITAL}], "temperature": 0}
    answer = httpx.post(
        f"{live['endpoint']}/v1/chat/completions",
        headers={"x-daytona-preview-token": live["token"]},
        json={**body, "max_tokens": 16},
        timeout=60,
    )
    assert answer.status_code == 200
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    refused = httpx.get(f"{live['endpoint']}/v1/models")
    assert refused.status_code == 401


def test_query_answers_from_the_weights(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.ok("query", CAPITAL, "--id", "main-job", "--temperature", "0", "--max-tokens", "16", "--stats")
    assert "Paris" in done.out
    assert done.out.endswith("\n")
    assert "TTFT" in done.err
    assert "tokens/s" in done.err


def test_query_streams(shell: Shell, live: dict[str, Any]) -> None:
    """The first words are there while the engine still writes."""
    process = shell.start(
        "query", "Write a long story about a dragon and a knight.", "--id", "main-job", "--max-tokens", "150"
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    assert first
    assert process.poll() is None
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert len(rest) > 50
    process.communicate()


def test_query_takes_a_pipe_a_system_prompt_and_json(shell: Shell, live: dict[str, Any]) -> None:
    argv = ("query", "--id", "main-job", "--json", "--temperature", "0", "--max-tokens", "16", "--no-stream")
    reply = shell.ok(*argv, "--system", "You answer with one word.", stdin=CAPITAL).data
    assert "Paris" in reply["content"]
    assert reply["finish_reason"] in ("stop", "length")
    assert reply["usage"]["completion_tokens"] > 0
    again = shell.ok(*argv, "--system", "You answer with one word.", stdin=CAPITAL).data
    assert again["usage"]["cached_tokens"] > 0
    assert again["content"] == reply["content"]


def test_status(shell: Shell, live: dict[str, Any]) -> None:
    row = next(row for row in shell.live() if row["name"] == "main-job")
    assert (row["state"], row["health"], row["engine"], row["gpu"]) == ("started", "ready", "llamacpp", None)
    assert 0 < row["seconds_left"] <= 20 * 60
    assert row["running"] == 0
    assert row["endpoint"] == live["endpoint"]
    one = shell.ok("status", "main-j")
    assert "administrator" in one.out
    table = shell.ok("status").out.splitlines()
    assert table[0].split("\t")[:3] == ["NAME", "STATE", "HEALTH"]
    assert live["token"] not in one.out + one.err + "".join(table)


def test_status_watches_until_interrupted(shell: Shell, live: dict[str, Any]) -> None:
    process = shell.start("status", "main-job", "--watch", "--every", "1s", "--json")
    assert process.stdout is not None
    first, second = json.loads(process.stdout.readline()), json.loads(process.stdout.readline())
    assert second["data"]["age_seconds"] >= first["data"]["age_seconds"]
    process.send_signal(2)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_logs(shell: Shell, live: dict[str, Any]) -> None:
    whole = shell.ok("logs", "main-job").out
    assert "model loaded" in whole
    assert "\x01" not in whole
    assert shell.ok("logs", "main-job", "--tail", "2").out.count("\n") == 2
    assert shell.ok("logs", "main-job", "--json").data["log"].startswith(whole[:100])
    saved = Path(live["log_file"]).read_text()
    assert saved
    assert whole.startswith(saved.splitlines()[0])


def test_logs_follow(shell: Shell, live: dict[str, Any]) -> None:
    """New lines come as the engine writes them; Ctrl-C ends the following, not the engine."""
    process = shell.start("logs", "-f", "main-job", "--tail", "1")
    assert process.stdout is not None
    first = process.stdout.readline()  # from here on it follows
    shell.ok("query", "hello", "--id", "main-job", "--max-tokens", "2")
    later = process.stdout.readline()
    assert later.strip()
    assert later != first
    process.send_signal(2)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert next(row for row in shell.live() if row["name"] == "main-job")["health"] == "ready"


def curl(url: str) -> int:
    """The status that a plain curl gets, nothing but the URL in hand."""
    argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v1/models"]
    return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def test_a_shared_url_works_until_it_is_revoked(shell: Shell, live: dict[str, Any]) -> None:
    shared = shell.ok("share", "main-job", "--expires", "10m")
    url = shared.out.strip()
    assert live["token"] not in url
    assert curl(url) == 200
    asked = shell.ok("share", "main-job", "--revoke", "--json").data
    assert asked["revoked"] == 1
    assert curl(url) == 401
    assert shell.ok("share", "main-job", "--revoke", "--json").data["revoked"] == 0


def test_one_url_of_several_is_revoked_by_its_address(shell: Shell, live: dict[str, Any]) -> None:
    first, second = (shell.ok("share", "main-job", "-q").out.strip() for _ in range(2))
    shell.ok("share", "main-job", "--revoke", "--url", f"{first}/v1")
    assert (curl(first), curl(second)) == (401, 200)
    (shell.home / "cache" / "gpuserve" / "deployments.json").unlink()  # what this machine remembers is lost
    shell.ok("share", "main-job", "--revoke", "--url", second)
    assert curl(second) == 401
    assert shell.run("share", "main-job", "--revoke", "--url", "https://host.example/no").status == 4


def test_a_shared_url_expires(shell: Shell, live: dict[str, Any]) -> None:
    url = shell.ok("share", "main-job", "--expires", "3s", "--json").data["url"]
    assert curl(url) == 200
    eventually(lambda: curl(url) == 401, within=10)


def test_up_again_picks_the_same_deployment_up(shell: Shell, live: dict[str, Any]) -> None:
    again = bring_up(shell, "--name", "main-job", "--ttl", "20m")
    assert (again["id"], again["token"]) == (live["id"], live["token"])


def test_the_name_of_another_model_is_a_conflict(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.run("up", *QUICK, "--name", "main-job", "--served-as", "other", "--json")
    assert done.status == 5
    assert "main-job exists" in done.error["message"]
    assert names(shell.live()) == ["main-job"]


def test_the_cache_may_be_lost(shell: Shell, live: dict[str, Any]) -> None:
    (shell.home / "cache" / "gpuserve" / "deployments.json").unlink(missing_ok=True)
    assert shell.ok("query", "hello", "--max-tokens", "2").out
    assert (shell.home / "cache" / "gpuserve" / "deployments.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        lambda endpoint: endpoint | {"url": "http://127.0.0.1:9/preview/1-x"},
        lambda endpoint: endpoint | {"headers": {"x-daytona-preview-token": "rotated"}},
    ],
    ids=["moved", "rotated"],
)
def test_what_is_remembered_may_be_wrong(
    shell: Shell, live: dict[str, Any], damage: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """An address or a token that no longer holds is looked up again, once, unasked."""
    shell.ok("status", "main-job")
    cache = shell.home / "cache" / "gpuserve" / "deployments.json"
    content = json.loads(cache.read_text())
    known = content["deployments"][live["id"]]
    known["endpoint"] = damage(known["endpoint"])
    cache.write_text(json.dumps(content))
    assert shell.ok("query", "hello", "--max-tokens", "2").out
    assert json.loads(cache.read_text())["deployments"][live["id"]]["endpoint"]["url"] == live["endpoint"]


def test_reasoning_effort(shell: Shell, live: dict[str, Any]) -> None:
    assert shell.ok("query", "hello", "--reasoning-effort", "low", "--max-tokens", "2").out
    bad = shell.run("query", "hello", "--reasoning-effort", "huge", "--json")
    assert (bad.status, bad.error["code"]) == (2, "usage")


def test_what_the_engine_refuses_is_told(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.run("query", "word " * 4000, "--json")
    assert (done.status, done.error["code"]) == (11, "engine_error")
    assert "context" in done.error["message"]


def test_the_host_may_be_restarted(shell: Shell, live: dict[str, Any]) -> None:
    """Killed without warning, and started again: the engine, its address and its token go on."""
    pid = shell.ok("host", "status", "--json").data["pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    eventually(lambda: shell.ok("host", "status", "--json").data["running"] is False)
    shell.ok("host", "start")
    assert shell.ok("query", "hello", "--max-tokens", "2").out
    row = next(row for row in shell.live() if row["name"] == "main-job")
    assert (row["health"], row["endpoint"]) == ("ready", live["endpoint"])


def test_export_lines_can_be_evaluated(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.ok("up", *QUICK, "--name", "main-job", "--ttl", "20m")
    assert done.out.count("\n") == 2
    script = f'eval {shlex.quote(done.out)}; printf \'%s %s\' "$ENDPOINT" "$TOKEN"'
    seen = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert seen == f"{live['endpoint']} {live['token']}"
    assert "gpuserve query" in done.err


@pytest.mark.parametrize(("form", "holds"), [("url", "endpoint"), ("id", "id")])
def test_other_hand_offs(shell: Shell, live: dict[str, Any], form: str, holds: str) -> None:
    assert shell.ok("up", *QUICK, "--name", "main-job", "-o", form).out.strip() == live[holds]


def test_the_hand_off_to_github(shell: Shell, live: dict[str, Any]) -> None:
    outputs = shell.home / "github-output"
    done = shell.ok("up", *QUICK, "--name", "main-job", "-o", "github", env={"GITHUB_OUTPUT": str(outputs)})
    assert f"::add-mask::{live['token']}" in done.out
    assert f"token={live['token']}" in outputs.read_text().splitlines()


def test_down_understands_every_name_before_it_deletes_any(shell: Shell, live: dict[str, Any]) -> None:
    assert shell.run("down", "main-job", "no-such-thing").status == 4
    assert names(shell.live()) == ["main-job"]
    assert shell.ok("down", "no-such-thing", "--ignore-not-found", "--json").data == []
    assert shell.run("down", "--all").status == 2  # no terminal to ask on
    assert names(shell.live()) == ["main-job"]
