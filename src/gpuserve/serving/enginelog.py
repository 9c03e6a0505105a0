"""An engine's log: fetched while it grows, each line once and in order, saved as it streams, secrets taken out."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from gpuserve.errors import GpuserveError, NetworkError, NotFound, PlatformError
from gpuserve.redaction import Redactor
from gpuserve.sandboxes.session import EngineSession

#: Seconds between two fetches of a log that is being followed.
POLL = 0.7


class Cursor:
    """Turns the platform's cumulative snapshots into what is new: complete lines only, each once."""

    def __init__(self) -> None:
        self._taken = 0

    def advance(self, snapshot: str, *, to_the_end: bool = False) -> str:
        """The complete lines of ``snapshot`` not handed out before; with ``to_the_end`` an unfinished one too."""
        end = len(snapshot) if to_the_end else snapshot.rfind("\n") + 1
        if end <= self._taken:  # nothing new, or a snapshot that came back short
            return ""
        new = snapshot[self._taken : end]
        self._taken = end
        return new


class LogFile:
    """The redacted copy on this machine, 0600, appended to as lines come. ``path`` None keeps none."""

    def __init__(self, path: Path | None, redact: Redactor) -> None:
        self.path = path
        self.redact = redact
        self.problem = ""
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        except OSError as error:
            self._give_up(error)

    def write(self, text: str) -> str:
        """Appends ``text`` without its secrets, and returns it so. A full disk ends the copy, not the boot."""
        clean = self.redact(text)
        if self.path is not None:
            try:
                with self.path.open("a", encoding="utf-8", errors="replace") as file:
                    file.write(clean)
            except OSError as error:
                self._give_up(error)
        return clean

    def _give_up(self, error: OSError) -> None:
        self.problem = f"the engine's log can't be saved in {self.path}: {error.strerror}"
        self.path = None


class Tail:
    """Follows an engine's log and life in a thread of its own, so that a slow answer delays nobody.

    ``exit_code`` is the engine's once ``ended``; it stays None if the session vanished without one.
    """

    def __init__(self, session: EngineSession, file: LogFile) -> None:
        self._session = session
        self._file = file
        self._cursor = Cursor()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuserve-log", daemon=True)
        self.whole: list[str] = []
        self.ended = threading.Event()
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._step()
            except NotFound:
                self.ended.set()
            except (NetworkError, PlatformError):
                pass  # the next round asks again; the waiting side has the deadline
            except GpuserveError:
                self.ended.set()
            if self.ended.is_set():
                return
            self._stop.wait(max(0.05, POLL - (time.monotonic() - started)))

    def _step(self) -> None:
        code = self._session.exit_code()
        self._take(to_the_end=code is not None)
        if code is not None:
            self.exit_code = code
            self.ended.set()

    def _take(self, *, to_the_end: bool = False) -> None:
        new = self._cursor.advance(self._session.log(), to_the_end=to_the_end)
        if new:
            clean = self._file.write(new)
            self.whole.append(clean)
            self._lines.put(clean)

    def drain(self) -> Iterator[str]:
        """What came since the last call, in order."""
        while True:
            try:
                yield self._lines.get_nowait()
            except queue.Empty:
                return

    def finish(self) -> None:
        """Ends the thread and takes what it has not yet fetched."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
        if not self._thread.is_alive() and not self.ended.is_set():
            try:
                self._take()
            except GpuserveError:
                return  # the engine is up; its log is a copy that ends here
