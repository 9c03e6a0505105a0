"""Where requests go, what they carry, and how that is renewed once it no longer opens anything."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from gpuserve.client.transport import is_loopback, request_headers
from gpuserve.errors import GpuserveError
from gpuserve.records import Endpoint

#: How long before its end a credential is renewed.
AHEAD = timedelta(seconds=60)
#: Seconds between two attempts to renew: a wrong key must not become a stream of calls to the platform.
PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """An endpoint as the proxy uses it. ``expires_at`` is when its credential ends, None if it doesn't.

    ``headers`` are set on every request, in the place of the client's own; ``proxy`` is the HTTP proxy that the
    environment names for this address, if any.
    """

    endpoint: Endpoint
    expires_at: datetime | None = None
    headers: Mapping[str, str] = field(init=False, repr=False, compare=False)
    proxy: str | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A person at a browser on this side must not be shown the platform's warning page instead of an answer.
        headers = {**request_headers(self.endpoint), "X-Daytona-Skip-Preview-Warning": "true"}
        object.__setattr__(self, "headers", headers)
        object.__setattr__(self, "proxy", _environment_proxy(self.endpoint.url))

    def address(self, target: str) -> URL:
        """The address of ``target``, a path with its query as it stood in the request."""
        return URL(self.endpoint.url + target, encoded=True)

    def ends_within(self, margin: timedelta) -> bool:
        """Whether the credential ends that soon."""
        return self.expires_at is not None and datetime.now(UTC) + margin >= self.expires_at


def _environment_proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


class Way:
    """One upstream as it is now. ``renew`` asks for a fresh one; it may block and is called in a thread.

    ``name`` stands for it in what clients are told, who don't learn its address. ``in_flight`` counts its requests,
    ``served`` those that it answered. ``pooled`` says that it is one of several behind a gateway, which asks another
    one where this one answers 502: then a refused credential never passes, and a GET doesn't count as use.
    ``renewed_at`` is when the upstream was asked for, by ``time.monotonic``.
    """

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        renew: Callable[[], Upstream] | None = None,
        *,
        pause: float = PAUSE,
        pooled: bool = False,
    ) -> None:
        self.name = name
        self.pooled = pooled
        self.in_flight = 0
        self.served = 0
        self.renewed_at = time.monotonic()
        self.rides: set[Ride] = set()
        self.problem: GpuserveError | None = None
        self._upstream = upstream
        self._renew = renew
        self._pause = pause
        self._not_before = 0.0
        self._lock = asyncio.Lock()

    @property
    def upstream(self) -> Upstream:
        """The upstream as it is, nothing asked."""
        return self._upstream

    def use(self, upstream: Upstream) -> None:
        """Goes by ``upstream`` from the next request on; what is under way stays as it is."""
        if upstream != self._upstream:
            self._upstream = upstream
            self.renewed_at = time.monotonic()

    async def current(self) -> Upstream:
        """The upstream, renewed if its time is nearly over. If it can't be renewed, it is used to its end."""
        used = self._upstream
        if used.ends_within(AHEAD):
            return await self.renewed(used) or self._upstream
        return used

    async def renewed(self, used: Upstream) -> Upstream | None:
        """Another upstream than ``used``, which was refused or is about to be; None if there is none.

        However many requests ask at once, the platform is asked once. ``problem`` says why it gave none.
        """
        async with self._lock:
            if self._upstream != used:
                return self._upstream
            if self._renew is None or time.monotonic() < self._not_before:
                return None
            try:
                fresh = await _in_thread(self._renew)
            except GpuserveError as error:
                self.problem = error
                return None
            finally:
                self._not_before = time.monotonic() + self._pause
            self.problem = None
            if fresh == used:
                return None
            self._upstream = fresh
            self.renewed_at = time.monotonic()
            return fresh

    def cut(self) -> int:
        """Ends every request that is under way, because nothing will come of it; how many there were.

        One that wasn't answered yet is answered 502, so that a gateway asks another worker. A stream breaks off.
        """
        rides = list(self.rides)
        for ride in rides:
            ride.cut = True
            ride.end()
        return len(rides)


class Ride:
    """One request on a ``Way``: ``end`` ends it where it is, ``cut`` says that it was the way that ended it."""

    def __init__(self) -> None:
        self.cut = False
        self.end: Callable[[], object] = lambda: None


async def _in_thread(call: Callable[[], Upstream]) -> Upstream:
    """What ``call`` returns or raises. Its thread keeps nobody from ending, unlike asyncio's own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Upstream] = loop.create_future()

    def settle(result: Upstream | None, error: BaseException | None) -> None:
        if future.done():
            return  # whoever asked has gone
        if error is not None:
            future.set_exception(error)
        elif result is not None:
            future.set_result(result)

    def work() -> None:
        result, failed = None, None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  # raised again where it is awaited
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=work, name="renew", daemon=True).start()
    return await future
