"""Websockets through the preview: frames of every kind both ways, with subprotocol, pings and close codes."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, hdrs, web
from multidict import CIMultiDict
from yarl import URL

_HANDSHAKE = frozenset(
    {f"sec-websocket-{name}" for name in ("key", "version", "extensions", "protocol")} | {"content-length"}
)
_BROKEN = (int(WSCloseCode.INTERNAL_ERROR), b"")
Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


def wanted(request: web.Request) -> bool:
    """Whether the request asks to become a websocket."""
    upgrade = request.headers.get(hdrs.UPGRADE, "").lower()
    return request.method == "GET" and upgrade == "websocket"


async def websocket(
    request: web.Request, session: aiohttp.ClientSession, url: URL, headers: CIMultiDict[str]
) -> web.StreamResponse:
    """Connect to ``url`` and pass everything on until either side closes.

    A server that refuses the upgrade has its status passed on.
    """
    offered = [one.strip() for one in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",") if one.strip()]
    kept = CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HANDSHAKE)
    try:
        inner = await session.ws_connect(
            url, headers=kept, protocols=offered, autoping=False, autoclose=False, max_msg_size=0, compress=0
        )
    except aiohttp.WSServerHandshakeError as error:
        return web.Response(status=error.status if error.status >= 400 else 502)
    async with inner:
        chosen = (inner.protocol,) if inner.protocol else ()
        outer = web.WebSocketResponse(
            protocols=chosen, autoping=False, autoclose=False, max_msg_size=0, compress=False, timeout=5
        )
        await outer.prepare(request)
        await _join(outer, inner)
        return outer


async def _join(outer: web.WebSocketResponse, inner: aiohttp.ClientWebSocketResponse) -> None:
    """Pass frames on both ways until one side closes or breaks; then close both with its code."""
    ways = [asyncio.create_task(_pass_on(outer, inner)), asyncio.create_task(_pass_on(inner, outer))]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    first = next((way for way in ways if way in done and way.exception() is None), None)
    code, reason = first.result() if first is not None else _BROKEN
    closing = (one.close(code=code, message=reason) for one in (outer, inner))
    await asyncio.gather(*closing, return_exceptions=True)


async def _pass_on(source: Socket, target: Socket) -> tuple[int, bytes]:
    """Pass frames on until ``source`` closes; return its code and reason."""
    while True:
        message = await source.receive()
        match message.type:
            case WSMsgType.TEXT:
                await target.send_str(message.data)
            case WSMsgType.BINARY:
                await target.send_bytes(message.data)
            case WSMsgType.PING:
                await target.ping(message.data)
            case WSMsgType.PONG:
                await target.pong(message.data)
            case WSMsgType.CLOSE:
                # Code 1005 stands for "none was given" and may not be sent.
                code = message.data if message.data and message.data != 1005 else WSCloseCode.OK
                return code, (message.extra or "").encode()
            case _:
                return _BROKEN
