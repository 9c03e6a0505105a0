"""``exec`` and ``cp``: work next to the model, in its own sandbox."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gpuserve.errors import NotFound, UsageError
from gpuserve.records import Deployment
from gpuserve.sandboxes.inside import Inside, Piece
from gpuserve.serving.context import Context
from gpuserve.serving.find import check_started, find

#: How a script is run in the sandbox; ``{}`` is the directory that it was put into.
_PYTHON = ("python3", "-u", "{}/script.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to run: ``argv`` (read by no shell), or a Python ``script`` that gets ``argv`` as its arguments.

    ``stdin`` is what it reads, ``cwd`` where it runs ("" for where the sandbox's commands start).
    """

    argv: Sequence[str] = ()
    script: bytes | None = None
    stdin: bytes = b""
    cwd: str = ""


def execute(context: Context, wanted: str | None, job: Job, emit: Callable[[Piece], None]) -> int:
    """Runs ``job`` in the deployment's sandbox and returns its exit code; ``emit`` gets its output as it is written.

    It finds the model at ``OPENAI_BASE_URL``, under the name in ``OPENAI_MODEL``, without any credential of ours; when
    this call ends, in whatever way, so does the command.

    Raises:
        UsageError: there is nothing to run.
        NotFound, Conflict: no deployment, several, or one whose sandbox doesn't run.
        PlatformError, NetworkError: the sandbox can't be asked.
    """
    if not job.argv and job.script is None:
        raise UsageError("no command", hint="gpuserve exec ID -- nvidia-smi, or gpuserve exec ID --python FILE")
    deployment, inside = _enter(context, wanted)
    argv = (*_PYTHON, *job.argv) if job.script is not None else tuple(job.argv)
    files = [("script.py", job.script)] if job.script is not None else []
    files += [("in", job.stdin)] if job.stdin else []
    env = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{deployment.port}/v1",
        "OPENAI_MODEL": deployment.served_model,
    }
    command = inside.start(argv, env=env, cwd=job.cwd, files=files)
    code = 0
    try:
        for piece in command.pieces():
            emit(piece)
            code = code if piece.code is None else piece.code
    finally:
        command.end()
    return code


@dataclass(frozen=True, slots=True)
class Spot:
    """One side of a copy: a path here (``deployment`` None), or in a deployment's sandbox ("" for the only one)."""

    path: str
    deployment: str | None = None


def spot(text: str) -> Spot:
    """Reads ``PATH``, ``ID:PATH`` or ``:PATH``. A path here that holds a colon is written ``./a:b``.

    Raises:
        UsageError: there is no path in it.
    """
    head, colon, path = text.partition(":")
    if not colon or "/" in head:
        head, path = "", text
        if not path:
            raise UsageError("an empty path", hint="gpuserve cp data.jsonl ID:data.jsonl")
        return Spot(path)
    if not path:
        raise UsageError(f"{text!r} names no path in the sandbox", hint="gpuserve cp data.jsonl ID:data.jsonl")
    return Spot(path, head)


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that was made."""

    source: str
    target: str
    size: int
    seconds: float


#: Gets the bytes copied so far, and all that there are.
Progress = Callable[[int, int], None]


def copy(context: Context, source: Spot, target: Spot, progress: Progress) -> Copied:
    """Copies one file into a sandbox or out of it. The target is written whole, or left as it was.

    Raises:
        UsageError: both sides are here, or both there; or one is a directory where it can't be.
        NotFound: there is no such file or directory.
        GpuserveError: the sandbox can't be asked.
    """
    began = time.monotonic()
    if (source.deployment is None) == (target.deployment is None):
        raise UsageError("one side must be here, the other in a sandbox", hint="gpuserve cp FILE ID:PATH")
    if source.deployment is None:
        shown, size = _send(context, Path(source.path), target, progress)
    else:
        shown, size = _fetch(context, source, Path(target.path), progress)
    return Copied(source.path, shown, size, time.monotonic() - began)


def _send(context: Context, source: Path, target: Spot, progress: Progress) -> tuple[str, int]:
    if source.is_dir():
        raise _directory(str(source))
    try:
        file = source.open("rb")
    except OSError as error:
        raise _no_file(source, error) from error
    with file:
        _, inside = _enter(context, target.deployment or None)
        there = _place(inside, target.path, source.name)
        status = os.fstat(file.fileno())
        inside.upload(file, there, status.st_mode & 0o777 or 0o644, lambda done: progress(done, status.st_size))
        return there, file.tell()


def _place(inside: Inside, path: str, name: str) -> str:
    """Where a file called ``name`` goes that is copied to ``path`` there."""
    kind = inside.kind(path)
    if kind == "dir":
        path = str(PurePosixPath(path) / name)
        kind = inside.kind(path)
        if kind == "dir":
            raise UsageError(f"{path} is a directory in the sandbox", hint="name a file")
    elif path.endswith("/") or kind == "nowhere":
        raise NotFound(f"there is no directory for {path} in the sandbox", hint="gpuserve exec ID -- mkdir -p …")
    return path


def _fetch(context: Context, source: Spot, target: Path, progress: Progress) -> tuple[str, int]:
    _, inside = _enter(context, source.deployment or None)
    kind = inside.kind(source.path)
    if kind == "dir":
        raise _directory(source.path)
    if kind != "file":
        raise NotFound(f"there is no {source.path} in the sandbox", hint="gpuserve exec ID -- ls -la")
    size = inside.size(source.path)
    target = target / PurePosixPath(source.path).name if target.is_dir() else target
    with _whole(target) as file:
        for chunk in inside.download(source.path, lambda done: progress(done, size)):
            file.write(chunk)
        return str(target), file.tell()


@contextmanager
def _whole(target: Path) -> Iterator[BinaryIO]:
    """A file beside ``target`` that takes its place at the end, and vanishes where the end isn't reached."""
    try:
        number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _no_file(target, error) from error
    try:
        with os.fdopen(number, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~mask
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _enter(context: Context, wanted: str | None) -> tuple[Deployment, Inside]:
    deployment = find(context, wanted)
    check_started(deployment)
    return deployment, context.sandboxes(deployment.place).inside(deployment)


def _directory(path: str) -> UsageError:
    return UsageError(f"{path} is a directory", hint="cp copies files: pack it with tar, and unpack it with exec")


def _no_file(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} can't be opened: {error.strerror or error}", hint="check the path")
