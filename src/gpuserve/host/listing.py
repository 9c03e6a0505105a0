"""The list of sandboxes: filters, order and pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from multidict import MultiMapping

from gpuserve.host.store import Sandbox
from gpuserve.host.wire import ApiError, iso_from

DEFAULT_LIMIT, MOST = 100, 200
_SORTS: Mapping[str, Callable[[Sandbox], Any]] = {
    "createdAt": lambda one: one.created_at,
    "lastActivityAt": lambda one: one.last_activity_at,
    "name": lambda one: one.name,
    "cpu": lambda one: one.cpu,
    "memoryGib": lambda one: one.memory,
    "diskGib": lambda one: one.disk,
}
_RANGES: Mapping[str, Callable[[Sandbox], float]] = {
    "Cpu": lambda one: one.cpu,
    "MemoryGiB": lambda one: one.memory,
    "DiskGiB": lambda one: one.disk,
    "Gpu": lambda one: one.gpu,
}
_MOMENTS: Mapping[str, Callable[[Sandbox], float | None]] = {
    "createdAt": lambda one: one.created_at,
    "lastEvent": lambda one: one.updated_at,
    "autoDestroyAt": lambda one: one.auto_destroy_at,
}


def page(sandboxes: Iterable[Sandbox], query: MultiMapping[str]) -> tuple[list[Sandbox], str | None]:
    """The sandboxes that ``query`` asks for and the cursor of the next page, None after the last.

    Raises:
        ApiError: 400 for a parameter that cannot be read.
    """
    sort, order = query.get("sort", "createdAt"), query.get("order", "desc")
    if sort not in _SORTS or order not in {"asc", "desc"}:
        raise ApiError(400, f"cannot sort by {sort} {order}")
    limit = int(_number(query, "limit", DEFAULT_LIMIT))
    if not 1 <= limit <= MOST:
        raise ApiError(400, f"limit must be between 1 and {MOST}")

    def key(one: Sandbox) -> tuple[Any, str]:
        return (_SORTS[sort](one), one.id)

    descending = order == "desc"
    rows = sorted((one for one in sandboxes if _matches(one, query)), key=key, reverse=descending)
    if "cursor" in query:
        after = _read_cursor(query["cursor"])
        rows = [one for one in rows if (key(one) < after if descending else key(one) > after)]
    chosen = rows[:limit]
    return chosen, _write_cursor(key(chosen[-1])) if len(rows) > limit else None


def _matches(one: Sandbox, query: MultiMapping[str]) -> bool:
    return (
        _has_labels(one, query)
        and one.id.lower().startswith(query.get("id", "").lower())
        and one.name.lower().startswith(query.get("name", "").lower())
        and _among(one.state, query, "states")
        and _among(one.target, query, "regionIds")
        and _among(one.snapshot or "", query, "snapshots")
        and _among("container", query, "sandboxClasses")
        and _among(str(one.public).lower(), query, "isPublic")
        and _in_ranges(one, query)
        and _in_time(one, query)
    )


def _has_labels(one: Sandbox, query: MultiMapping[str]) -> bool:
    if "labels" not in query:
        return True
    try:
        wanted = json.loads(query["labels"])
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        raise ApiError(400, "labels must be a JSON object")
    return all(one.labels.get(name) == value for name, value in wanted.items())


def _among(value: str, query: MultiMapping[str], name: str) -> bool:
    return name not in query or value in query.getall(name)


def _in_ranges(one: Sandbox, query: MultiMapping[str]) -> bool:
    for name, value in _RANGES.items():
        if not _number(query, f"min{name}", float("-inf")) <= value(one) <= _number(query, f"max{name}", float("inf")):
            return False
    return True


def _in_time(one: Sandbox, query: MultiMapping[str]) -> bool:
    for name, value in _MOMENTS.items():
        after, before = query.get(f"{name}After"), query.get(f"{name}Before")
        if after is None and before is None:
            continue
        moment = value(one)
        if moment is None:
            return False
        text = iso_from(moment)
        if (after is not None and text[:19] <= after[:19]) or (before is not None and text[:19] >= before[:19]):
            return False
    return True


def _number(query: MultiMapping[str], name: str, default: float) -> float:
    try:
        return float(query.get(name, default))
    except ValueError as error:
        raise ApiError(400, f"{name} must be a number") from error


def _write_cursor(key: tuple[Any, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _read_cursor(text: str) -> tuple[Any, str]:
    try:
        value, sandbox_id = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (ValueError, TypeError) as error:
        raise ApiError(400, "Invalid cursor") from error
    return value, str(sandbox_id)
