"""Where an engine's log comes from: the platform's stream while that works, else snapshots at growing pauses.

A snapshot is the whole log, and the truth. It is fetched when the stream gives reason to doubt it: at the engine's
end, when nothing came for long, when the stream contradicts itself or closes again and again without bringing a line.
"""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue

from gpuserve.sandboxes.session import EngineSession
from gpuserve.sandboxes.stream import LogStream
from gpuserve.serving.loglines import Contradiction, Cursor, Replay

#: Seconds between two snapshots where there is no stream: the first pause, its growth, and the longest.
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 0.7, 1.3, 5.0
#: Streams that end within ``BRIEF`` seconds and bring no new line, one after another, before streaming is given up.
USELESS_STREAMS = 3
BRIEF = 10.0
#: Seconds before a stream is opened again: the first pause, which doubles, and the longest.
REOPEN, REOPEN_LONGEST = 0.2, 5.0
#: Seconds of silence after which a snapshot tells whether the stream is stuck; doubled each time that it is not.
SILENCE = 60.0
#: Seconds of silence before readiness that are reason enough to look at the whole log once.
QUIET_BEFORE_END = 5.0


class Feed:
    """New complete lines of one engine's log, each once and in order. For one thread; ``wake`` for any."""

    def __init__(self, session: EngineSession, *, streaming: bool = True) -> None:
        self._session = session
        self.cursor = Cursor()
        self._inbox: SimpleQueue[tuple[LogStream | None, str | None]] = SimpleQueue()
        self._stream: LogStream | None = None
        self._replay = Replay(self.cursor)
        self._streaming = streaming
        self._useless = 0
        self._opened = 0.0
        self._lines_at_opening = 0
        self._heard = False
        self._open_at = 0.0
        self._reopen = REOPEN
        self._pause = FIRST_PAUSE
        self._next = 0.0
        self._silence = SILENCE
        self._last_news = time.monotonic()
        self.corrected = False
        """Whether the last lines came with a correction of earlier ones; ``cursor.text()`` is right."""
        self.fetched = 0
        """Bytes of log fetched so far, streams and snapshots together."""
        self.ways: dict[str, int] = {"streams": 0, "snapshots": 0}

    @property
    def silent_for(self) -> float:
        """Seconds since the last new line (or since the beginning)."""
        return time.monotonic() - self._last_news

    def wake(self) -> None:
        """Makes a ``listen`` of another thread return."""
        self._inbox.put((None, ""))

    def begin(self) -> None:
        """Opens the first stream, which takes a while, before anything else is asked."""
        if self._streaming and self._stream is None:
            self._open(time.monotonic())

    def listen(self, seconds: float) -> str:
        """New lines, waited for at most ``seconds``; "" where none came.

        Raises:
            GpuserveError: a snapshot was due and can't be had.
        """
        now = time.monotonic()
        until = now + seconds
        if self._streaming and self._stream is None and now >= self._open_at:
            self._open(now)
        if self._due(now):
            return self.snapshot()
        upcoming = self._open_at if self._streaming and self._stream is None else until
        if not self._streaming:
            upcoming = self._next
        return self._receive(max(0.0, min(until, upcoming) - now))

    def snapshot(self, *, to_the_end: bool = False) -> str:
        """What the whole log has more than was handed out.

        Raises:
            GpuserveError: it can't be had.
        """
        raw, size = self._session.sized_log()
        self.fetched += size
        self.ways["snapshots"] += 1
        fixed = self.cursor.correct(raw)
        new = (fixed or "") + self.cursor.advance(raw, to_the_end=to_the_end)
        if fixed is not None:
            self.corrected = True
            self._give_up()
        elif new and self._stream is not None:
            self._ended(stuck=True)
        self._after_snapshot(bool(new))
        return new

    def last(self, *, quiet: float = 0.06, within: float = 0.5) -> str:
        """What is still on its way when nobody will listen any more."""
        # A stream that has said nothing yet isn't waited for: that could take longer than to ask.
        doubtful = not self._heard or self.silent_for > QUIET_BEFORE_END
        found, until = "", time.monotonic() + within
        while not doubtful and self._stream is not None and time.monotonic() < until:
            new = self._receive(quiet)
            found += new
            if not new and self._inbox.empty():
                break
        return found + (self.snapshot() if doubtful or self._stream is None else "")

    def close(self) -> None:
        """Gives the stream up."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # -- the stream ----------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        self._stream = self._session.stream(self._inbox)
        self._replay = Replay(self.cursor)
        self._opened, self._lines_at_opening, self._heard = now, len(self.cursor), False
        if self._stream is None:
            self._give_up()
        else:
            self.ways["streams"] += 1

    def _receive(self, seconds: float) -> str:
        try:
            source, piece = self._inbox.get(timeout=seconds) if seconds > 0 else self._inbox.get_nowait()
        except Empty:
            return ""
        if piece and source is not None:
            self.fetched += len(piece.encode("utf-8", "replace"))
        if source is None or source is not self._stream:
            return ""  # somebody woke us, or a stream that was given up still had something to say
        if piece is None:
            self._ended()
            return ""
        return self._fed(piece)

    def _fed(self, piece: str) -> str:
        self._heard = True
        try:
            new = self._replay.feed(piece)
        except Contradiction:
            self._give_up()
            self._next = 0.0
            return ""
        if new:
            self._news()
        return new

    def _ended(self, *, stuck: bool = False) -> None:
        """The stream is over: another is opened after a pause, unless that has proved useless."""
        now = time.monotonic()
        brought = len(self.cursor) > self._lines_at_opening and not stuck
        if brought or (now - self._opened > BRIEF and not stuck):
            self._useless, self._reopen = 0, REOPEN
        else:
            self._useless += 1
        self.close()
        self._open_at = now + self._reopen
        self._reopen = min(self._reopen * 2, REOPEN_LONGEST)
        if self._useless >= USELESS_STREAMS:
            self._give_up()

    def _give_up(self) -> None:
        self.close()
        self._streaming = False

    # -- snapshots -----------------------------------------------------------------------------------------

    def _due(self, now: float) -> bool:
        if not self._streaming:
            return now >= self._next
        return now - self._last_news > self._silence

    def _after_snapshot(self, news: bool) -> None:
        self._next = time.monotonic() + self._pause
        self._pause = min(self._pause * GROWTH, LONGEST_PAUSE)
        if news:
            self._news()
        else:
            self._silence *= 2

    def _news(self) -> None:
        self._last_news = time.monotonic()
        self._silence = SILENCE
