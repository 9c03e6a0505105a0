"""``up`` and an engine that hangs or is killed with its shell; ``logs -f`` through a stream that comes and goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from e2e.usershell import QUICK, Shell, bring_up, eventually


@pytest.fixture(autouse=True)
def _nothing_else_is_live(shell: Shell) -> Iterator[None]:
    yield
    shell.run("down", "--all", "--yes")


def of_sandboxes(shell: Shell) -> list[psutil.Process]:
    """The processes in this home's sandboxes, session shells included."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if "DAYTONA_SANDBOX_ID" in environment and str(shell.home) in environment.get("HOME", ""):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def engines(shell: Shell) -> list[psutil.Process]:
    """Those that are engines."""
    return [each for each in of_sandboxes(shell) if "--ctx-size" in " ".join(each.cmdline())]


def test_a_hung_engine_ends_at_the_time_limit_and_is_said_to_hang(shell: Shell) -> None:
    up = shell.start("up", *QUICK, "--name", "hung", "--timeout", "25s", "--json")
    for process in eventually(lambda: engines(shell), every=0.02):
        process.suspend()
    out, _ = up.communicate(timeout=90)
    error = json.loads(out.splitlines()[-1])["error"]
    assert up.returncode == 10
    assert "hangs: its process has not ended" in error["message"]
    assert shell.live() == []
    assert shell.processes() == []


def test_an_engine_killed_with_its_shell_is_missed(shell: Shell) -> None:
    up = shell.start("up", *QUICK, "--name", "shot", "--timeout", "120s", "--json", "--label", "host/fault=dead-proxy")
    log = shell.home / "state" / "gpuserve" / "logs" / "shot.log"
    eventually(lambda: log.is_file() and "listening on" in log.read_text())
    engine = engines(shell)[0]
    parent = engine.parent()
    assert parent is not None
    parent.kill()  # the shell first: the engine lives on, and so does the wait for it
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(up.pid).wait(3)
    written = log.read_text()
    engine.kill()
    out, _ = up.communicate(timeout=60)
    error = json.loads(out.splitlines()[-1])["error"]
    assert up.returncode == 9
    assert "gone without an exit code" in error["message"]
    assert Path(error["log_file"]).read_text() == written
    assert shell.live() == []


def test_logs_f_shows_each_line_once_and_ends_with_the_engine(shell: Shell) -> None:
    bring_up(shell, "--name", "told")
    whole = shell.ok("logs", "told").out
    follow = shell.start("logs", "-f", "told")
    assert follow.stdout is not None
    first = [follow.stdout.readline() for _ in whole.splitlines()]
    assert "".join(first) == whole
    engines(shell)[0].terminate()
    rest, told = follow.communicate(timeout=60)
    assert follow.returncode == 0
    assert "ended with exit code" in told
    assert whole + rest == shell.ok("logs", "told").out
