"""Since when an engine is unused, by its own counters: health checks and looks at its metrics don't raise them.

An engine counts tokens but doesn't say when; so what ``status`` saw last is kept in a small file beside the cache.
Losing it costs the time until now and nothing else. Only the platform deletes what is idle: it counts requests.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gpuserve.client.metrics import Load
from gpuserve.records import Deployment

#: How long an engine's last count is kept.
KEPT = timedelta(days=30)


class Uses:
    """What was last seen of the engines' counters: sandbox ID to tokens and since when they are that many."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _load(path)
        self._changed = False

    def idle_since(self, deployment: Deployment, load: Load | None, now: datetime) -> datetime | None:
        """Since when, at the least, no request came; None while it works, and where its counters don't tell.

        An engine that never got a token is idle since its sandbox was created.
        """
        if load is None or load.tokens is None:
            return None
        since = self._since(deployment.sandbox_id, load.tokens, now)
        if load.running or load.waiting:
            self._put(deployment.sandbox_id, load.tokens, now)
            return None
        return since if load.tokens else deployment.created_at or since

    def _since(self, sandbox_id: str, tokens: int, now: datetime) -> datetime:
        known = self._seen.get(sandbox_id)
        if known is not None and known[0] == tokens:
            return known[1]
        self._put(sandbox_id, tokens, now)
        return now

    def _put(self, sandbox_id: str, tokens: int, since: datetime) -> None:
        self._seen[sandbox_id] = (tokens, since)
        self._changed = True

    def save(self) -> None:
        """Writes what changed. A disk that refuses is no reason to fail: the next look begins anew."""
        if not self._changed:
            return
        oldest = datetime.now(UTC) - KEPT
        kept = {key: [tokens, since.isoformat()] for key, (tokens, since) in self._seen.items() if since > oldest}
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(json.dumps(kept), encoding="utf-8")
            fresh.chmod(0o600)
            fresh.replace(self._path)


def _load(path: Path) -> dict[str, tuple[int, datetime]]:
    """What the file holds; nothing if there is none, or if it can't be read."""
    found: dict[str, tuple[int, datetime]] = {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        for key, (tokens, since) in json.loads(path.read_bytes()).items():
            moment = datetime.fromisoformat(since)
            if moment.tzinfo is not None:
                found[key] = (int(tokens), moment)
    return found
