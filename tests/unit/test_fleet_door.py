"""The gateway's door: who comes early waits, and what passes is what was said."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fakes.wire import Heard, Wire
from gpuserve.proxy.server import listen
from gpuserve.serving.fleet.door import Door, await_workers
from gpuserve.serving.plan import free_port

KEY = "fleet-key-of-the-gateway"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def gateway(serve: Serve) -> AsyncIterator[tuple[str, int]]:
    """What is behind the door; its address."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "127.0.0.1", server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def kept(listener: socket.socket, inner: tuple[str, int]) -> AsyncIterator[Door]:
    door = Door(listener, inner)
    keeping = asyncio.create_task(door.keep())
    try:
        yield door
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110  # a counter tells no event
        await asyncio.sleep(0.01)


def test_who_comes_before_it_opens_waits_and_is_served() -> None:
    async def story() -> None:
        listener = listen(0)
        async with asyncio.timeout(30), gateway(echo) as inner:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"early")
            async with kept(listener, inner) as door:
                assert await reader.readexactly(5) == b"early"
                assert door.passing == 1
                writer.close()
                await until(lambda: not door.passing)

    asyncio.run(story())


def test_the_end_of_one_side_is_the_end_of_the_other() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word = await reader.readexactly(4)
        if word == b"last":
            writer.write(b"words")
        elif not await reader.read():
            gone.set()
        writer.close()

    async def story() -> None:
        listener = listen(0)
        async with asyncio.timeout(30), gateway(serve) as inner, kept(listener, inner) as door:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"last")
            assert await reader.read() == b"words"
            writer.close()
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"stay")
            writer.close()
            await gone.wait()
            await until(lambda: not door.passing)

    asyncio.run(story())


def test_where_no_gateway_is_any_more_a_connection_ends() -> None:
    async def story() -> None:
        listener = listen(0)
        async with asyncio.timeout(30), kept(listener, ("127.0.0.1", free_port())) as door:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            assert await reader.read() == b""
            writer.close()
            await until(lambda: not door.passing)

    asyncio.run(story())


def test_who_reads_slowly_is_not_written_for_in_advance() -> None:
    piece, pieces = b"x" * 2**20, 96
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        for _ in range(pieces):
            writer.write(piece)
            await writer.drain()
            written += 1
        writer.close()

    async def story() -> None:
        listener = listen(0)
        async with asyncio.timeout(60), gateway(serve) as inner, kept(listener, inner):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            before = -1
            while written != before:
                before = written
                await asyncio.sleep(0.3)
            assert written < pieces // 2
            assert len(await reader.read()) == len(piece) * pieces
            writer.close()

    asyncio.run(story())


def test_it_opens_when_the_gateway_knows_all_who_are_well(tmp_path: Path) -> None:
    """Not sooner; nor later for one who isn't; and in the end without waiting any more."""
    known: list[str] = []
    looked = asyncio.Event()

    async def answer(heard: Heard) -> None:
        if heard.target == "/workers":
            assert heard.headers["authorization"] == f"Bearer {KEY}"
            rows = [{"url": url, "status": "ready"} for url in known]
            await heard.say(200, json.dumps({"workers": rows}).encode())
        else:
            await heard.say(503 if "sick" in heard.target else 200)
            looked.set()

    async def story() -> None:
        async with asyncio.timeout(30), Wire(answer) as wire:
            urls = [f"{wire.url}/w/{name}" for name in ("well", "sick")]
            manifest = tmp_path / "workers.json"
            manifest.write_text(json.dumps({"version": 1, "workers": [{"url": url} for url in urls]}))
            inner = "127.0.0.1", int(wire.url.rpartition(":")[2])
            waiting = asyncio.ensure_future(asyncio.to_thread(await_workers, inner, KEY, manifest))
            await looked.wait()
            asked = len(wire.heard)
            await until(lambda: len(wire.heard) > asked + 4)
            assert not waiting.done()
            known.append(urls[0])
            await waiting
            known.clear()
            await asyncio.to_thread(await_workers, inner, KEY, manifest, patience=0)

    asyncio.run(story())
