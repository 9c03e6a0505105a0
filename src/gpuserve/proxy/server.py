"""The listener: loopback only, one path prefix for each upstream."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from gpuserve.errors import Conflict, UsageError
from gpuserve.proxy.guard import Refusal, refusal
from gpuserve.proxy.relay import open_session, refused, relay
from gpuserve.proxy.upstream import Way

HOST = "127.0.0.1"
#: Seconds that open requests get when the proxy ends.
_GRACE = 0.2


class Proxy:
    """Serves ``ways`` on this machine, inside ``async with``.

    ``ways`` is keyed by path prefix: "" serves one upstream at the root, "/w/name" one of several. Clients must show
    ``key`` as their API key, unless it is "". ``port`` 0 takes a free one; ``listener`` is a socket that listens
    already, which is then served instead.
    """

    def __init__(
        self, ways: Mapping[str, Way], *, port: int = 0, key: str = "", listener: socket.socket | None = None
    ) -> None:
        self._ways = ways
        self._wanted = port
        self._listener = listener
        self._key = key
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        """Raises ``Conflict`` if the port is taken, ``UsageError`` if it may not be used."""
        listener = self._listener or listen(self._wanted)
        self.port = listener.getsockname()[1]
        self._session: aiohttp.ClientSession = open_session()
        self._server = web.Server(
            self._serve,
            handler_cancellation=True,  # a client that goes away ends its request upstream
            auto_decompress=False,
            access_log=None,
            logger=_silent(),
            max_line_size=2**16,
            max_field_size=2**16,
            read_bufsize=2**16,
        )
        self._listening = await asyncio.get_running_loop().create_server(self._server, sock=listener, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        await self._server.shutdown(_GRACE)
        await self._session.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        why = refusal(request, self._key)
        if why is not None:
            return refused(why)
        target = request.raw_path
        for prefix, way in self._ways.items():
            rest = target.removeprefix(prefix)
            if rest.startswith(("/", "?")) and (rest != target or not prefix):
                return await relay(request, self._session, way, rest)
        return refused(Refusal(404, "not_found", "this proxy serves nothing at this path"))


def listen(port: int) -> socket.socket:
    """A socket that listens on this machine's loopback. Raises as ``Proxy`` does."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"port {port} of this machine is in use", hint="--port 0 takes a free one") from error
        raise UsageError(f"can't listen on port {port}: {error.strerror}", hint="--port 0 takes a free one") from error
    return listener


def _silent() -> logging.Logger:
    """A logger that says nothing: a traceback could hold an address that is a credential."""
    logger = logging.getLogger("gpuserve.proxy.silent")
    logger.disabled = True
    return logger
