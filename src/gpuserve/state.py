"""The local cache of deployments: what spares ``query`` and friends a trip to the platform.

The truth is in the sandboxes' labels; losing this file loses nothing. It holds credentials, so it is
readable by its owner only. Writers take turns by a lock; readers need none, because a file is
replaced whole or not at all. Whatever is wrong with the file or its directory becomes a warning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpuserve.records import Deployment, Endpoint
from gpuserve.redaction import MASK, shown_url

VERSION = 1
#: For how long a signed URL that has ended is still listed.
REMEMBERED = timedelta(days=7)
_LOCK_TIMEOUT = 10.0  # seconds; a writer holds the lock for milliseconds

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A signed URL that was handed out. ``token`` is its credential, needed to revoke it.

    Once it is worthless, because its time has passed or because it was revoked at ``revoked_at``, ``url`` is masked
    and ``token`` a digest: enough to recognise it by, see ``is_for``.
    """

    url: str = field(repr=False)
    token: str = field(repr=False)
    port: int
    expires_at: datetime
    made_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def lives(self) -> bool:
        """Whether it still opens the port, for all that is known here."""
        return self.revoked_at is None and _lives(self.expires_at)

    def is_for(self, token: str) -> bool:
        """Whether this is the URL with that token."""
        return compare_digest(_digest(self.token), _digest(token))

    def ended(self, at: datetime | None) -> Share:
        """What is kept of it once it is worthless; ``at`` is when it was revoked, None if its time just passed."""
        masked = shown_url(self.url.replace(self.token, MASK))
        return replace(self, url=masked, token=_digest(self.token), revoked_at=self.revoked_at or at)


def _digest(token: str) -> str:
    """The SHA-256 of a token; a digest stays as it is."""
    return token if token.startswith("sha256:") else f"sha256:{sha256(token.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A deployment, the way in if one is known, and the address of the platform's API that it was made by."""

    deployment: Deployment
    endpoint: Endpoint | None = None
    api_url: str = ""

    @property
    def place(self) -> str:
        """Where it runs: "daytona" or "local"."""
        return self.deployment.place


def default_path() -> Path:
    """The cache's file: below $XDG_CACHE_HOME if that is an absolute path, else below ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(root) if Path(root).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # a container's user without a home: there will be no cache, and a warning
        base = Path("/nonexistent")
    return base / "gpuserve" / "deployments.json"


class Cache:
    """The deployments that this user brought up or looked at lately.

    No method raises for the sake of the disk: ``warning`` then says what went wrong last ("" if nothing did).
    A deployment or share is no longer told of once its time has passed, and leaves the file at the next write.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        self.warning = ""

    def remember(self, entry: Remembered) -> None:
        """Keeps ``entry`` in the place of what was known of its sandbox.

        Shares stay, and so does a known endpoint if ``entry`` has none: a listing knows the state but no credential.
        """
        sandbox_id = entry.deployment.sandbox_id

        def put(content: _Json) -> None:
            known = content["deployments"].get(sandbox_id, {}).get("endpoint")
            fresh = _from_entry(entry)
            content["deployments"][sandbox_id] = fresh | {"endpoint": fresh["endpoint"] or known}

        self._change(put)

    def forget(self, sandbox_id: str) -> None:
        """Drops all that is known of a sandbox, its shares too; nothing happens if nothing is known."""
        self._change(lambda content: [content[part].pop(sandbox_id, None) for part in ("deployments", "shares")])

    def all(self) -> list[Remembered]:
        """Every deployment whose time hasn't passed, the first remembered first."""
        entries = map(_to_entry, self._read()["deployments"].values())
        return [entry for entry in entries if entry and _lives(entry.deployment.expires_at)]

    def note_share(self, sandbox_id: str, share: Share) -> None:
        """Keeps a signed URL of a sandbox, whether or not the sandbox itself is known."""
        self._change(
            lambda content: _put(
                content["shares"],
                sandbox_id,
                [*_without(content["shares"].get(sandbox_id), share.token), _dump(share)],
            )
        )

    def shares(self, sandbox_id: str) -> list[Share]:
        """The signed URLs of a sandbox that still work, the oldest first."""
        return [share for share in self.all_shares().get(sandbox_id, ()) if share.lives]

    def all_shares(self) -> dict[str, list[Share]]:
        """Every signed URL that was handed out here, by sandbox, with those that ended in the last week."""
        known = self._read()["shares"].items()
        return {sandbox_id: found for sandbox_id, items in known if (found := _to_shares(items))}

    def end_share(self, sandbox_id: str, token: str) -> None:
        """Notes that a signed URL was revoked just now; nothing happens if it isn't known."""
        now = datetime.now(UTC)

        def end(content: _Json) -> None:
            shares = _to_shares(content["shares"].get(sandbox_id))
            content["shares"][sandbox_id] = [_dump(one.ended(now) if one.is_for(token) else one) for one in shares]

        self._change(end)

    def _read(self) -> _Json:
        """The file's content; empty if there is none, and if it is no good (then it is moved aside)."""
        content = self._load()
        if content is None:
            content = _empty()
            self._guarded(self._move_aside)
        return content

    def _change(self, change: Callable[[_Json], object]) -> None:
        def rewrite() -> None:
            content = self._load()
            if content is None:
                self._move_aside()
                content = _empty()
            _prune(content)
            change(content)
            self._write(content)

        self._guarded(rewrite)

    def _load(self) -> _Json | None:
        """The file's content; None if it is corrupt or of a version that this gpuserve doesn't know."""
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return _empty()
        except OSError as error:
            self.warning = f"the cache {self.path} can't be read: {error.strerror}"
            return _empty()
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or content.get("version") != VERSION:
            return None
        parts = {part: content.get(part, {}) for part in ("deployments", "shares")}
        return {"version": VERSION, **parts} if all(isinstance(part, dict) for part in parts.values()) else None

    def _move_aside(self) -> None:
        """Renames a file that is no good, after a second look: another process may have mended it. Needs the lock."""
        if self._load() is None:
            aside = self.path.with_name(self.path.name + ".bad")
            self.path.replace(aside)
            self.warning = f"the cache {self.path} was unreadable or newer than this gpuserve; it is now {aside.name}"

    def _guarded(self, action: Callable[[], None]) -> None:
        """Runs ``action`` as the only writer; a disk that refuses becomes a warning."""
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path == default_path():
                self.path.parent.chmod(0o700)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_TIMEOUT, mode=0o600):
                action()
        except Timeout:
            self.warning = f"the cache {self.path} is locked by another process"
        except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
            self.warning = f"the cache {self.path} can't be written: {getattr(error, 'strerror', None) or error}"

    def _write(self, content: _Json) -> None:
        """Replaces the file, so that a reader sees the old or the new, even after a power cut. Needs the lock."""
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.unlink(missing_ok=True)  # left by a writer that was killed
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _empty() -> _Json:
    return {"version": VERSION, "deployments": {}, "shares": {}}


