"""What the Hub answered lately, on disk: one small file for each thing asked.

It spares time and carries models through an outage; nothing depends on it. So whatever is wrong with a file or
with the disk counts as nothing known. It holds no token, but may tell of private repositories: 0600, in 0700.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpuserve.catalog.hubfacts import Material

VERSION = 1
#: Seconds for which an answer counts as new: gates open and branches move.
FRESH = 15 * 60
_KEPT = 30 * 24 * 3600  # seconds after which a file is deleted
_LARGEST = 8 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """Answers of the Hub and their age in seconds."""

    material: Material
    age: float

    @property
    def fresh(self) -> bool:
        """Whether they can be used without asking again."""
        return 0 <= self.age < FRESH


def directory() -> Path | None:
    """``$XDG_CACHE_HOME/gpuserve/hub``, else ``~/.cache/gpuserve/hub``; None for a user without a home."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(RuntimeError):
        return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "gpuserve" / "hub"
    return None


def key(*parts: str | bool) -> str:
    """The file's name for what was asked; a token is no part of it, only whether there was one."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest() + ".json"


def read(folder: Path | None, name: str) -> Entry | None:
    """What is kept under ``name``; None if nothing is, or nothing that can be read."""
    if folder is None:
        return None
    try:
        file = folder / name
        if file.stat().st_size > _LARGEST:
            return None
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return None
    at, material = content.get("at"), content.get("material")
    if not isinstance(at, int | float) or not isinstance(material, dict):
        return None
    age = time.time() - at
    return Entry(material, age) if age < _KEPT else None


def write(folder: Path | None, name: str, material: Material) -> None:
    """Keeps ``material`` under ``name``, so that a reader sees the old or the new; a full disk costs only time."""
    if folder is None:
        return
    with suppress(OSError, ValueError, RecursionError):  # ValueError: what came over the network isn't always JSON
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = json.dumps({"version": VERSION, "at": time.time(), "material": material}).encode()
        if len(content) <= _LARGEST:
            _replace(folder / name, content)
            _prune(folder)


def _replace(file: Path, content: bytes) -> None:
    descriptor, fresh = tempfile.mkstemp(dir=file.parent, prefix=".new-")  # made 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(fresh).replace(file)
    except OSError:
        Path(fresh).unlink(missing_ok=True)
        raise


def _prune(folder: Path) -> None:
    oldest = time.time() - _KEPT
    for file in folder.iterdir():
        with suppress(OSError):  # another process may have deleted it first
            if file.stat().st_mtime < oldest:
                file.unlink()
