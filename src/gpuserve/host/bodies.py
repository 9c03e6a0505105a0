"""Reading what a toolbox request brings: JSON bodies and query values, each checked, each refusal a clear 400."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from gpuserve.host.wire import ApiError

SOURCE = "DAYTONA_DAEMON"
"""Names the toolbox as origin of an error; the SDK picks its exception class by source and code."""


def problem(status: int, message: str, code: str = "") -> ApiError:
    """An error answer of the toolbox."""
    return ApiError(status, message, code=code, source=SOURCE)


def bad(message: str) -> ApiError:
    """A 400 about the request's content."""
    return problem(400, f"bad request: {message}", "INVALID_REQUEST_BODY")


async def json_body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises ApiError 400 for anything else."""
    try:
        body = json.loads(await request.read())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise bad(f"the body is not JSON ({error})") from error
    if not isinstance(body, dict):
        raise bad("the body is not a JSON object")
    return body


def text(body: dict[str, Any], key: str) -> str:
    """A required string without what no process or path could take. Raises ApiError 400."""
    value = body.get(key)
    if not isinstance(value, str):
        raise bad(f"{key} is required and must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise bad(f"{key} is not valid Unicode") from error
    if "\0" in value:
        raise bad(f"{key} contains a NUL byte")
    return value


def optional_text(body: dict[str, Any], key: str) -> str | None:
    """As ``text``, but it may be left out or null."""
    return None if body.get(key) is None else text(body, key)


def texts(body: dict[str, Any], key: str) -> list[str]:
    """A list of strings, empty if left out. Raises ApiError 400."""
    value = [] if body.get(key) is None else body[key]
    if not isinstance(value, list):
        raise bad(f"{key} must be a list of strings")
    return [text({key: item}, key) for item in value]


def variables(body: dict[str, Any], key: str) -> dict[str, str]:
    """Environment variables, empty if left out. Raises ApiError 400 for a name or value that cannot be one."""
    value = {} if body.get(key) is None else body[key]
    if not isinstance(value, dict):
        raise bad(f"{key} must map names to strings")
    for name in value:
        if not name or "=" in name or "\0" in name:
            raise bad(f"{key} has a name that cannot be an environment variable")
        text(value, name)
    return dict(value)


def flag(body: dict[str, Any], key: str) -> bool:
    """A boolean, False if left out. Raises ApiError 400."""
    value = body.get(key, False)
    if value not in (True, False, None):
        raise bad(f"{key} must be true or false")
    return bool(value)


def seconds(body: dict[str, Any], key: str) -> float | None:
    """A time limit in seconds; None if left out, null or 0. Raises ApiError 400 for a negative one."""
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise bad(f"{key} must be a number of seconds, not negative")
    return float(value) or None


def query(request: web.Request, key: str) -> str:
    """A required query value. Raises ApiError 400."""
    return text(dict(request.query), key)