def _put(part: _Json, key: str, value: object) -> None:
    part[key] = value


def _lives(expires_at: datetime | None) -> bool:
    return expires_at is None or expires_at > datetime.now(UTC)


def _prune(content: _Json) -> None:
    """Drops what has expired and what can't be read."""
    for sandbox_id, item in list(content["deployments"].items()):
        entry = _to_entry(item)
        if not entry or not _lives(entry.deployment.expires_at):
            del content["deployments"][sandbox_id]
    for sandbox_id, items in list(content["shares"].items()):
        kept = [one if one.lives else one.ended(None) for one in _to_shares(items)]
        content["shares"][sandbox_id] = [_dump(one) for one in kept if _lives(one.expires_at + REMEMBERED)]
        if not content["shares"][sandbox_id]:
            del content["shares"][sandbox_id]


def _without(items: object, token: str) -> list[object]:
    known = items if isinstance(items, list) else []
    return [item for item in known if not (isinstance(item, dict) and item.get("token") == token)]


def _dump(record: Deployment | Endpoint | Share) -> _Json:
    """A record as JSON has it, field by field."""
    return {each.name: _plain(getattr(record, each.name)) for each in fields(record)}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return dict(value) if isinstance(value, Mapping) else value


def _load_fields(kind: type[Any], item: object) -> _Json:
    """The fields of a record of ``kind`` from JSON.

    Raises:
        TypeError, ValueError: a value isn't of its field's type. A missing field is left to the record's own default.
    """
    if not isinstance(item, dict):
        raise TypeError("no object")
    return {each.name: _typed(item[each.name], str(each.type)) for each in fields(kind) if each.name in item}


def _typed(value: object, kind: str) -> object:
    if kind.startswith("datetime"):
        if value is None and kind.endswith("None"):
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment and moment.tzinfo:
            return moment
    elif kind.startswith("Mapping"):
        if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
            return MappingProxyType(value)
    elif type(value).__name__ == kind:
        return value
    raise ValueError(f"no {kind}")


def _from_entry(entry: Remembered) -> _Json:
    endpoint = None if entry.endpoint is None else _dump(entry.endpoint)
    return {"deployment": _dump(entry.deployment), "endpoint": endpoint, "api_url": entry.api_url}


def _to_entry(item: object) -> Remembered | None:
    """What ``_from_entry`` wrote; None for what can't be read, which costs a trip to the platform and no more."""
    with suppress(KeyError, TypeError, ValueError):
        if isinstance(item, dict) and isinstance(item["api_url"], str):
            endpoint = item["endpoint"]
            return Remembered(
                deployment=Deployment(**_load_fields(Deployment, item["deployment"])),
                endpoint=None if endpoint is None else Endpoint(**_load_fields(Endpoint, endpoint)),
                api_url=item["api_url"],
            )
    return None


def _to_shares(items: object) -> list[Share]:
    read = (_to_share(item) for item in (items if isinstance(items, list) else ()))
    return [share for share in read if share is not None]


def _to_share(item: object) -> Share | None:
    with suppress(TypeError, ValueError):
        return Share(**_load_fields(Share, item))
    return None
