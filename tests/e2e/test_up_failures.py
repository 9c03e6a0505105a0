"""When ``up`` goes wrong: the right status, a saved log, nothing orphaned."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.usershell import QUICK, Shell, bring_up, eventually, names


@pytest.fixture(autouse=True)
def _nothing_else_is_live(shell: Shell) -> Iterator[None]:
    """Each test starts from nothing, and one that fails leaves nothing to the next."""
    yield
    shell.run("down", "--all", "--yes")


def test_a_dead_engine_is_noticed_its_log_kept_its_sandbox_deleted(shell: Shell) -> None:
    done = shell.run("up", *QUICK, "--name", "dead", "--json", "--", "--no-such-flag")
    assert done.status == 9
    assert done.error["code"] == "boot_failed"
    assert "--no-such-flag" in done.error["message"]
    log = Path(done.error["log_file"])
    assert "--no-such-flag" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert "dead" not in names(shell.live())
    saved = shell.ok("logs", "dead")  # the sandbox is gone, its log is not
    assert saved.out == log.read_text()


def test_a_port_that_somebody_else_has_is_refused_before_anything_is_created(shell: Shell) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        done = shell.run("up", *QUICK, "--name", "taken", "--port", str(foreign.getsockname()[1]), "--json")
    assert (done.status, done.error["code"]) == (5, "conflict"), done
    assert "taken by another program" in done.error["message"]
    assert "--port" in done.error["hint"]
    assert "taken" not in names(shell.live())
    assert '"sandbox"' not in done.out  # not even asked for


def test_a_dead_engine_can_be_kept(shell: Shell) -> None:
    done = shell.run("up", *QUICK, "--name", "kept", "--on-failure", "keep", "--", "--no-such-flag")
    assert done.status == 9
    assert "gpuserve down kept" in done.err
    assert "kept" in names(shell.live())
    assert "--no-such-flag" in shell.ok("logs", "kept").out
    shell.ok("down", "kept")


@pytest.mark.parametrize(
    ("script", "code", "cause"),
    [
        ("echo loading; kill -9 $$", 137, "killed in the middle (signal 9)"),
        ("echo 'Error: something new'; exit 3", 3, "Error: something new"),
    ],
    ids=["killed", "unknown"],
)
def test_an_engine_that_ends_in_its_boot(shell: Shell, script: str, code: int, cause: str) -> None:
    """By SIGKILL, as the kernel does when memory runs out, and by an error that nobody knows: told, not guessed."""
    program = shell.home / "programs" / "llama-server"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    path = f"{program.parent}:/usr/bin:/bin"
    done = shell.run("up", "--local", "--name", "ends", "--image", "debian:12", "--env", f"PATH={path}", "--json")
    assert done.status == 9
    assert f"exited with code {code}" in done.error["message"]
    assert cause in done.error["message"]
    assert ("--memory" in done.error["hint"]) is (code == 137)
    assert shell.live() == []


def test_a_secret_that_the_engine_itself_prints_is_taken_out(shell: Shell) -> None:
    """In the saved log, in ``logs`` of the live sandbox, by whoever asks, and in the error."""
    secret = "planted0123456789abcdef"
    program = shell.home / "programs" / "llama-server"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\necho "the key is $ENGINE_API_KEY"\necho "Error: $ENGINE_API_KEY"\nexit 3\n')
    program.chmod(0o755)
    path = f"{program.parent}:/usr/bin:/bin"
    argv = ("up", "--local", "--name", "talks", "--image", "debian:12", "--env", f"PATH={path}", "--on-failure", "keep")
    done = shell.run(*argv, "--env", "ENGINE_API_KEY", "--json", "-v", env={"ENGINE_API_KEY": secret})
    assert done.status == 9
    logs = shell.ok("logs", "talks").out
    assert "the key is ***" in logs
    assert secret not in logs + done.out + done.err + Path(done.error["log_file"]).read_text()


def test_an_image_that_is_not_there(shell: Shell) -> None:
    done = shell.run("up", *QUICK, "--image", "nobody/nothing:1", "--json")
    assert done.status == 9
    assert "manifest unknown" in done.error["message"]
    assert shell.live() == []


def test_no_capacity(shell: Shell) -> None:
    done = shell.run("up", *QUICK, "--gpu", "H100", "--label", "host/fault=no-capacity", "--timeout", "4s", "--json")
    assert done.status == 6
    assert done.error["retryable"] is True
    assert "H100" in done.error["message"]
    assert shell.live() == []


def test_a_gpu_that_the_place_does_not_have(shell: Shell) -> None:
    done = shell.run("up", *QUICK, "--gpu", "B200", "--json")
    assert done.status == 7
    assert "B200" in done.error["message"]
    assert shell.live() == []


def test_a_timeout_leaves_nothing(shell: Shell) -> None:
    done = shell.run("up", *QUICK, "--label", "host/fault=slow-boot=60", "--timeout", "4s", "--json")
    assert done.status == 10
    assert shell.live() == []


def test_an_engine_that_is_never_ready_times_out(shell: Shell) -> None:
    done = shell.run("up", *QUICK, "--label", "host/fault=dead-proxy", "--timeout", "8s", "--json", "--name", "mute")
    assert done.status == 10
    assert "not ready" in done.error["message"]
    assert shell.live() == []


def test_a_login_page_is_not_readiness(shell: Shell) -> None:
    done = shell.run(
        "up", *QUICK, "--label", "host/fault=login-redirect", "--timeout", "40s", "--json", "--name", "login"
    )
    assert done.status == 3
    assert shell.live() == []


def test_a_sandbox_taken_back_is_told(shell: Shell) -> None:
    label = "host/fault=dead-proxy,evict=3"
    done = shell.run("up", *QUICK, "--label", label, "--timeout", "60s", "--json", "--name", "evicted")
    assert done.status == 9
    assert shell.live() == []


def test_a_lost_answer_loses_nothing(shell: Shell) -> None:
    """The create request is answered by a cut connection: the sandbox that it made is found and used."""
    data = bring_up(shell, "--label", "host/fault=lost-answer", "--name", "lost-answer")
    assert names(shell.live()) == ["lost-answer"]
    assert data["ready"] is True
    shell.ok("down", "lost-answer")


def test_killed_between_the_request_and_its_answer(shell: Shell) -> None:
    process = shell.start("up", *QUICK, "--name", "kill-nine", "--label", "host/fault=slow-create=100,slow-boot=8")
    eventually(lambda: names(shell.live()) == ["kill-nine"])
    process.kill()
    process.communicate()
    row = shell.live()[0]
    assert row["model"].startswith("HuggingFaceTB/")
    assert 0 < row["seconds_left"] <= 4 * 3600
    shell.ok("down", "kill-nine")
    assert shell.live() == []


def test_a_sandbox_that_runs_is_used_before_its_request_is_answered(shell: Shell) -> None:
    data = bring_up(shell, "--name", "slow-answer", "--label", "host/fault=slow-create=100")
    assert data["ready"] is True
    shell.ok("down", "slow-answer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_waits(shell: Shell, number: signal.Signals) -> None:
    process = shell.start("up", *QUICK, "--name", "stopped", "--label", "host/fault=dead-proxy")
    eventually(lambda: names(shell.live()) == ["stopped"])
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped deleted, it is gone" in err
    assert shell.live() == []


def test_interrupted_while_the_request_is_under_way(shell: Shell) -> None:
    process = shell.start("up", *QUICK, "--name", "early", "--label", "host/fault=slow-create=100,slow-boot=8")
    eventually(lambda: names(shell.live()) == ["early"])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert shell.live() == []


def test_two_at_once_with_one_name_make_one_deployment(shell: Shell) -> None:
    argv = ("up", *QUICK, "--name", "twin", "--json")
    both = [shell.start(*argv), shell.start(*argv)]
    outs = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    last = [json.loads(out.splitlines()[-1]) for out, _ in outs]
    assert all("data" in one for one in last), outs
    ids = {one["data"]["id"] for one in last}
    assert len(ids) == 1
    servers = [line for line in shell.processes(ids.pop()) if "gpuserve.host.llama_server" in line]
    assert len(servers) == 1
    shell.ok("down", "twin")


def test_no_wait_returns_at_once_and_up_picks_it_up(shell: Shell) -> None:
    first: dict[str, Any] = bring_up(shell, "--name", "later", "--no-wait")
    assert first["ready"] is False
    second = bring_up(shell, "--name", "later")
    assert (second["ready"], second["id"]) == (True, first["id"])
    shell.ok("down", "later")


def test_down_insists_while_the_platform_is_busy(shell: Shell) -> None:
    bring_up(shell, "--name", "busy", "--label", "host/fault=conflict-on-delete=2")
    done = shell.ok("down", "busy", "--json").data
    assert done[0]["deleted"] is True
    assert shell.live() == []


def test_down_all(shell: Shell) -> None:
    bring_up(shell, "--name", "one", "--no-wait")
    bring_up(shell, "--name", "two", "--no-wait")
    assert shell.run("query", "hello").status == 5  # which of the two?
    done = shell.ok("down", "--all", "--yes", "--json").data
    assert sorted(row["name"] for row in done) == ["one", "two"]
    assert shell.live() == []
    assert shell.run("query", "hello", "--json").error["code"] == "not_found"


def test_no_secret_reaches_argv_labels_logs_or_json(shell: Shell) -> None:
    secret = "planted0123456789abcdef"
    host_key = json.loads((shell.home / "state" / "gpuserve" / "host" / "host.json").read_text())["key"]
    env = {"MY_API_KEY": secret}
    done = shell.ok("up", *QUICK, "--name", "secret", "--env", "MY_API_KEY", "--json", "--debug", "-v", env=env)
    sandbox_id = done.data["id"]
    lines = shell.processes(sandbox_id)
    assert lines
    assert not [line for line in lines if secret in line or host_key in line or done.data["token"] in line]
    assert secret not in done.out + done.err
    assert host_key not in done.out + done.err
    status = shell.ok("status", "--json")
    for text in (status.out, shell.ok("logs", "secret").out, Path(done.data["log_file"]).read_text()):
        assert secret not in text
        assert done.data["token"] not in text
        assert host_key not in text
    shell.ok("down", "secret")
