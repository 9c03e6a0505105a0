"""A web server that a test runs inside a sandbox: it shows what reached it, and streams step by step on request.

It listens on a free port and writes its number to the file ``port``. A stream sends its next piece once the file
``go-N`` exists, so that a test decides when.
"""

# ruff: noqa: ASYNC110, ASYNC240 - files are how the test steers it

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from aiohttp import WSMsgType, web

STEPS = 4


async def show(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "body": body.decode(),
        }
    )


async def digest(request: web.Request) -> web.Response:
    seen, length = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        seen.update(chunk)
        length += len(chunk)
        Path("received").write_text(str(length))
    chunked = request.headers.get("Transfer-Encoding", "")
    return web.json_response({"sha256": seen.hexdigest(), "length": length, "chunked": chunked})


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for step in range(STEPS):
        while not Path(f"go-{step}").exists():
            await asyncio.sleep(0.01)
        await response.write(b'data: {"choices": [{"index": 0, "delta": {"content": "%d"}}]}\n\n' % step)
    await response.write(b"data: [DONE]\n\n")
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    Path("hanging").touch()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        Path("let-go").touch()
        raise
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"half")
    assert request.transport is not None
    request.transport.abort()
    return response


async def redirect(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": request.query["to"]})


async def cookies(_: web.Request) -> web.Response:
    response = web.Response(text="two")
    response.headers.add("Set-Cookie", "a=1")
    response.headers.add("Set-Cookie", "b=2")
    return response


async def socket(request: web.Request) -> web.StreamResponse:
    if "refuse" in request.query:
        return web.Response(status=418)
    ws = web.WebSocketResponse(protocols=["chat"], autoping=True)
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.TEXT and message.data == "close":
            await ws.close(code=4321, message=b"as asked")
        elif message.type == WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    Path("socket-closed").write_text(str(ws.close_code))
    return ws


async def main() -> None:
    app = web.Application(client_max_size=2**30)
    app.add_routes([web.get("/stream", stream), web.post("/v1/chat/completions", stream), web.get("/hang", hang)])
    app.add_routes([web.get("/break", break_off), web.get("/redirect", redirect), web.get("/cookies", cookies)])
    app.add_routes([web.get("/ws", socket), web.post("/digest", digest), web.route("*", "/{rest:.*}", show)])
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    draft = Path("port.draft")
    draft.write_text(str(runner.addresses[0][1]))
    draft.rename("port")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
