"""A server on a free port of this machine with an event loop in a thread of its own: what the faulty proxies share."""

from __future__ import annotations

import asyncio
import re
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

#: Most bytes of a request's or an answer's head.
HEAD_LIMIT = 2**20


class LoopbackProxy:
    """Listens from ``__enter__`` to ``__exit__``; subclasses say in ``serve`` what becomes of a connection."""

    def __init__(self, host_url: str, name: str) -> None:
        parts = urlsplit(host_url)
        self.behind = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._thread = threading.Thread(target=self.loop.run_forever, name=name)
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The API's address behind this proxy, as ``DAYTONA_API_URL`` takes it."""
        return f"http://127.0.0.1:{self.port}/api"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it is closed."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(timeout=20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(timeout=20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=HEAD_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0.05)  # a transport that was closed is so some turns of the loop later

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self.loop.create_task(self.serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        task.add_done_callback(lambda _: writer.close())  # also of one that was cancelled before it began


def closing(head: bytes) -> bytes:
    """The request's head, asking the host to close the connection after its answer."""
    start, _, rest = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE).partition(b"\r\n")
    return start + b"\r\nConnection: close\r\n" + rest


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Passes on what comes until there is no more."""
    while piece := await source.read(65536):
        sink.write(piece)
        await sink.drain()
