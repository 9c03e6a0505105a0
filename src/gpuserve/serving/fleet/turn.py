"""Whose turn it is: one command at a time changes a fleet, and while one does, the keeper replaces nobody.

The kernel holds the turn (``flock``), so a command that is killed in the middle leaves nothing behind: the keeper sees
that the turn is free, and sees to what the command had begun.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from gpuserve.errors import Conflict
from gpuserve.serving.fleet.record import directory, forget, remembered

_FILE = "changing.lock"
#: Seconds for which a turn is waited for: the keeper, who only looks whether it is free, has it for a moment.
_PATIENCE = 2.0


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Has the turn on the fleet inside. A directory that holds nothing but the turn goes with it.

    Raises:
        Conflict: another command has it.
    """
    place = directory(name)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(place / _FILE, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        _take(file, name)
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            if not remembered(name):
                forget(name)


def _take(file: IO[str], name: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not _locked(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            owner = file.read().strip() or "unknown"
            raise Conflict(
                f"another command (process {owner}) is changing {name}", hint="wait until it has ended, or end it"
            )
        time.sleep(0.05)


def taken(name: str) -> bool:
    """Whether a command has the turn now."""
    try:
        file = (directory(name) / _FILE).open(encoding="utf-8")
    except FileNotFoundError:
        return False
    with file:
        return not _locked(file, fcntl.LOCK_SH)


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
