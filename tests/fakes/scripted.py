"""A server over real sockets that answers what a test scripted, to see how a client takes it.

    with Scripted() as server:
        server.add(Reply(chunks=[sse({"choices": …}), gate, sse("[DONE]")]))
        … a client of server.url …
        assert server.requests[0].json() == …

Replies are used up in order, one for each request. Leaving the block fails if some were never asked
for, or if a request came for which there was none.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

_GATE_SECONDS = 30.0


class _Ending:
    """A way for a connection to end in the middle of an answer."""


#: Resets the connection (the client sees ECONNRESET).
RESET = _Ending()
#: Closes the connection without the end of the body.
CUT = _Ending()

Piece = bytes | threading.Event | _Ending


@dataclass(frozen=True)
class Reply:
    """One answer. ``chunks`` are sent one by one; an ``Event`` among them holds back the rest until it is set.

    A plain ``body`` is sent with its length, ``chunks`` without one. ``status`` 0 sends no head at all.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: Sequence[Piece] | None = None


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names are in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        content = json.loads(self.body)
        assert isinstance(content, dict)
        return content


def sse(content: object) -> bytes:
    """One server-sent event: text as it is, anything else as JSON."""
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n".encode()


def stream(*events: object, done: bool = True) -> Reply:
    """A streamed chat answer of whole events, each a chunk of its own."""
    ending = ["[DONE]"] if done else []
    return Reply(headers={"Content-Type": "text/event-stream"}, chunks=[sse(event) for event in (*events, *ending)])


def as_json(content: object, status: int = 200) -> Reply:
    """A whole JSON answer."""
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(content).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Seen(self.command, self.path, headers, body))
        if not self.server.replies:
            self.server.complaints.append(f"nothing was scripted for {self.command} {self.path}")
            self.send_error(500)
            return
        try:
            self._send(self.server.replies.popleft())
        except ConnectionError:
            self.close_connection = True  # the client went away, as it may

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server looks for

    def _send(self, reply: Reply) -> None:
        if reply.status:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.chunks is None:
                self.send_header("Content-Length", str(len(reply.body)))
            else:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
        if reply.chunks is None:
            self.wfile.write(reply.body)
            return
        if self._send_chunks(reply.chunks):
            self.wfile.write(b"0\r\n\r\n")

    def _send_chunks(self, chunks: Iterable[Piece]) -> bool:
        """Whether all were sent."""
        for piece in chunks:
            if isinstance(piece, bytes):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            elif isinstance(piece, threading.Event):
                if not piece.wait(_GATE_SECONDS):
                    self.server.complaints.append("a gate was never opened")
            else:
                if piece is RESET:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return False
        return True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: deque[Reply] = deque()
        self.requests: list[Seen] = []
        self.connections: list[socket.socket] = []
        self.complaints: list[str] = []

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Closes at once: the base class first says goodbye, which would turn a reset into an orderly end."""
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away between two requests is no error."""


class Scripted:
    """The server; runs from ``__enter__`` to ``__exit__`` on a free port of this machine."""

    def __init__(self, *replies: Reply) -> None:
        self._server = _Server()
        self._server.replies.extend(replies)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> list[Seen]:
        return self._server.requests

    @property
    def connections(self) -> int:
        """How many connections were ever opened."""
        return len(self._server.connections)

    def add(self, *replies: Reply) -> None:
        self._server.replies.extend(replies)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        for connection in self._server.connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        if error is None:
            assert not self._server.complaints, self._server.complaints
            assert not self._server.replies, "some replies were never asked for"
