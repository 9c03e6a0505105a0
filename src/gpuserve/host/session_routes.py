"""The toolbox's session routes, and the websocket on which a command's log is followed."""

from __future__ import annotations

import asyncio
import os
import re
import time
import weakref
from collections.abc import Awaitable, Callable

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from gpuserve.host import sessions
from gpuserve.host.bodies import flag, json_body, text
from gpuserve.host.sessions import Command, Session
from gpuserve.host.wire import SandboxView

SDK_VERSION = "X-Daytona-SDK-Version~"
FRAME_BYTES = 32 << 10
"""Most bytes in one websocket frame; the SDK's websocket client takes at most 64 KiB. The platform sends 1 KiB."""
LINGER_SECONDS = 1.0
"""Time between a command's end and the close of its log stream, as on the platform."""
_LOOK_SECONDS = 0.03
_JSON_SINCE = (0, 167)
"""SDKs before this version split the streams themselves and expect the bare log."""

_open_streams: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()


async def create(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /process/session``: 201 without a body."""
    await sessions.create(view, text(await json_body(request), "sessionId"))
    return web.Response(status=201)


async def every(_: web.Request, view: SandboxView) -> web.Response:
    """``GET /process/session``."""
    return web.json_response([session.as_json() for session in sessions.every(view)])


async def one(request: web.Request, view: SandboxView) -> web.Response:
    """``GET /process/session/{session_id}``."""
    return web.json_response(_session(request, view).as_json())


async def delete(request: web.Request, view: SandboxView) -> web.Response:
    """``DELETE /process/session/{session_id}``: 204 once nothing of it is left."""
    await _session(request, view).delete()
    return web.Response(status=204)


async def execute(request: web.Request, view: SandboxView) -> web.Response:
    """``POST …/exec``: 202 with the command's id at once, or 200 with its result when it has ended."""
    session = _session(request, view)
    body = await json_body(request)
    command = session.submit(text(body, "command"), echo_input=not flag(body, "suppressInputEcho"))
    if flag(body, "runAsync") or flag(body, "async"):
        return web.json_response({"cmdId": command.id}, status=202)
    code = await session.wait(command)
    return web.json_response({"cmdId": command.id, "exitCode": code} | await _log_fields(command))


async def command(request: web.Request, view: SandboxView) -> web.Response:
    """``GET …/command/{command_id}``."""
    return web.json_response(_command(request, view).as_json())


async def command_input(request: web.Request, view: SandboxView) -> web.Response:
    """``POST …/command/{command_id}/input``: 204 once the command's stdin has taken it."""
    session = _session(request, view)
    target = session.command(request.match_info["command_id"])
    await session.send_input(target, text(await json_body(request), "data"))
    return web.Response(status=204)


async def logs(request: web.Request, view: SandboxView) -> web.StreamResponse:
    """``GET …/command/{command_id}/logs``: JSON for the SDK, bare bytes for others, a stream on a websocket."""
    target = _command(request, view)
    offered = [name.strip() for name in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    # Where a browser's client can set no header, the TypeScript SDK says its version so, and wants to be answered.
    socket = web.WebSocketResponse(compress=False, protocols=[one for one in offered if one.startswith(SDK_VERSION)])
    if socket.can_prepare(request).ok:
        return await _follow(request, socket, target)
    if _wants_json(request):
        return web.json_response(await _log_fields(target))
    return web.Response(body=await asyncio.to_thread(target.log.read_bytes), content_type="text/plain")


async def hang_up(_: web.Application) -> None:
    """Close every log stream, so that a stopping server need not wait for them. For ``app.on_shutdown``."""
    for socket in set(_open_streams):
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the host is stopping")


def _session(request: web.Request, view: SandboxView) -> Session:
    return sessions.find(view, request.match_info["session_id"])


def _command(request: web.Request, view: SandboxView) -> Command:
    return _session(request, view).command(request.match_info["command_id"])


def _wants_json(request: web.Request) -> bool:
    version = re.match(r"v?(\d+)\.(\d+)", request.headers.get("X-Daytona-SDK-Version", ""))
    return version is not None and tuple(map(int, version.groups())) >= _JSON_SINCE


async def _log_fields(target: Command) -> dict[str, str]:
    def read() -> dict[str, str]:
        raw = target.log.read_bytes()
        out, err = sessions.split(raw)
        named = {"output": raw, "stdout": out, "stderr": err}
        return {name: data.decode("utf-8", "replace") for name, data in named.items()}

    return await asyncio.to_thread(read)


async def _follow(request: web.Request, socket: web.WebSocketResponse, target: Command) -> web.StreamResponse:
    """Send the log from its beginning and as it grows.

    Closes with 1000 a second after the command's end and all that it wrote. A command whose shell ended under it never
    gets an exit code, so its stream stays open, as on the platform. 1001 if the session is deleted meanwhile.
    """
    log = os.open(target.log, os.O_RDONLY)
    try:
        await socket.prepare(request)
        _open_streams.add(socket)
        gone = asyncio.create_task(_until_closed(socket))
        try:
            await _send_all(socket, log, target, gone)
        finally:
            gone.cancel()
    except ConnectionError:
        return socket  # the reader went away while something was being sent to it
    finally:
        os.close(log)
        _open_streams.discard(socket)
    return socket


async def _send_all(socket: web.WebSocketResponse, log: int, target: Command, gone: asyncio.Task[None]) -> None:
    close_at: float | None = None
    while not gone.done():
        over = close_at is not None and time.monotonic() >= close_at  # asked before reading: then all was read
        if data := os.read(log, FRAME_BYTES):
            await socket.send_bytes(data)
        elif over:
            return await _close(socket, gone, WSCloseCode.OK, b"")
        elif not target.log.exists():
            return await _close(socket, gone, WSCloseCode.GOING_AWAY, b"the session was deleted")
        else:
            if close_at is None and target.exit_code is not None:
                close_at = time.monotonic() + LINGER_SECONDS
            await asyncio.wait({gone}, timeout=_LOOK_SECONDS)
    return None


async def _close(socket: web.WebSocketResponse, gone: asyncio.Task[None], code: WSCloseCode, why: bytes) -> None:
    gone.cancel()  # closing reads the other side's answer itself
    await asyncio.wait({gone})
    await socket.close(code=code, message=why)


async def _until_closed(socket: web.WebSocketResponse) -> None:
    ends = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
    while (await socket.receive()).type not in ends:
        pass


Handler = Callable[[web.Request, SandboxView], Awaitable[web.StreamResponse]]

ROUTES: list[tuple[str, str, Handler]] = [
    ("POST", "/process/session", create),
    ("GET", "/process/session", every),
    ("GET", "/process/session/{session_id}", one),
    ("DELETE", "/process/session/{session_id}", delete),
    ("POST", "/process/session/{session_id}/exec", execute),
    ("GET", "/process/session/{session_id}/command/{command_id}", command),
    ("POST", "/process/session/{session_id}/command/{command_id}/input", command_input),
    ("GET", "/process/session/{session_id}/command/{command_id}/logs", logs),
]
