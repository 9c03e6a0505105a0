"""What every part of the local host shares: the error that becomes a JSON answer, the clock's text form, and what the
control plane tells the toolbox about a sandbox.

The shapes of error bodies follow what the platform sends: one shape under ``/api``, another from the proxy and the
toolbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

NOT_STARTED = "bad request: no IP address found. Is the Sandbox started?"
"""What the platform's proxy says when a request reaches a sandbox that is not running."""

PREVIEW_TOKEN_HEADER = "X-Daytona-Preview-Token"  # noqa: S105 - a header's name
SKIP_ACTIVITY_HEADER = "X-Daytona-Skip-Last-Activity-Update"


class ApiError(Exception):
    """An answer other than success: status, text, and optionally the machine-readable ``code`` and ``source``.

    A middleware turns it into the JSON body that the platform sends on that path. ``headers`` are added to the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        source: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.source = source
        self.headers = dict(headers or {})


def now_iso() -> str:
    """The present moment in UTC as the platform writes it, such as ``2026-10-28T12:00:00.000Z``."""
    return iso(datetime.now(UTC))


def iso(moment: datetime) -> str:
    """``moment`` (aware) in UTC with milliseconds and a final ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_from(seconds: float) -> str:
    """Unix time in seconds as the platform writes it."""
    return iso(datetime.fromtimestamp(seconds, UTC))


@dataclass(frozen=True)
class SandboxView:
    """What the toolbox may know of a sandbox.

    ``env`` is the complete environment for its processes (nothing of the daemon's own shines through), ``path`` the
    directories of its ``PATH`` in order. ``root`` is the sandbox's directory on disk, ``home`` its HOME and first
    working directory.
    """

    id: str
    root: Path
    home: Path
    env: Mapping[str, str] = field(repr=False)
    path: tuple[str, ...]
    started: bool


Resolve = Callable[[web.Request], Awaitable[SandboxView]]
"""From a request with ``sandbox_id`` in its path to the sandbox, credentials and state checked, activity noted.

Raises ApiError 401 for a missing or wrong credential, 404 for an unknown sandbox, 400 for one that is not started.
"""


def error_code(status: int) -> str:
    """The code that goes with a status when nothing more precise is known, such as ``NOT_FOUND``."""
    try:
        return HTTPStatus(status).name
    except ValueError:
        return "UNKNOWN"


def api_body(error: ApiError, path: str) -> dict[str, object]:
    """The error body of the control plane."""
    try:
        phrase = HTTPStatus(error.status).phrase
    except ValueError:
        phrase = "Error"
    body: dict[str, object] = {
        "path": path,
        "timestamp": now_iso(),
        "statusCode": error.status,
        "error": phrase,
        "message": error.message,
    }
    return body | _marks(error)


def daemon_body(error: ApiError, method: str, path: str) -> dict[str, object]:
    """The error body of the proxy and of the toolbox."""
    return {
        "statusCode": error.status,
        "message": error.message,
        "code": error.code or error_code(error.status),
        "timestamp": now_iso(),
        "path": path,
        "method": method,
    } | ({"source": error.source} if error.source else {})


def _marks(error: ApiError) -> dict[str, object]:
    marks = {"code": error.code, "source": error.source}
    return {name: value for name, value in marks.items() if value}
