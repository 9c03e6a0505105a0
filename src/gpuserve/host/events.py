"""State changes of sandboxes over Socket.IO at ``/api/socket.io/``, as Daytona's SDKs listen for them."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from typing import Any

import socketio
from aiohttp import web

_log = logging.getLogger(__name__)
_ROOM = "organization"


class Events:
    """Sends events in the order in which they happened."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._server = socketio.AsyncServer(async_mode="aiohttp")
        self._server.on("connect", self._connect)

    def attach(self, app: web.Application) -> None:
        """Serve Socket.IO in ``app``."""
        self._server.attach(app, socketio_path="api/socket.io")

    def publish(self, event: str, payload: dict[str, Any]) -> None:
        """Send ``payload`` to every client, soon."""
        self._queue.put_nowait((event, payload))

    async def run(self) -> None:
        """Send what is published until cancelled."""
        while True:
            event, payload = await self._queue.get()
            try:
                await self._server.emit(event, payload, room=_ROOM)
            except (ConnectionError, ValueError, RuntimeError):
                _log.exception("sending %s", event)  # clients poll as well, so an event may be lost
            finally:
                self._queue.task_done()

    async def sent(self, within: float = 1.0) -> None:
        """Wait until all that is published has been sent, at most ``within`` seconds.

        The SDKs take an event that arrives after a REST answer for newer than that answer: a deletion that they wait
        for would then fail with the error state of before.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), within)
        await asyncio.sleep(0)  # lets the connections write what they were given

    async def close(self) -> None:
        """Drop every client."""
        for socket in list(self._server.eio.sockets.values()):
            await socket.close(wait=False)
        await self._server.shutdown()

    async def _connect(self, sid: str, _environ: dict[str, Any], auth: dict[str, Any] | None = None) -> None:
        token = str((auth or {}).get("token", ""))
        if not hmac.compare_digest(token.encode(), self._key.encode()):
            raise socketio.exceptions.ConnectionRefusedError("Invalid credentials")
        await self._server.enter_room(sid, _ROOM)
