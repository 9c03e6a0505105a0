"""An engine's log, line by line: what was handed out already, whichever way it came."""

from __future__ import annotations

import re

_REPLACED = re.compile("\ufffd+")


class Contradiction(Exception):
    """A stream that replays the log says something else than the log said before."""


class Cursor:
    """The lines handed out so far. Snapshots and streams are measured against them, so that each comes once."""

    def __init__(self) -> None:
        self._held: list[str] = []

    def __len__(self) -> int:
        return len(self._held)

    def advance(self, snapshot: str, *, to_the_end: bool = False) -> str:
        """The complete lines of ``snapshot`` not handed out before; with ``to_the_end`` an unfinished one too.

        A snapshot that came back short brings nothing.
        """
        new = _lines(snapshot, to_the_end=to_the_end)[len(self._held) :]
        self._held += new
        return "".join(new)

    def add(self, line: str) -> None:
        """Notes one line, with its end, as handed out."""
        self._held.append(line)

    def holds(self, index: int, line: str) -> bool:
        """Whether ``line`` is what was handed out as line ``index``."""
        return same(self._held[index], line)

    def correct(self, snapshot: str) -> str | None:
        """Takes ``snapshot`` for the truth where it contradicts what was handed out; None where it does not.

        Returns its lines, from the first that differs on, that had not been handed out.
        """
        truth = _lines(snapshot, to_the_end=False)
        wrong = next((i for i, (a, b) in enumerate(zip(self._held, truth, strict=False)) if not same(a, b)), None)
        if wrong is None:
            return None
        shown = set(self._held[wrong:])
        self._held = truth
        return "".join(line for line in truth[wrong:] if line not in shown)

    def text(self) -> str:
        """All that was handed out."""
        return "".join(self._held)


class Replay:
    """One stream, which begins at the log's first byte and may be cut anywhere."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._at = 0
        self._unfinished: list[str] = []

    def feed(self, piece: str) -> str:
        """The complete lines that are new with this piece.

        Raises:
            Contradiction: the stream differs from what was handed out before.
        """
        if "\n" not in piece:
            self._unfinished.append(piece)
            return ""
        lines = _lines("".join((*self._unfinished, piece)), to_the_end=True)
        self._unfinished = [] if lines[-1].endswith("\n") else [lines.pop()]
        return "".join(line for line in lines if self._is_new(line))

    def _is_new(self, line: str) -> bool:
        at, self._at = self._at, self._at + 1
        if at == len(self._cursor):
            self._cursor.add(line)
            return True
        if not self._cursor.holds(at, line):
            raise Contradiction
        return False


def same(one: str, other: str) -> bool:
    """Whether two copies of a line are the same, but for how many U+FFFD stand for a run of invalid bytes."""
    return one == other or _REPLACED.sub("\ufffd", one) == _REPLACED.sub("\ufffd", other)


def _lines(text: str, *, to_the_end: bool) -> list[str]:
    """The lines of ``text`` with their ends. Only a newline ends a line: progress bars hold carriage returns."""
    *whole, rest = text.split("\n")
    return [line + "\n" for line in whole] + ([rest] if rest and to_the_end else [])
