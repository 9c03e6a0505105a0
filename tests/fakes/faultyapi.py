"""A reverse proxy in front of a local host, which goes wrong where a test says so.

    with FaultyApi(host_url) as api:
        api.add(Fault("POST", "/api/sandbox", status=503, times=1))
        … a client of api.url …
        assert api.count("POST", "/api/sandbox") == 1

Everything else is forwarded as it came, streams and websockets too; each connection carries one request. In JSON
answers the host's own address becomes the proxy's, so that toolbox and preview requests pass through here as well.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from fakes.loopback import HEAD_LIMIT, LoopbackProxy, closing, pump

Ending = Literal["", "reset", "reset-after", "cut", "cut-after", "silent", "silent-after"]
_WORDS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


@dataclass(frozen=True)
class Fault:
    """What happens to requests of ``method`` ("" for all) whose path, without its query, matches ``path`` as a whole.

    ``status`` answers with a body as the API writes it. ``ending`` resets or closes the connection or leaves the client
    waiting, before the request is forwarded or ``…-after`` the host has answered it. ``delay`` seconds pass before
    anything. It strikes ``times`` times (None: always) or for ``seconds`` from the first strike on, after ``skip``
    requests.
    """

    method: str
    path: str
    status: int = 0
    ending: Ending = ""
    times: int | None = None
    skip: int = 0
    seconds: float | None = None
    delay: float = 0.0
    retry_after: str = ""


@dataclass
class Passed:
    """One request as it was seen. ``fault`` tells whether it was struck; ``status`` is 0 without an answer."""

    method: str
    path: str
    fault: bool
    at: float
    status: int = 0


class _Armed:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.matched = 0
        self.struck = 0
        self.first = 0.0

    def strikes(self, method: str, path: str) -> bool:
        fault = self.fault
        if fault.method not in ("", method) or not re.fullmatch(fault.path, path):
            return False
        self.matched += 1
        if self.matched <= fault.skip:
            return False
        now = time.monotonic()
        self.first = self.first or now
        if fault.seconds is not None and now - self.first > fault.seconds:
            return False
        if fault.times is not None and self.struck >= fault.times:
            return False
        self.struck += 1
        return True


class FaultyApi(LoopbackProxy):
    """The proxy; runs in a thread of its own from ``__enter__`` to ``__exit__`` on a free port of this machine."""

    def __init__(self, host_url: str) -> None:
        super().__init__(host_url, "faulty api")
        self._armed: list[_Armed] = []
        self.seen: list[Passed] = []

    def add(self, *faults: Fault) -> None:
        """Arms faults; of several that would strike, the first one added does."""
        self._armed += map(_Armed, faults)

    def disarm(self) -> None:
        """Takes all faults away; what was seen stays."""
        self._armed = []

    def clear(self) -> None:
        """Disarms all faults and forgets what was seen."""
        self._armed, self.seen = [], []

    def count(self, method: str, path: str) -> int:
        """How many requests of this method whose path matches as a whole were seen, struck or not."""
        return sum(one.method == method and bool(re.fullmatch(path, one.path)) for one in list(self.seen))

    def reached(self, method: str, path: str) -> int:
        """As ``count``, of those that the host itself answered with success."""
        return sum(
            one.method == method and bool(re.fullmatch(path, one.path)) and 200 <= one.status < 300
            for one in list(self.seen)
        )

    @property
    def struck(self) -> int:
        """How many requests met a fault."""
        return sum(one.fault for one in list(self.seen))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):  # either side may go away at any time
                await self._one(reader, writer)
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        path = target.partition("?")[0]
        armed = next((one for one in list(self._armed) if one.strikes(method, path)), None)
        passed = Passed(method, path, armed is not None, time.monotonic())
        self.seen.append(passed)
        fault = armed.fault if armed else Fault("", "")
        await asyncio.sleep(fault.delay)
        if fault.status:
            await _body(reader, head)
            passed.status = fault.status
            writer.write(_answer(fault, path))
            await writer.drain()
        elif fault.ending == "silent":
            await reader.read()  # until the client gives up
        elif fault.ending in ("reset", "cut"):
            await _body(reader, head)
            _drop(writer, hard=fault.ending == "reset")
        else:
            await self._forward(reader, writer, head, passed, fault.ending)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, passed: Passed, ending: Ending
    ) -> None:
        upgrade = bool(re.search(rb"\r\nupgrade:", head, re.IGNORECASE))
        down_reader, down_writer = await asyncio.open_connection(*self.behind, limit=HEAD_LIMIT)
        try:
            down_writer.write(head if upgrade else closing(head))
            back = self.loop.create_task(pump(reader, down_writer))
            try:
                answer = await down_reader.readuntil(b"\r\n\r\n")
                passed.status = int(answer.split(b" ", 2)[1])
                if ending:
                    await down_reader.read()
                    if ending == "silent-after":
                        await asyncio.shield(back)  # until the client gives up
                    _drop(writer, hard=ending == "reset-after")
                    return
                if b"application/json" in answer and not upgrade:
                    answer = await self._readdressed(answer, down_reader)
                writer.write(answer)
                await pump(down_reader, writer)
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
        finally:
            down_writer.close()

    async def _readdressed(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        """The whole answer, the host's address in it replaced by the proxy's."""
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if length is None:
            return head  # a stream: it carries no addresses
        body = await reader.readexactly(int(length[1]))
        body = body.replace(f"127.0.0.1:{self.behind[1]}".encode(), f"127.0.0.1:{self.port}".encode())
        return head.replace(length[0], f"\r\nContent-Length: {len(body)}".encode()) + body


def _answer(fault: Fault, path: str) -> bytes:
    word = _WORDS.get(fault.status, "Error")
    content = {"path": path, "statusCode": fault.status, "error": word, "message": f"injected fault {fault.status}"}
    body = json.dumps(content).encode()
    extra = f"Retry-After: {fault.retry_after}\r\n" if fault.retry_after else ""
    head = (
        f"HTTP/1.1 {fault.status} {word}\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _body(reader: asyncio.StreamReader, head: bytes) -> None:
    """Reads what the request carries, so that closing the connection is what the fault says and no accident."""
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if length is not None:
        await reader.readexactly(int(length[1]))


def _drop(writer: asyncio.StreamWriter, *, hard: bool) -> None:
    """Ends a connection without an answer: ``hard`` is ECONNRESET, otherwise an orderly end of nothing."""
    if hard:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
