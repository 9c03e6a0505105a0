"""Everything one running host consists of, and what all its routes ask of it: who may, which sandbox, which URL."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from gpuserve.host import present, views
from gpuserve.host.config import Config
from gpuserve.host.events import Events
from gpuserve.host.faults import FaultBook
from gpuserve.host.images import Images
from gpuserve.host.lifecycle import Lifecycle
from gpuserve.host.store import GONE, Sandbox, Store
from gpuserve.host.wire import NOT_STARTED, PREVIEW_TOKEN_HEADER, SKIP_ACTIVITY_HEADER, ApiError, SandboxView

RESOLVED = "gpuserve.sandbox"
"""Where a toolbox request keeps its sandbox once its credential was found good."""
AUTH_QUERY = "DAYTONA_SANDBOX_AUTH_KEY"
_ACTIVITY_MINUTES = 50 / 60
"""An open request counts as activity again each 50 s, as on the platform."""


class House:
    """The parts of one host."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config = config
        self.store = store
        self.events = Events(config.key)
        self.images = Images(config.state)
        self.faults = FaultBook()
        self.lifecycle = Lifecycle(config, store, self.images, self.publish)
        self.stopping = asyncio.Event()
        self.port = 0

    @property
    def origin(self) -> str:
        """Where the host listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def toolbox_url(self) -> str:
        """The base of every sandbox's toolbox."""
        return f"{self.origin}/toolbox"

    def preview_url(self, port: int, mark: str) -> str:
        """The address of a port of a sandbox; ``mark`` is the sandbox's ID or a signed token."""
        return f"{self.origin}/preview/{port}-{mark}"

    def shown(self, sandbox: Sandbox) -> dict[str, Any]:
        """The sandbox as the API shows it."""
        return present.sandbox_json(sandbox, self.store.organization_id, self.toolbox_url)

    def publish(self, sandbox: Sandbox, before: str) -> None:
        """Tell every client that a sandbox changed its state."""
        payload = {"sandbox": self.shown(sandbox), "oldState": before, "newState": sandbox.state}
        self.events.publish("sandbox.state.updated", payload)

    def is_key(self, text: str | None) -> bool:
        """Whether ``text`` is the host's API key."""
        return same(text, self.config.key)

    def has_key(self, request: web.Request) -> bool:
        """Whether the request carries the API key as its bearer."""
        return self.is_key(bearer(request))

    def require_key(self, request: web.Request) -> None:
        """Raise 401 unless the request carries the API key."""
        if not self.has_key(request):
            raise ApiError(401, "Invalid credentials")

    def sandbox(self, id_or_name: str, *, even_destroyed: bool = False) -> Sandbox:
        """The sandbox that an API request is about, with its injected API faults applied.

        ``even_destroyed`` finds those, too, that a deadline destroyed and that can be read for a while.

        Raises:
            ApiError: 404 when there is none; the status of an injected fault.
        """
        found = self.store.find(id_or_name)
        if found is None or (found.state == "destroyed" and not even_destroyed):
            raise ApiError(404, f"Sandbox with ID or name {id_or_name} not found")
        self.faults.answer(found.id, found.labels, "api")
        return found

    async def resolve(self, request: web.Request) -> SandboxView:
        """The sandbox of a toolbox request: see ``wire.Resolve``."""
        found = self.store.sandboxes.get(request.match_info["sandbox_id"])
        self._check_toolbox_credential(request, found)
        if found is None or found.state in GONE:
            raise ApiError(404, "not found: sandbox container not found")
        self.faults.answer(found.id, found.labels, "toolbox")
        if not found.started:
            raise ApiError(400, NOT_STARTED)
        self.touch(found, request)
        request[RESOLVED] = found
        return views.view(found, self.store.root(found.id), self.config.pool)

    def _check_toolbox_credential(self, request: web.Request, sandbox: Sandbox | None) -> None:
        token = request.headers.get(PREVIEW_TOKEN_HEADER) or request.query.get(AUTH_QUERY)
        if self.has_key(request) or (sandbox is not None and same(token, sandbox.token)):
            return
        if token is None and bearer(request) is None:
            raise ApiError(
                401,
                "unauthorized: missing authentication: provide a preview access token (via header, query parameter, "
                "or cookie) or use an API key or JWT",
            )
        raise ApiError(401, "unauthorized: authentication failed: Invalid or expired token")

    def touch(self, sandbox: Sandbox, request: web.Request | None = None) -> None:
        """Note activity, unless the request asks not to be counted."""
        if request is not None and request.headers.get(SKIP_ACTIVITY_HEADER, "").lower() == "true":
            return
        sandbox.last_activity_at = time.time()
        self.store.dirty = True

    @contextlib.asynccontextmanager
    async def kept_active(self, request: web.Request, find: Callable[[], Sandbox | None]) -> AsyncIterator[None]:
        """Note activity of the sandbox that ``find`` returns each 50 s for as long as the block lasts."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(_ACTIVITY_MINUTES * self.config.minute)
                sandbox = find()
                if sandbox is not None:
                    self.touch(sandbox, request)

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeper.cancel()


HOUSE = web.AppKey("house", House)


def house_of(request: web.Request) -> House:
    """The house that serves ``request``."""
    return request.config_dict[HOUSE]


def bearer(request: web.Request) -> str | None:
    """The bearer token of a request, if it has one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def same(given: str | None, expected: str) -> bool:
    """Whether two secrets are equal, in constant time."""
    return given is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
