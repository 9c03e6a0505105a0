"""The session agent's own parts, on real FIFOs: what becomes of lines, and what a full disk does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuserve.host import session_agent
from gpuserve.host.session_agent import STDERR_MARK, STDOUT_MARK, Command, Stream
from gpuserve.host.sessions import split

OUT, ERR = STDOUT_MARK, STDERR_MARK


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def stream(tmp_path: Path, log: int) -> Iterator[Stream]:
    made = Stream(tmp_path / "stdout", STDOUT_MARK, log)
    yield made
    made.release()
    os.close(made.fd)


def feed(stream: Stream, *pieces: bytes) -> None:
    with stream.fifo.open("wb", buffering=0) as writer:
        for piece in pieces:
            writer.write(piece)
            assert stream.pump() is True


def test_pieces_become_marked_lines(stream: Stream, tmp_path: Path) -> None:
    assert stream.pump() is False
    feed(stream, b"a", b"b\nc\n\n", b"\xff\x00d\r", b"e\nrest")
    assert (tmp_path / "log").read_bytes() == OUT + b"ab\n" + OUT + b"c\n" + OUT + b"\n" + OUT + b"\xff\x00d\re\n"
    stream.release()
    assert stream.pump() is None
    assert (tmp_path / "log").read_bytes().endswith(b"\n" + OUT + b"rest\n")
    assert stream.pump() is None
    assert (tmp_path / "log").read_bytes().count(b"rest") == 1


def test_endless_output_without_a_newline_is_cut(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_agent, "LINE_LIMIT", 10)
    feed(stream, b"x" * 10, b"y", b"z\n")
    assert (tmp_path / "log").read_bytes() == OUT + b"x" * 10 + b"y\n" + OUT + b"z\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_loses_lines_and_not_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    stream = Stream(tmp_path / "stdout", STDOUT_MARK, full)
    feed(stream, b"lost\n", b"lost too\n")
    assert capsys.readouterr().err.count("No space left") == 2
    stream.release()
    os.close(stream.fd)
    os.close(full)


def test_a_command_is_quoted_for_the_shell_and_its_text_is_not_in_it(tmp_path: Path) -> None:
    directory = tmp_path / "it's a dir" / "c1"
    directory.mkdir(parents=True)
    (directory / "command").write_text("secret words")
    os.mkfifo(directory / "stdin")
    command = Command(directory)
    script = command.script(tmp_path / "report").decode()
    assert "secret" not in script
    assert "'\"'\"'s a dir/c1/command'" in script
    command.write_exit_code("3")
    command.close_stdin()
    assert sorted(path.name for path in directory.iterdir()) == ["command", "exit_code"]


def test_a_log_is_split_by_its_lines_marks_only() -> None:
    assert split(b"") == (b"", b"")
    log = OUT + b"one " + ERR + b" inside\n" + ERR + b"two\n" + OUT + b"\n"
    assert split(log) == (b"one " + ERR + b" inside\n\n", b"two\n")
