"""A server of asyncio's own streams, for what must be seen byte by byte while it happens.

    async with Wire(answer) as wire:
        … a client of wire.url …

``answer`` is called for each request with what its head said, and reads the body and writes the answer by itself. A
connection is kept until its client closes it or ``answer`` closes the writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class Heard:
    """One request: its head, and the two ends of its connection. Header names are in small letters."""

    method: str
    target: str
    headers: dict[str, str]
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)
    connection: int = 0

    async def body(self) -> bytes:
        """The whole body of a request that told its length."""
        return await self.reader.readexactly(int(self.headers.get("content-length", "0")))

    async def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer. ``_`` in a header's name stands for ``-``."""
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def begin(self) -> None:
        """The head of a stream of events."""
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """One chunk; an empty one is the end."""
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()


Answer = Callable[[Heard], Awaitable[None]]


class Wire:
    """The server, on a free port of this machine, inside ``async with``."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()
        self.heard: list[Heard] = []
        self.connections = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**20, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        failed = [one for one in results if isinstance(one, Exception)]
        if error is None and failed:
            raise failed[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer, self.connections))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client goes when it likes
                while not writer.is_closing():
                    heard = _head(await reader.readuntil(b"\r\n\r\n"), reader, writer, number)
                    self.heard.append(heard)
                    await self._answer(heard)
        finally:
            writer.close()


def _head(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> Heard:
    first, *lines = head.decode().strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Heard(method, target, headers, reader, writer, number)
