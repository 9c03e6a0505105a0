"""An engine's log: fetched while it grows, each line once and in order, saved as it streams, secrets taken out."""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from gpuserve.errors import GpuserveError, NetworkError, NotFound, PlatformError, RateLimited, TimedOut
from gpuserve.redaction import Redactor
from gpuserve.sandboxes.session import EngineSession
from gpuserve.serving.logfeed import Feed

#: Seconds between two questions whether the engine has ended, and the silence after which they ask for its processes.
LOOK_EVERY = 0.5
#: Seconds between two looks that must both find no process, with no exit code in between.
CONFIRM_AFTER = 0.3
#: Seconds for which the last of an ended engine's log is asked for while the platform fails.
LAST_WORDS = 10.0
#: Logs of one name that are written at once.
MOST_COPIES = 9
#: Seconds that a finished boot waits for its tail.
FINISH_WITHIN = 5.0


class LogFile:
    """The redacted copy on this machine, 0600, appended to as lines come. ``path`` None keeps none.

    Where another command writes ``path`` (two of them may bring up one name), this one writes a file beside it.
    """

    def __init__(self, path: Path | None, redact: Redactor) -> None:
        self.path = path
        self.redact = redact
        self.problem = ""
        self._writing = threading.Lock()
        self._fd: int | None = None
        if path is not None:
            self._guarded(lambda: self._open(path))

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(1, MOST_COPIES + 1):
            self.path = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if _is_free(self._fd):
                self._empty()
                return
            self._let_go()
        raise OSError(errno.EBUSY, "other commands are writing there")

    def _empty(self) -> None:
        if self._fd is not None and stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, 0)

    def write(self, text: str) -> str:
        """Appends ``text`` without its secrets, and returns it so. A full disk ends the copy, not the boot."""
        clean = self.redact(text)
        self._guarded(lambda: self._append(clean.encode(errors="replace")))
        return clean

    def _append(self, data: bytes) -> None:
        while data and self._fd is not None:
            data = data[os.write(self._fd, data) :]

    def rewrite(self, text: str) -> str:
        """Puts ``text`` without its secrets in the place of all that was written, and returns it so."""
        self._guarded(self._empty)
        return self.write(text)

    def close(self) -> None:
        """Lets go of the file; what is written later is not saved."""
        with self._writing:
            self._let_go()

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _guarded(self, step: Callable[[], None]) -> None:
        """One step at a time; one that fails ends the copy."""
        with self._writing:
            try:
                step()
            except OSError as error:
                self._let_go()
                self.problem = f"the engine's log can't be saved in {self.path}: {error.strerror}"
                self.path = None


def _is_free(fd: int) -> bool:
    """Takes a file for this process, unless another has it. What is no plain file can't be taken, nor is it asked."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: then it is as it always was
        return True
    return True


class Tail:
    """Follows an engine's log and life in a thread of its own, so that a slow answer delays nobody.

    ``exit_code`` is the engine's once ``ended``; it stays None if the session vanished, or its shell died with the
    engine, so that none was ever written. ``error`` is what made following impossible, if anything did.
    ``look_every`` is in seconds.
    """

    def __init__(self, session: EngineSession, file: LogFile, *, look_every: float = LOOK_EVERY) -> None:
        self._session = session
        self._file = file
        self._look_every = look_every
        self.feed = Feed(session)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuserve-log", daemon=True)
        self.whole: list[str] = []
        self.ended = threading.Event()
        self.exit_code: int | None = None
        self.error: GpuserveError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._halt()
        self._file.close()

    def drain(self) -> Iterator[str]:
        """What came since the last call, in order."""
        while True:
            try:
                yield self._lines.get_nowait()
            except queue.Empty:
                return

    def finish(self) -> None:
        """Ends the thread, once it has taken what is still on its way."""
        self._halt()
        if self._thread.is_alive():
            self._thread.join(timeout=FINISH_WITHIN)

    def _halt(self) -> None:
        self._stop.set()
        self.feed.wake()

    # -- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.feed.begin()
            while not self._stop.is_set() and not self.ended.is_set():
                self._guarded(self._look)
                self._listen()
            if not self.ended.is_set():
                self._guarded(lambda: self._hand_on(self.feed.last()))
        finally:
            self.feed.close()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except NotFound:
            self.ended.set()
        except (NetworkError, PlatformError, RateLimited, TimedOut):
            return  # the next round asks again; the waiting side has the deadline
        except GpuserveError as error:
            self.error = error
            self.ended.set()

    def _listen(self) -> None:
        """Takes in what comes until it is time for the next look."""
        until = time.monotonic() + self._look_every
        while not self._stop.is_set() and not self.ended.is_set() and (left := until - time.monotonic()) > 0:
            self._guarded(lambda left=left: self._hand_on(self.feed.listen(left)))  # type: ignore[misc]

    def _look(self) -> None:
        code = self._session.exit_code()
        if code is None and (self.feed.silent_for < self._look_every or not self._vanished()):
            return
        self.exit_code = code
        try:
            self._last_words()
        finally:
            self.ended.set()

    def _vanished(self) -> bool:
        """Whether the engine is gone with its shell. Silence proves nothing, and neither does one look."""
        if self._session.alive() is not False:
            return False
        self._stop.wait(CONFIRM_AFTER)
        return self._session.exit_code() is None and self._session.alive() is False

    def _last_words(self) -> None:
        until = time.monotonic() + LAST_WORDS
        while True:
            try:
                return self._hand_on(self.feed.snapshot(to_the_end=True))
            except (NetworkError, PlatformError, RateLimited, TimedOut):
                if time.monotonic() > until or self._stop.wait(0.5):
                    return None  # what was seen before must do

    def _hand_on(self, new: str) -> None:
        if self.feed.corrected:
            self.feed.corrected = False
            self.whole[:] = [self._file.rewrite(self.feed.cursor.text())]
            if new:
                self._lines.put(self._file.redact(new))
        elif new:
            clean = self._file.write(new)
            self.whole.append(clean)
            self._lines.put(clean)
