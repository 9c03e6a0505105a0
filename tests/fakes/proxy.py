"""A reverse proxy in front of a local host that spoils log streams, and counts what the log costs.

    with LogProxy(host_url) as proxy:
        proxy.spoil = [Spoil(cut=3000), Spoil(status=502)]   # the first streams; those after them are left alone
        … a client of proxy.url …
        assert proxy.streams == 3

Each connection carries one request. In JSON answers the host's address becomes the proxy's, so that toolbox and preview
requests pass through here too.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass

from fakes.loopback import HEAD_LIMIT, LoopbackProxy, closing, pump

_LOGS = re.compile(rb"^GET [^ ]*/command/[^ ]*/logs[? ]")


@dataclass(frozen=True)
class Spoil:
    """What becomes of one log stream.

    ``cut`` ends it after so many bytes behind the handshake; ``polite`` with a close frame that says all is well.
    ``twice`` sends the first frames again in the middle of it. ``status`` answers the handshake itself. ``stall`` stops
    passing anything on after ``cut`` bytes, with the connection open. ``delay`` seconds pass before each read.
    """

    cut: int | None = None
    polite: bool = False
    twice: bool = False
    stall: bool = False
    status: int = 0
    delay: float = 0.0


@dataclass
class _Counts:
    streams: int = 0
    stream_bytes: int = 0
    snapshots: int = 0
    snapshot_bytes: int = 0


class LogProxy(LoopbackProxy):
    """The proxy; runs in a thread of its own from ``__enter__`` to ``__exit__`` on a free port of this machine.

    ``always`` is what becomes of the streams after those of ``spoil``.
    """

    def __init__(self, host_url: str) -> None:
        super().__init__(host_url, "log proxy")
        self.spoil: list[Spoil] = []
        self.always = Spoil()
        self.counts = _Counts()

    @property
    def fetched(self) -> int:
        """Bytes of log that passed to the client: the answers' bodies, and the streams' frames."""
        return self.counts.stream_bytes + self.counts.snapshot_bytes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):  # either side may go away at any time
                head = await reader.readuntil(b"\r\n\r\n")
                spoil = self._fate(head)
                if spoil.status:
                    writer.write(b"HTTP/1.1 %d Spoilt\r\nContent-Length: 0\r\n\r\n" % spoil.status)
                    await writer.drain()
                else:
                    await self._forward(head, reader, writer, spoil)
        finally:
            writer.close()

    def _fate(self, head: bytes) -> Spoil:
        if not (_LOGS.match(head) and _upgrade(head)):
            return Spoil()
        self.counts.streams += 1
        return self.spoil.pop(0) if self.spoil else self.always

    async def _forward(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spoil: Spoil
    ) -> None:
        behind, ahead = await asyncio.open_connection(*self.behind, limit=HEAD_LIMIT)
        ahead.write(head if _upgrade(head) else closing(head))
        back = self.loop.create_task(pump(reader, ahead))
        try:
            answer = await behind.readuntil(b"\r\n\r\n")
            if _upgrade(head):
                writer.write(answer)
                await self._stream(behind, writer, spoil, log=bool(_LOGS.match(head)))
            else:
                writer.write(await self._plain(head, answer, behind))
                await pump(behind, writer)
        finally:
            back.cancel()
            ahead.close()  # before anything is awaited: this task may be cancelled there
            await asyncio.gather(back, return_exceptions=True)

    async def _plain(self, head: bytes, answer: bytes, behind: asyncio.StreamReader) -> bytes:
        """The whole answer, the host's address in it replaced by the proxy's."""
        length = re.search(rb"\r\ncontent-length: *(\d+)", answer, re.IGNORECASE)
        if length is None or b"application/json" not in answer:
            return answer
        body = await behind.readexactly(int(length[1]))
        if _LOGS.match(head):
            self.counts.snapshots += 1
            self.counts.snapshot_bytes += len(body)
        else:
            body = body.replace(b"127.0.0.1:%d" % self.behind[1], b"127.0.0.1:%d" % self.port)
        return answer.replace(length[0], b"\r\nContent-Length: %d" % len(body)) + body

    async def _stream(
        self, behind: asyncio.StreamReader, writer: asyncio.StreamWriter, spoil: Spoil, *, log: bool
    ) -> None:
        passed, first = 0, b""
        while spoil.cut is None or passed < spoil.cut:
            await asyncio.sleep(spoil.delay)
            frame = await _frame(behind)
            part = frame if spoil.cut is None else frame[: spoil.cut - passed]
            passed += len(part)
            self.counts.stream_bytes += len(part) if log else 0
            first = first or part
            writer.write(part + (first if spoil.twice and passed > len(first) else b""))
            await writer.drain()
        if spoil.stall:
            await behind.read(-1)
        if spoil.polite:
            writer.write(b"\x88\x02\x03\xe8")  # a close frame, code 1000
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One whole websocket frame as a server sends it (RFC 6455, 5.2)."""
    head = await reader.readexactly(2)
    size, more = head[1] & 0x7F, b""
    if size > 125:
        more = await reader.readexactly(2 if size == 126 else 8)
        size = int.from_bytes(more, "big")
    return head + more + await reader.readexactly(size)


def _upgrade(head: bytes) -> bool:
    return bool(re.search(rb"\r\nupgrade:", head, re.IGNORECASE))
