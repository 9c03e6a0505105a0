"""Decodes a stream of server-sent events, as the HTML standard describes it, from bytes in any chunking."""

from __future__ import annotations

import codecs
import re

# Only these end a line: unlike ``str.splitlines``, neither U+2028 nor a form feed, which may stand inside JSON.
_LINE_END = re.compile(r"\r\n|\n|\r")


class Decoder:
    """Feed it bytes as they arrive; it gives back the data of each event that they complete.

    Several data lines of one event are joined by a line feed. Comments and the fields ``event``, ``id`` and
    ``retry`` are left out. Bytes that are no UTF-8 become U+FFFD, and a byte order mark at the start is dropped.
    """

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True
        self._after_return = False
        self._line: list[str] = []  # the pieces of the line that has no end yet
        self._data: list[str] = []  # the data lines of the event that has no end yet

    def feed(self, chunk: bytes) -> list[str]:
        """The data of every event that ``chunk`` completes, in order."""
        return self._take(self._text.decode(chunk))

    def finish(self) -> list[str]:
        """The data of an event that the stream broke off, if any (the standard drops it; the caller decides)."""
        done = self._take(self._text.decode(b"", final=True))
        return done + self._end_line() + self._end_event()

    def _take(self, text: str) -> list[str]:
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_return and text:
            self._after_return = False
            text = text.removeprefix("\n")
        if not text:
            return []
        self._after_return = text.endswith("\r")
        done: list[str] = []
        *ended, rest = _LINE_END.split(text)
        for piece in ended:
            self._line.append(piece)
            done += self._end_line()
        if rest:
            self._line.append(rest)
        return done

    def _end_line(self) -> list[str]:
        line = "".join(self._line)
        self._line.clear()
        if not line:
            return self._end_event()
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return []

    def _end_event(self) -> list[str]:
        done = ["\n".join(self._data)] if self._data else []
        self._data.clear()
        return done
