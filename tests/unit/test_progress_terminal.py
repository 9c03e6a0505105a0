"""What ``up`` draws on a terminal of 80 columns, and what stays of it off one."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console

from fakes.deployments import DEPLOYMENT
from gpuserve import engines
from gpuserve.cli.bars import Board
from gpuserve.cli.narrator import Narrator
from gpuserve.cli.output import Output
from gpuserve.cli.progress import Progress
from gpuserve.records import Endpoint
from gpuserve.serving.events import Boot, EngineLog, Event, Launched, Ready, Removed, SandboxState, Warned

LINES = [
    (60, "Using max model len 131072"),
    (62, "model-00001-of-00002.safetensors:  10%|#  | 482M/4.83G [00:10<01:40, 44.0MB/s]"),
    (63, "model-00002-of-00002.safetensors:  20%|## | 966M/4.83G [00:10<01:40, 44.0MB/s]"),
    (134, "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]"),
    (210, "GPU KV cache size: 1,234,567 tokens"),
    (210, "Maximum concurrency for 131,072 tokens per request: 9.42x"),
    (290, "Application startup complete"),
]


def events() -> Iterable[Event]:
    yield SandboxState("n-1", "pending_build", 0)
    yield SandboxState("n-1", "creating", 35)
    yield SandboxState("n-1", "started", 37)
    yield Launched(DEPLOYMENT, "/logs/n-1.log", 38)
    for seconds, line in LINES:
        yield EngineLog(line + "\n")
        fact = engines.load("vllm").read(line)
        assert fact is not None
        yield Boot(fact, seconds)
    yield Warned("mind the gap")
    yield Ready(DEPLOYMENT, Endpoint(url="http://127.0.0.1:1", served_model="b"), 291)


def console(*, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system="truecolor", legacy_windows=False)


def written(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def visible(text: str) -> list[str]:
    """The lines that came by, without what moves the cursor or colours them."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line.strip()]


def test_finished_phases_stand_above_with_the_time_they_took() -> None:
    screen = console()
    with Progress(Output(), console=screen) as progress:
        for event in events():
            progress.draw(event)
    lines = visible(written(screen))
    assert max(map(len, lines)) <= 80
    times = {line.split("  ")[0]: line.split()[-1] for line in lines if re.search(r" \d+:\d\d$", line)}
    assert times["queue"] == "0:35"
    assert times["sandbox"] == "0:37"
    assert times["download"] == "1:12"
    assert times["KV cache"] == "1:20"
    assert times["ready"] == "4:51"
    assert any(line.startswith("ready     1.2M-token KV cache, 131k context, room for 9.4") for line in lines)
    assert any("weights 1:18, download 1:12" in line for line in lines)
    assert "warning   mind the gap" in lines


def test_a_running_download_shows_gib_rate_and_what_is_left() -> None:
    narrator, screen = Narrator(), console()
    for event in list(events())[:10]:
        narrator.take(event, 63)
    board = Board(narrator, screen, began=0.0)
    board.note("a line of the log\tthat is far too long for any terminal " * 3 + "\x1b[2J")
    screen.print(board.render())
    lines = visible(written(screen))
    assert "1.3 of 9.0 GiB, 84 MiB/s" in lines[0]
    assert lines[0].startswith("download  ")
    assert ["model-00001-of-0" in lines[1], "model-00002-of-0" in lines[2]] == [True, True]
    assert max(map(len, lines)) <= 80
    assert len(lines) == 4
    assert "\x1b[2J" not in written(screen)


@pytest.mark.parametrize("off", [False, True])
def test_no_color_is_honoured(off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if off:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    narrator, screen = Narrator(), console()
    for event in list(events())[:10]:
        narrator.take(event, 63)
    screen.print(Board(narrator, screen, began=0.0).render())
    coloured = re.search(r"\x1b\[[0-9;]*(?:3[0-7]|38;|9[0-7])[0-9;]*m", written(screen))
    assert (coloured is None) is off


def test_the_question_at_ctrl_c_is_asked_with_the_drawing_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen, stderr = console(), sys.stderr
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    with Progress(Output(), console=screen) as progress:
        for event in list(events())[:8]:
            progress.draw(event)
        assert sys.stderr is not stderr
        assert progress.ask_keep("n-1")
        drawn = written(screen)
        assert drawn.endswith("\x1b[?25h") or "\x1b[?25h" in drawn.rsplit("\x1b[?25l", 1)[1]
        assert sys.stderr is stderr
        progress.draw(Removed("n-1"))
    assert written(screen) == drawn
    assert capsys.readouterr().err == (
        "\nn-1 is still running and costs money. Delete it? [Y/n] sandbox   n-1 deleted, it is gone\n"
    )


#: Draws a boot on the terminal that it runs in, then asks.
CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}]
from test_progress_terminal import events
from gpuserve.cli.output import Output
from gpuserve.cli.progress import Progress
output = Output()
assert output.lively
with Progress(output) as progress:
    for event in events():
        progress.draw(event)
    print("kept" if progress.ask_keep("n-1") else "deleted", flush=True)
"""


def test_on_a_real_terminal(tmp_path: Path) -> None:
    """A pseudo-terminal of 80 columns, whose person answers the question."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    script = tmp_path / "child.py"
    script.write_text(
        CHILD.format(here=str(Path(__file__).parent), tests=str(Path(__file__).parents[1])), encoding="utf-8"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    child = subprocess.Popen(
        [sys.executable, str(script)], stdin=follower, stdout=subprocess.PIPE, stderr=follower, env=env
    )
    os.close(follower)
    try:
        drawn = _read_until(leader, b"[Y/n] ")
        os.write(leader, b"n\n")
        said, _ = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
        os.close(leader)
    assert said == b"kept\n"
    lines = visible(drawn.decode())
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("ready     1.2M-token KV cache") for line in lines)
    assert lines[-1] == "n-1 is still running and costs money. Delete it? [Y/n]"
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")


def _read_until(leader: int, end: bytes) -> bytes:
    drawn, deadline = b"", time.monotonic() + 30
    while not drawn.endswith(end):
        ready, _, _ = select.select([leader], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, drawn
        drawn += os.read(leader, 65536)
    return drawn


def test_off_a_terminal_each_phase_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(Output()) as progress:
        for event in events():
            progress.draw(event)
    shown = capsys.readouterr()
    times = "queue 0:35, sandbox 0:02, engine 0:22, weights 1:18, download 1:12, KV cache 1:20, port 0:01"
    assert shown.out == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown.err)
    assert [re.sub(r" {2,}", "  ", line) for line in shown.err.splitlines()] == [
        "sandbox  n-1 waiting for capacity  0:00",
        "sandbox  n-1 creating  0:35",
        "sandbox  n-1 created  0:37",
        "engine  started, its log goes to /logs/n-1.log  0:38",
        "engine  loading weights: context of 131072 tokens  1:00",
        "engine  downloading weights: 0.4 of ~9.0 GiB, 42 MiB/s, 3:28 left  1:02",
        "engine  sizing the KV cache: 1,234,567 tokens of KV cache  3:30",
        "engine  opening its port: answering  4:50",
        "warning  mind the gap",
        f"ready  1.2M-token KV cache, 131k context, room for 9.4 requests of it  4:51  ({times})",
    ]
