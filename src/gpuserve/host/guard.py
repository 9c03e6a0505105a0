"""What every request passes on its way in: the request log, errors as JSON, the Host and Origin checks, the API key."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from gpuserve.host.house import RESOLVED, house_of
from gpuserve.host.wire import ApiError, api_body, daemon_body, now_iso

_log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Entry = dict[str, object]
REQUEST_LOG: web.AppKey[deque[Entry]] = web.AppKey("request_log", deque)
KEPT_REQUESTS = 1000
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
PREVIEW_HOST = re.compile(r"(\d{1,5})-([A-Za-z0-9_-]+)\.[A-Za-z0-9.-]+(:\d{1,5})?")
_SIGNED = re.compile(r"(/preview/\d+-|/signed-preview-url/)[a-z0-9]{16}(?=/|$)")
_OPEN_PATHS = frozenset({"/api/config", "/api/health"})


def request_log(request: web.Request) -> deque[Entry]:
    """The latest requests."""
    return request.config_dict[REQUEST_LOG]


def masked(path: str) -> str:
    """``path`` with signed tokens hidden."""
    return _SIGNED.sub(r"\1****", path)


@web.middleware
async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note method, path and status of each request."""
    entry: Entry = {"at": now_iso(), "method": request.method, "path": masked(request.path), "status": None}
    request_log(request).append(entry)
    response = await handler(request)
    entry["status"] = response.status
    return response


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into the JSON body that the platform sends on that path."""
    try:
        return await handler(request)
    except ApiError as error:
        return _error(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _error(request, ApiError(error.status, error.reason))
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:  # noqa: BLE001 - an unforeseen error is logged and becomes a 500
        _log.exception("%s %s", request.method, masked(request.path))
        return _error(request, ApiError(500, "Internal server error"))


def _error(request: web.Request, error: ApiError) -> web.Response:
    if request.path == "/api" or request.path.startswith("/api/"):
        body = api_body(error, request.path)
    else:
        body = daemon_body(error, request.method, masked(request.path))
    return web.json_response(body, status=error.status, headers=error.headers)


@web.middleware
async def from_here(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a web page elsewhere may have caused.

    A page can make its own name resolve to 127.0.0.1 and so reach this port with itself as Host; only loopback names
    and preview names are served. And a page can send requests here from its own origin; the API and the toolbox take
    none with a foreign Origin. Previews are meant for browsers and have credentials of their own.
    """
    host = request.headers.get("Host", "")
    if not (_LOOPBACK.fullmatch(host) or PREVIEW_HOST.fullmatch(host)):
        raise ApiError(403, "forbidden: this host answers to 127.0.0.1 and localhost only", code="FORBIDDEN")
    if _LOOPBACK.fullmatch(host) and not request.path.startswith("/preview/"):
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, "forbidden: requests from another origin are refused", code="FORBIDDEN")
    return await handler(request)


@web.middleware
async def with_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ask for the API key under ``/api``, but for the configuration and for Socket.IO, which asks by itself."""
    path = request.path
    if path.startswith("/api/") and path not in _OPEN_PATHS and not path.startswith("/api/socket.io/"):
        house_of(request).require_key(request)
        if house_of(request).stopping.is_set():
            raise ApiError(503, "Service is currently under maintenance. Please try again later.")
        response = await handler(request)
        await house_of(request).events.sent()
        return response
    return await handler(request)


@web.middleware
async def toolbox_lives(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a toolbox request finish its work when its client hangs up, and count it as activity while it is open.

    The server cancels the handler of a client that is gone, which is right for a preview; a file half written would
    not be.
    """
    if not request.path.startswith("/toolbox/"):
        return await handler(request)
    house = house_of(request)

    async def work() -> web.StreamResponse:
        async with house.kept_active(request, lambda: request.get(RESOLVED)):
            return await handler(request)

    return await asyncio.shield(asyncio.ensure_future(work()))


async def not_built(request: web.Request) -> web.StreamResponse:
    """The answer to an API route that this host lacks."""
    route = f"{request.method} {masked(request.path)}"
    raise ApiError(501, f"{route} is not available on this host", code="NOT_IMPLEMENTED")
