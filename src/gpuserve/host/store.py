"""What the local host remembers: sandboxes and signed preview URLs, in one private JSON file. Standard library only."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import string
import time
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from gpuserve.host.paths import STORE_FILE, private_directory, write_private

_log = logging.getLogger(__name__)
_ALPHABET = string.ascii_lowercase + string.digits
_Record = TypeVar("_Record", "Sandbox", "SignedUrl")

CHANGING = frozenset({"building_snapshot", "creating", "starting", "stopping", "destroying"})
"""States that last only as long as the host is at work on them."""
ENDED = frozenset({"destroyed", "error", "build_failed"})
GONE = frozenset({"destroying", "destroyed"})
EPHEMERAL = 0
"""The ``autoDeleteInterval`` that means: deleted as soon as it stops."""


def random_token(length: int) -> str:
    """``length`` random characters of ``[a-z0-9]``; the platform has 32 in a preview token, 16 in a signed URL."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


@dataclass
class Sandbox:
    """One sandbox. Times are Unix seconds, intervals are minutes, sizes are GiB."""

    id: str
    name: str
    token: str = field(repr=False)
    """The preview token: opens the whole sandbox, new at every start."""
    target: str = "local"
    state: str = "pending_build"
    error_reason: str | None = None
    env: dict[str, str] = field(default_factory=dict, repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    public: bool = False
    user: str = "daytona"
    cpu: int = 1
    memory: int = 1
    disk: int = 3
    gpu: int = 0
    gpu_types: list[str] = field(default_factory=list)
    gpu_type: str | None = None
    gpu_ids: list[str] = field(default_factory=list)
    spot: bool = False
    auto_stop: int = 15
    auto_pause: int = 0
    auto_archive: int = 10080
    auto_delete: int = -1
    queue_timeout: int | None = None
    auto_destroy_at: float | None = None
    spot_evicted_at: float | None = None
    queue_timed_out_at: float | None = None
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)
    last_activity_at: float = field(default_factory=time.time)
    started_at: float | None = None
    stopped_at: float | None = None
    destroyed_at: float | None = None
    snapshot: str | None = None
    dockerfile: str | None = None
    context_hashes: list[str] = field(default_factory=list)
    build_ref: str | None = None
    image_path: list[str] = field(default_factory=list)
    image_env: dict[str, str] = field(default_factory=dict)
    temporary: str = ""
    """Its directory for temporary files while it runs; outside its own directory, so that the path is short."""
    network: dict[str, Any] = field(default_factory=dict)
    """Network settings as they were asked for: kept and shown, not enforced."""

    @property
    def ephemeral(self) -> bool:
        """Whether stopping it deletes it."""
        return self.auto_delete == EPHEMERAL

    @property
    def started(self) -> bool:
        """Whether processes may run in it."""
        return self.state == "started"


@dataclass
class SignedUrl:
    """Access to one port of one sandbox until ``expires_at`` (Unix seconds)."""

    sandbox_id: str
    port: int
    expires_at: float


@dataclass
class Store:
    """Everything that survives a restart of the host. Whoever changes a record calls ``save`` or sets ``dirty``."""

    directory: Path
    organization_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    boot: str = ""
    """Which boot of the machine the records are from: processes do not outlive it."""
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    signed: dict[str, SignedUrl] = field(default_factory=dict)
    """By the SHA-256 of the token, so that the file opens nothing and a look-up leaks no timing."""
    dirty: bool = False

    @classmethod
    def load(cls, directory: Path) -> Store:
        """The store in ``directory``; empty when there is none. A damaged file is set aside, not overwritten."""
        path = directory / STORE_FILE
        if not path.exists():
            return cls(directory)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                directory,
                organization_id=content["organization_id"],
                boot=content["boot"],
                sandboxes={key: _record(Sandbox, value) for key, value in content["sandboxes"].items()},
                signed={key: _record(SignedUrl, value) for key, value in content["signed"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            aside = path.with_name(f"{STORE_FILE}.damaged")
            path.replace(aside)
            _log.warning("the store was damaged (%s) and is now %s", error, aside.name)
            return cls(directory)

    def save(self) -> None:
        """Write everything, in one step."""
        content = {
            "organization_id": self.organization_id,
            "boot": self.boot,
            "sandboxes": {key: asdict(value) for key, value in self.sandboxes.items()},
            "signed": {key: asdict(value) for key, value in self.signed.items()},
        }
        write_private(private_directory(self.directory) / STORE_FILE, json.dumps(content, indent=1))
        self.dirty = False

    def root(self, sandbox_id: str) -> Path:
        """The directory of a sandbox."""
        return self.directory / "sandboxes" / sandbox_id

    def find(self, id_or_name: str) -> Sandbox | None:
        """By ID (also one that was destroyed and is still remembered), else by name among those that still exist."""
        found = self.sandboxes.get(id_or_name)
        return found or next((one for one in self.living() if one.name == id_or_name), None)

    def living(self) -> list[Sandbox]:
        """The sandboxes that hold their name, oldest first."""
        return [one for one in self.sandboxes.values() if one.state not in GONE]

    def forget(self, sandbox_id: str) -> None:
        """Drop a sandbox and every signed URL into it."""
        self.sandboxes.pop(sandbox_id, None)
        self.drop_signed(sandbox_id)

    def sign(self, sandbox_id: str, port: int, seconds: float) -> str:
        """A new token that opens ``port`` of the sandbox for ``seconds``."""
        token = random_token(16)
        self.signed[_digest(token)] = SignedUrl(sandbox_id, port, time.time() + seconds)
        self.save()
        return token

    def signed_for(self, token: str) -> SignedUrl | None:
        """What ``token`` opens, or None when it never existed, was revoked or has expired."""
        found = self.signed.get(_digest(token))
        return found if found is not None and found.expires_at > time.time() else None

    def revoke(self, token: str) -> None:
        """End ``token`` now; one that is unknown is no error."""
        if self.signed.pop(_digest(token), None) is not None:
            self.save()

    def drop_signed(self, sandbox_id: str) -> None:
        """End every signed URL into a sandbox."""
        self.signed = {key: one for key, one in self.signed.items() if one.sandbox_id != sandbox_id}

    def drop_expired(self) -> None:
        """Forget signed URLs that no longer open anything."""
        now = time.time()
        kept = {key: one for key, one in self.signed.items() if one.expires_at > now}
        if len(kept) != len(self.signed):
            self.signed, self.dirty = kept, True


def _record(kind: type[_Record], content: dict[str, Any]) -> _Record:
    known = {one.name for one in fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in known})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
