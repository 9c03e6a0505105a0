"""An OpenAI server for crowds of requests, in a process of its own: fast, or as unkind as asked for.

    with crowd(delay=[0, 0.05], error=0.05, busy=0.03, reset=0.02) as server:
        … a client of server.url …
        assert server.stats()["answered"]["row-7"] == 1

A request is known by the first ``row-NUMBER`` in its body. Raw asyncio protocols: it shall cost less than its clients.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

from fakes.apart import Apart, apart

_ROW = re.compile(rb"row-\d+")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_USAGE = {"prompt_tokens": 3000, "completion_tokens": 100, "total_tokens": 3100}
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "m"}


def whole(words: int) -> bytes:
    """A chat completion as it goes over the wire."""
    message = {"role": "assistant", "content": "word " * words}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    return reply(200, json.dumps(body).encode())


def streamed(words: int) -> bytes:
    """The same, a word an event."""
    head = {**_HEAD, "object": "chat.completion.chunk"}
    events = [
        {**head, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]} for _ in range(words)
    ]
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events.append({**head, "choices": [], "usage": _USAGE})
    texts = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(text), text.encode()) for text in texts)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks
        + b"0\r\n\r\n"
    )


def reply(status: int, body: bytes, headers: str = "") -> bytes:
    """An answer with its length."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Server:
    """What all connections share."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.delay = options.get("delay")
        self.chances = [(options.get(name, 0.0), name) for name in ("error", "busy", "reset")]
        self.retry_after = options.get("retry_after", 0)
        self.chance = random.Random(options.get("seed", 1))
        words = options.get("words", 100)
        self.whole, self.streamed = whole(words), streamed(words)
        self.answered: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.open = self.most_open = 0

    def draw(self) -> str:
        """What becomes of a request."""
        value = self.chance.random()
        for share, name in self.chances:
            if value < share:
                return name
            value -= share
        return "answer"

    def stats(self) -> bytes:
        told = {"answered": self.answered, "kinds": self.kinds, "open": self.open, "most_open": self.most_open}
        return reply(200, json.dumps(told).encode())


class Connection(asyncio.Protocol):
    """One connection; a client sends a request only when it has the answer to the last."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._buffer, 0, end)
        size = end + 4 + (int(found[1]) if found else 0)
        if len(self._buffer) < size:
            return
        request, self._buffer = self._buffer[:size], self._buffer[size:]
        if request.startswith(b"GET"):
            self._transport.write(self._server.stats())
            return
        self._take(request, end)

    def _take(self, request: bytes, end: int) -> None:
        server = self._server
        server.open += 1
        server.most_open = max(server.most_open, server.open)
        if server.delay is None:
            self._answer(request, end)
        else:
            wait = server.chance.uniform(*server.delay)
            self._timer = asyncio.get_running_loop().call_later(wait, self._answer, request, end)

    def _answer(self, request: bytes, end: int) -> None:
        server, self._timer = self._server, None
        server.open -= 1
        kind = server.draw() if server.delay is not None else "answer"
        server.kinds[kind] += 1
        if kind == "reset":
            self._transport.abort()
        elif kind == "error":
            self._transport.write(reply(500, b'{"error":{"message":"made to fail"}}'))
        elif kind == "busy":
            words = b'{"error":{"message":"too many"}}'
            self._transport.write(reply(429, words, f"Retry-After: {server.retry_after}\r\n"))
        else:
            if server.delay is not None and (row := _ROW.search(request, end)):
                server.answered[row[0].decode()] += 1
            self._transport.write(
                server.streamed if b'"stream":true' in request[-80:] else self._whole_or_streamed(request)
            )

    def _whole_or_streamed(self, request: bytes) -> bytes:
        """Other clients say ``stream`` elsewhere, and with a blank."""
        wants = b'"stream":true' in request or b'"stream": true' in request
        return self._server.streamed if wants else self._server.whole

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._server.open -= 1


async def _serve(options: dict[str, Any]) -> None:
    shared = Server(options)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(shared), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{listening.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listening.serve_forever()


def crowd(**options: Any) -> AbstractContextManager[Apart]:
    """A server in a process of its own. ``delay`` in seconds; ``error``, ``busy``, ``reset``: shares from 0 to 1."""
    return apart("crowd", options)


if __name__ == "__main__":
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(json.loads(sys.argv[1])))
