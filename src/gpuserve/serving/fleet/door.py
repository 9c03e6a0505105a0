"""The gateway's door: clients' connections wait in front of it until the gateway knows its workers, then pass through.

smg answers 404 for a model of which it knows no worker yet, for its first tenths of a second; no client asks again
after that. So it listens at an inner address, and the address that clients know belongs to the process that starts it
again: while it is gone, connections wait in that socket's queue. Bytes are passed on as they are.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

#: Seconds after which the door opens although a worker that is well isn't known to the gateway.
PATIENCE = 15.0
#: Seconds between two looks, and within which a look must be answered.
_STEP, _LOOK = 0.01, 2.0
_BACKLOG = 1024


class Door:
    """Passes what comes at ``listener`` on to ``inner``, a host and a port. ``passing`` counts open connections."""

    def __init__(self, listener: socket.socket, inner: tuple[str, int]) -> None:
        self.inner = inner
        self.passing = 0
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None

    async def keep(self) -> None:
        """Serves for ever; after ``shut`` only whoever is inside already."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(lambda: _Outer(self), sock=self._listener, backlog=_BACKLOG)
        try:
            await self._loop.create_future()
        finally:
            self._server.close()

    def shut(self) -> None:
        """Lets nobody in any more. May be called from any thread."""
        if self._server is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._server.close)


class _Side(asyncio.Protocol):
    """One side of a connection: what comes here goes out at ``other``, no faster than it leaves there.

    Who has said all is taken to be gone, as smg does it too.
    """

    other: _Side | None = None
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None  # nothing is read before there is one
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.abort() if error else self.other.transport.close()


class _Outer(_Side):
    """The client's side."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._door.passing += 1
        self.transport.pause_reading()
        self._entering = asyncio.ensure_future(self._enter())

    async def _enter(self) -> None:
        inner = _Side()
        inner.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: inner, *self._door.inner)
        except OSError:
            self.transport.abort()  # the gateway is ending
            return
        if self._gone:
            inner.transport.abort()
            return
        self.other = inner
        self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._door.passing -= 1
        super().connection_lost(error)


def await_workers(inner: tuple[str, int], key: str, manifest: Path, *, patience: float = PATIENCE) -> None:
    """Returns once the gateway at ``inner`` answers, and knows each worker of its list that the injector says is well.

    After ``patience`` seconds it returns as soon as the gateway answers at all.
    """
    deadline = time.monotonic() + patience
    while True:
        known = _known(inner, key)
        if known is not None and (time.monotonic() > deadline or not any(map(_well, _listed(manifest) - known))):
            return
        time.sleep(_STEP)


def busy(inner: tuple[str, int], key: str) -> bool:
    """Whether a worker owes the gateway at ``inner`` an answer, or the end of one."""
    return any(one.get("load") for one in _workers(inner, key) or ())


def _listed(manifest: Path) -> set[str]:
    return {one["url"] for one in json.loads(manifest.read_text(encoding="utf-8"))["workers"]}


def _known(inner: tuple[str, int], key: str) -> set[str] | None:
    """The addresses of the workers that the gateway sends requests to; None if it doesn't answer."""
    found = _workers(inner, key)
    return None if found is None else {one["url"] for one in found if one["status"] == "ready"}


def _workers(inner: tuple[str, int], key: str) -> list[dict[str, Any]] | None:
    host, port = inner
    status, text = _get(host, port, "/workers", {"Authorization": f"Bearer {key}"})
    if status != 200:
        return None
    found: list[dict[str, Any]] = json.loads(text)["workers"]
    return found


def _well(url: str) -> bool:
    """Whether a worker is well, by the injector's word; while that starts again itself, it is taken to be."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return _get(parts.hostname, parts.port, f"{parts.path}/health", {})[0] != 503


def _get(host: str, port: int, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Status and body; status 0 if there is no answer."""
    connection = HTTPConnection(host, port, timeout=_LOOK)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, HTTPException):
        return 0, ""
    finally:
        connection.close()
