"""The output: OpenAI batch output JSONL, locked, mended, appended a line at a time, and never rewritten in place."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from gpuserve.bulk.rows import id_digest
from gpuserve.errors import Conflict, GpuserveError, UsageError

#: How every line that this room writes begins. A line that begins otherwise is somebody else's.
START = b'{"id":"batch_req_'
_ASK = re.compile(r"batch_req_([0-9a-f]{16})")
_CHUNK = 1 << 16
_GOOD = b'"error":null}\n'


class OutputFile:
    """The output of one batch, held by a lock while it is open. Mended on opening, see ``mended``.

    Raises:
        Conflict: another run holds it, or it can't be written.
        UsageError: it is no output of a batch; nothing of it was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = path.resolve()  # what is rewritten takes the place of the file, not of a link to it
        self.mended = 0
        """Bytes of a half-written end that were cut off."""
        self._side = path.with_name(f".{path.name}.new")
        self._fd = self._open()
        self._side.unlink(missing_ok=True)
        self._dirty, self._closing = threading.Event(), False
        self._failure: OSError | None = None
        self._syncer: threading.Thread | None = None
        try:
            self._mend()
        except BaseException:
            os.close(self._fd)
            raise
        self._size = os.fstat(self._fd).st_size

    def _open(self) -> int:
        """The file, locked. Another run may just have replaced it: then the lock is on a file that is gone."""
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is no file that answers could be kept in", hint="name one with -o")
        while True:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise _unwritable(self.path, error) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(fd)
                raise Conflict(
                    f"another run is writing {self.path}", hint="wait for it, or name another file with -o"
                ) from error
            except OSError as error:  # a file system without locks
                os.close(fd)
                raise _unwritable(self.path, error) from error
            with suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == self.path.stat().st_ino:
                    return fd
            os.close(fd)

    def _mend(self) -> None:
        """Cuts off what a run that was killed left half-written: all after the last line that is whole."""
        size, whole = os.fstat(self._fd).st_size, 0
        broken = 0  # the number of the first broken line
        for number, at, line in self._raw():
            good = line.endswith(b"\n") and _parsed(line) is not None
            if good and broken:
                raise _foreign(self.path, broken)
            if good:
                whole = at + len(line)
            elif not (_torn(line) or (whole and line.startswith(b"\0"))):  # a lost block, and what came behind it
                raise _foreign(self.path, number)
            else:
                broken = broken or number
        if whole < size:
            self.mended = size - whole
            os.ftruncate(self._fd, whole)
            os.fsync(self._fd)

    def _raw(self) -> Iterator[tuple[int, int, bytes]]:
        """Number, place and bytes of each line."""
        at = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, at, line
                at += len(line)

    def answers(self) -> Iterator[tuple[int, int, bytes, bytes, bool]]:
        """Place, size, digest of the custom_id, the question's digest (b"" if foreign) and success of each line."""
        for _, at, line in self._raw():
            row = _parsed(line)
            assert row is not None
            found = _ASK.fullmatch(str(row.get("id")))
            yield (
                at,
                len(line),
                id_digest(str(row["custom_id"])),
                bytes.fromhex(found[1]) if found else b"",
                succeeded(row),
            )

    def append(self, line: bytes) -> None:
        """Writes one whole line. It has reached the system when this returns, and the disk soon after.

        Raises:
            Conflict: the disk is full, or fails; what was written of the line is taken back.
        """
        try:
            if self._failure is not None:
                raise self._failure
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            with suppress(OSError):  # then the next run mends it
                os.ftruncate(self._fd, self._size)
            raise _unwritable(self.path, error) from error
        self._size += len(line)
        if self._syncer is None:
            self._syncer = threading.Thread(target=self._sync, name="gpuserve-batch-sync", daemon=True)
            self._syncer.start()
        self._dirty.set()

    def _sync(self) -> None:
        """Has the disk write what was appended, again and again: one call for all that came meanwhile."""
        while not self._closing:
            self._dirty.wait()
            self._dirty.clear()
            try:
                os.fsync(self._fd)
            except OSError as error:
                self._failure = error
                return

    def lines(self, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """The lines at ``places`` (byte and size)."""
        return (os.pread(self._fd, size, at) for at, size in places)

    @property
    def size(self) -> int:
        """Bytes in it."""
        return self._size

    def replace(self, chunks: Iterable[bytes]) -> None:
        """Replaces the file, whole or not at all, by ``chunks``. The lock is kept.

        Raises:
            Conflict: the disk is full; the file is as it was.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._stop_syncer()
        try:
            new = os.open(self._side, flags, os.fstat(self._fd).st_mode & 0o777)
            try:
                fcntl.flock(new, fcntl.LOCK_EX)
                with os.fdopen(os.dup(new), "wb", buffering=_CHUNK) as file:
                    for chunk in chunks:
                        file.write(chunk)
                os.fsync(new)
                self._side.replace(self.path)
            except BaseException:
                os.close(new)
                self._side.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _unwritable(self.path, error) from error
        os.close(self._fd)
        self._fd, self._size = new, os.fstat(new).st_size
        self._sync_directory()

    def _stop_syncer(self) -> None:
        if self._syncer is not None:
            self._closing = True
            self._dirty.set()
            self._syncer.join()
            self._syncer, self._closing = None, False

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Has all of it written to the disk and lets go of the lock.

        Raises:
            Conflict: the disk didn't take it.
        """
        self._stop_syncer()
        try:
            os.fsync(self._fd)
            self._sync_directory()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            os.close(self._fd)


def succeeded(row: dict[str, object]) -> bool:
    """Whether a line of the output holds an answer rather than an error."""
    response = row.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    return isinstance(status, int) and 200 <= status < 300 and not row.get("error")


def answer_line(ask: str, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """The line of an answer, whatever its status. ``body`` is JSON; its bytes are taken as they are."""
    flat = body.replace(b"\n", b" ").replace(b"\r", b" ")  # only between tokens: within them JSON has no line breaks
    return b'%s%s","custom_id":%s,"response":{"status_code":%d,"request_id":%s,"body":%s},%s' % (
        START, ask.encode(), json.dumps(custom_id).encode(), status, json.dumps(request_id).encode(), flat, _GOOD,
    )  # fmt: skip


def with_fault(line: bytes, message: str) -> bytes:
    """The line of an answer that isn't of the form that was asked for: a failed row that keeps its answer."""
    error = json.dumps({"code": "bad_reply", "message": message})
    return line.removesuffix(_GOOD) + b'"error":' + error.encode() + b"}\n"


def error_line(ask: str, custom_id: str, code: str, message: str) -> bytes:
    """The line of a request that got no answer at all."""
    error = json.dumps({"code": code, "message": message})
    return b'%s%s","custom_id":%s,"response":null,"error":%s}\n' % (
        START, ask.encode(), json.dumps(custom_id).encode(), error.encode(),
    )  # fmt: skip


def _parsed(line: bytes) -> dict[str, object] | None:
    """A whole line's row; None if it isn't one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("custom_id"), str) and "response" in row
    return row if whole else None


def _torn(line: bytes) -> bool:
    """Whether a broken line may be what is left of one of ours: its start, or the zeros of a lost block."""
    return line.startswith(START) or START.startswith(line.rstrip(b"\n")) or not line.strip(b"\0\n")


def _foreign(path: Path, number: int) -> UsageError:
    return UsageError(
        f"{path}, line {number}, is no answer of a batch", hint="name another file with -o; this one was left as it is"
    )


def _unwritable(path: Path, error: OSError) -> GpuserveError:
    return Conflict(
        f"can't write {path}: {error.strerror}",
        hint="what was answered is kept: make room or choose another place, then run the same command again",
    )
