"""The shared memory that a sandbox's processes leave behind.

Engines keep hundreds of MB in ``/dev/shm`` and delete them as they end, unless they are ended by force. In a container
that goes with the container; here it would stay until the machine starts anew.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

import psutil

FOLDER = Path("/dev/shm")  # noqa: S108 - looked at, nothing is made here
_MAPPED = re.compile(rf"^\S+ \S+ \S+ \S+ \d+ +({FOLDER}/[^/\n]+)$", re.MULTILINE)


def made_by(processes: Iterable[psutil.Process]) -> set[Path]:
    """The files of shared memory that these processes hold and that aren't older than the oldest of them."""
    held: set[Path] = set()
    began = None
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):  # gone meanwhile, or shows its memory to nobody
            held |= _held(process.pid)
            began = min(began or process.create_time(), process.create_time())
    return {path for path in held if began is not None and _changed(path) >= began - 1}


def drop(paths: set[Path]) -> None:
    """Delete these files, but for those that a living process still holds."""
    if any(path.exists() for path in paths):
        held = {path for pid in psutil.pids() for path in _held(pid)}
        for path in paths - held:
            with contextlib.suppress(OSError):  # deleted by who made it, or another user's
                path.unlink(missing_ok=True)


def _held(pid: int) -> set[Path]:
    try:
        text = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {Path(path) for path in _MAPPED.findall(text)}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
