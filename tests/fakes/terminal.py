"""A program on a pseudo-terminal, and what a person would see of it.

    with Terminal([...], env=...) as terminal:
        terminal.until("prompt")
        terminal.type("hello\\n")
    assert "…" in terminal.screen()

``raw`` is every byte that it wrote. ``screen()`` plays them on a small terminal that knows what rich and readline use,
and keeps what has scrolled off; ``foreign()`` are the control sequences that it doesn't know: nobody here sends any.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_KNOWN = re.compile(r"\x1b\[\??(\d*(?:;\d+)*)([ABCDGHJKmhl])")
_CONTROL = re.compile(r"[\x00-\x06\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2060-\u206f]")


class Terminal:
    """Runs ``argv`` on a terminal of ``rows`` by ``columns``, from ``__enter__`` to ``__exit__``."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, rows: int = 24, columns: int = 80
    ) -> None:
        self._argv, self._env, self._cwd = argv, {**env, "TERM": "xterm"}, cwd
        self._env.pop("COLUMNS", None)
        self._size = struct.pack("HHHH", rows, columns, 0, 0)
        self.raw = b""
        self.status: int | None = None

    def __enter__(self) -> Self:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, self._size)
        self._child = subprocess.Popen(
            self._argv,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C reaches the child as a signal
        )
        os.close(follower)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL)
        self.status = self._child.wait()
        os.close(self._leader)

    def type(self, text: str) -> None:
        """What a person types; ``\\x03`` is Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._leader, text.encode())

    def until(self, text: str, *, after: int = 0, within: float = 30.0) -> int:
        """Waits for ``text`` in what comes after that many bytes; the bytes seen up to its end."""
        wanted, deadline = text.encode(), time.monotonic() + within
        while wanted not in self.raw[after:]:
            assert self._read(deadline), (text, self.raw[after:])
        return self.raw.index(wanted, after) + len(wanted)

    def end(self, *, within: float = 30.0) -> int:
        """Waits for the program's end; its exit status."""
        deadline = time.monotonic() + within
        while self._read(deadline):
            pass
        return self._child.wait(timeout=within)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._leader], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._leader, 65536) if ready else b""
        except OSError:  # Linux says so when the other side is closed
            data = b""
        self.raw += data
        return bool(data)

    @property
    def text(self) -> str:
        """All that was written."""
        return self.raw.decode("utf-8")

    def foreign(self) -> list[str]:
        """What could drive a terminal, beside cursor and colour sequences."""
        rest = _KNOWN.sub("", self.text).replace("\r", "").replace("\a", "")
        return _CONTROL.findall(rest)

    def screen(self) -> str:
        """What stands there at the end, with what has scrolled off; blanks at line ends dropped."""
        lines, row, column, at, text = [""], 0, 0, 0, self.text
        while at < len(text):
            if found := _KNOWN.match(text, at):
                count = int(found[1]) if found[1].isdigit() else 1
                if found[2] == "A":
                    row = max(0, row - count)
                elif found[2] == "K":
                    lines[row] = "" if found[1] == "2" else lines[row][:column]
                elif found[2] == "C":
                    column += count
                at = found.end()
                continue
            letter, at = text[at], at + 1
            if letter == "\n":
                row += 1
                lines += [""] if row == len(lines) else []
            elif letter == "\r":
                column = 0
            elif letter == "\b":
                column = max(0, column - 1)
            elif letter.isprintable() or letter == "\t":
                lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
                column += 1
        return "\n".join(line.rstrip() for line in lines)
