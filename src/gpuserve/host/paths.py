"""Where the local host keeps its state, and how its private files are written. Standard library only."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

HOST_FILE = "host.json"
STORE_FILE = "store.json"
LOG_FILE = "host.log"
LIFE_LOCK = "host.lock"
"""Held with flock by the daemon for as long as it lives."""
START_LOCK = "start.lock"
"""Held with flock by whoever is starting or stopping the daemon."""


def state_directory() -> Path:
    """``$GPUSERVE_HOST_DIR``, else ``$XDG_STATE_HOME/gpuserve/host``, else ``~/.local/state/gpuserve/host``."""
    chosen = os.environ.get("GPUSERVE_HOST_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return root / "gpuserve" / "host"


def private_directory(path: Path) -> Path:
    """Create ``path`` with its parents, readable by its owner only, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in one step, mode 0600: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty when the file is missing or holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
