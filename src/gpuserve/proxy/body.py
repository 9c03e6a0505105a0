"""A request's body on its way up: passed on as it arrives, and kept for a second try while it is short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

#: A body of at most so many bytes, if the client tells its size, is read at once: it fits into one or two packets.
WHOLE = 2**16
#: Longer bodies are kept up to here. What is longer goes up once, and can't be repeated.
KEPT = 2**23


class Body:
    """The body of one request, which may be sent several times."""

    def __init__(self, request: web.BaseRequest, *, kept: int = KEPT) -> None:
        self._request = request
        self._limit = kept
        self._pieces: list[bytes] = []
        self._size = 0
        self._one_reader = asyncio.Lock()

    @property
    def replayable(self) -> bool:
        """Whether all that was read so far is still there."""
        return self._size <= self._limit

    async def data(self) -> bytes | AsyncIterator[bytes] | None:
        """What to hand to the client; anew for each try."""
        if not self._request.body_exists:
            return None
        length = self._request.content_length
        if length is not None and length <= WHOLE:
            return await self._request.read()
        return self._from_start()

    async def _from_start(self) -> AsyncIterator[bytes]:
        async with self._one_reader:  # an earlier try may not have let go yet
            for piece in list(self._pieces):
                yield piece
            while piece := await self._request.content.readany():
                self._keep(piece)
                yield piece

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self.replayable:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
