"""Faults on demand, for tests: the label ``host/fault`` of a sandbox names them, separated by commas.

- ``build-failed``: the build ends in ``build_failed`` with a reason.
- ``no-capacity``: the sandbox stays in ``pending_build``.
- ``error``: the sandbox ends in ``error`` after ``creating``.
- ``quota``: the create request is refused for the GPU limit; no sandbox is made.
- ``create=STATUS``: the create request is answered with STATUS; no sandbox is made.
- ``slow-create=SECONDS``: the sandbox is made at once, the answer to the create request comes later.
- ``slow-boot=SECONDS``: the sandbox stays that long in ``creating``.
- ``lost-answer``: the sandbox is made and the connection closed without an answer.
- ``evict=SECONDS``: the sandbox is destroyed as an evicted spot sandbox, that long after its start.
- ``dead-proxy``: every preview request is answered with an empty 502.
- ``login-redirect``: every preview request is answered with a 307 to a login page.
- ``conflict-on-delete=N``: the first N delete requests are answered with 409.
- ``api=STATUS[:COUNT]``: the next COUNT (without it: all) API requests on the sandbox are answered with STATUS.
- ``toolbox=STATUS[:COUNT]``: the same for toolbox requests.

Counts start anew when the host restarts or when the label changes to another text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gpuserve.host.wire import ApiError

LABEL = "host/fault"
_PLAIN = frozenset({"build-failed", "no-capacity", "error", "quota", "lost-answer", "dead-proxy", "login-redirect"})
_NUMBERS = frozenset({"slow-create", "slow-boot", "evict", "conflict-on-delete", "create"})
_ANSWERS = frozenset({"api", "toolbox"})


def faults(labels: Mapping[str, str]) -> dict[str, str]:
    """The faults in ``labels``: name to value, which is empty for those that take none.

    Raises:
        ApiError: 400 for a fault that does not exist or lacks its number.
    """
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in labels.get(LABEL, "").split(","))):
        name, _, value = part.partition("=")
        if not _valid(name, value):
            raise ApiError(400, f"{LABEL}: {part!r} is no fault that this host knows")
        found[name] = value
    return found


def seconds(labels: Mapping[str, str], name: str) -> float | None:
    """The number given with a fault, or None when the sandbox does not have it."""
    value = faults(labels).get(name)
    return None if value is None else float(value)


def _valid(name: str, value: str) -> bool:
    if name in _PLAIN:
        return not value
    if name in _NUMBERS:
        return value.replace(".", "", 1).isdigit()
    status, colon, count = value.partition(":")
    return name in _ANSWERS and status.isdigit() and 400 <= int(status) <= 599 and (not colon or count.isdigit())


class FaultBook:
    """Counts how often each counted fault has struck."""

    def __init__(self) -> None:
        self._struck: Counter[tuple[str, str]] = Counter()

    def answer(self, sandbox_id: str, labels: Mapping[str, str], name: str) -> None:
        """Raise the ApiError that ``api`` or ``toolbox`` asks for, as long as its count lasts."""
        value = faults(labels).get(name)
        if value is None:
            return
        status, _, count = value.partition(":")
        if not count or self._strike(sandbox_id, f"{name}={value}", int(count)):
            raise ApiError(int(status), f"injected fault: {name}={value}")

    def conflict(self, sandbox_id: str, labels: Mapping[str, str]) -> None:
        """Raise the 409 that ``conflict-on-delete`` asks for, as long as its count lasts."""
        limit = seconds(labels, "conflict-on-delete")
        if limit is not None and self._strike(sandbox_id, "conflict-on-delete", int(limit)):
            raise ApiError(409, "Sandbox state change in progress")

    def _strike(self, sandbox_id: str, fault: str, limit: int) -> bool:
        self._struck[sandbox_id, fault] += 1
        return self._struck[sandbox_id, fault] <= limit
