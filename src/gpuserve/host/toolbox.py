"""The toolbox: everything under ``/toolbox/{sandbox_id}``, which the SDK calls for commands, sessions and files.

A route of the platform that is missing here answers 501 and names itself, so that a program which needs it fails with
a clear sentence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

import psutil
from aiohttp import web

from gpuserve.host import environment, execute, files, session_routes, transfers
from gpuserve.host.bodies import bad, problem
from gpuserve.host.processes import listening_ports
from gpuserve.host.session_routes import Handler, hang_up
from gpuserve.host.wire import Resolve, SandboxView, now_iso

PREFIX = "/toolbox/{sandbox_id}"

__all__ = ["PREFIX", "hang_up", "routes"]


def routes(resolve: Resolve) -> list[web.RouteDef]:
    """Every route of the toolbox, each behind ``resolve``. Add ``hang_up`` to the application's ``on_shutdown``.

    The application needs a ``client_max_size`` large enough for the longest command or code that it should take.
    """
    found = [web.route(method, PREFIX + path, _bound(resolve, handler)) for method, path, handler in ROUTES]
    return [*found, web.route("*", PREFIX + "{rest:(/.*)?}", _bound(resolve, missing))]


async def missing(request: web.Request, view: SandboxView) -> web.StreamResponse:  # noqa: ARG001
    """501 for what this host lacks."""
    raise problem(
        501, f"not implemented: {request.method} {request.match_info['rest'] or '/'} is not part of this host"
    )


async def home_dir(_: web.Request, view: SandboxView) -> web.Response:
    """``GET /user-home-dir`` and ``GET /work-dir``: the same directory here."""
    environment.ensure(view)
    return web.json_response({"dir": str(view.home)})


async def version(_: web.Request, __: SandboxView) -> web.Response:
    """``GET /version``: this package's."""
    return web.json_response({"version": metadata.version("gpuserve")})


async def ports(_: web.Request, view: SandboxView) -> web.Response:
    """``GET /port``: where processes of this sandbox listen."""
    return web.json_response({"ports": sorted(await _ports(view))})


async def port_in_use(request: web.Request, view: SandboxView) -> web.Response:
    """``GET /port/{port}/in-use``: whether a process of this sandbox listens there."""
    number = request.match_info["port"]
    if not number.isdecimal() or not 1 <= int(number) <= 65535:
        raise bad("port must be a number from 1 to 65535")
    return web.json_response({"isInUse": int(number) in await _ports(view)})


async def metrics(_: web.Request, view: SandboxView) -> web.Response:
    """``GET /system/metrics``: this machine's processor and memory, and the disk that holds the sandbox, in bytes."""
    return web.json_response(await asyncio.to_thread(_measure, str(view.root)))


async def _ports(view: SandboxView) -> set[int]:
    return await asyncio.to_thread(listening_ports, view.id, view.root)


def _measure(root: str) -> dict[str, Any]:
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(root)
    return {
        "cpuCount": psutil.cpu_count() or 1,
        "cpuUsedPct": psutil.cpu_percent(interval=0.1),
        "memTotal": memory.total,
        "memUsed": memory.used,
        "memCache": getattr(memory, "cached", 0),
        "diskTotal": disk.total,
        "diskUsed": disk.used,
        "diskFree": disk.free,
        "timestamp": now_iso(),
        "timestampUnix": int(time.time()),
    }


def _bound(resolve: Resolve, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request, await resolve(request))

    return handle


ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/user-home-dir", home_dir),
    ("GET", "/work-dir", home_dir),
    ("GET", "/version", version),
    ("POST", "/env", environment.update_env),
    ("POST", "/process/execute", execute.execute),
    ("POST", "/process/code-run", execute.code_run),
    *session_routes.ROUTES,
    ("GET", "/files", files.listing),
    ("DELETE", "/files", files.delete),
    ("GET", "/files/info", files.info),
    ("POST", "/files/folder", files.folder),
    ("POST", "/files/move", files.move),
    ("POST", "/files/permissions", files.permissions),
    ("GET", "/files/find", files.find),
    ("GET", "/files/search", files.search),
    ("POST", "/files/replace", files.replace),
    ("POST", "/files/bulk-upload", transfers.bulk_upload),
    ("POST", "/files/bulk-download", transfers.bulk_download),
    ("POST", "/files/upload", transfers.upload),
    ("GET", "/files/download", transfers.download),
    ("GET", "/port", ports),
    ("GET", "/port/{port}/in-use", port_in_use),
    ("GET", "/system/metrics", metrics),
]
