"""``connect``: a proxy on this machine that adds a deployment's credentials, for as long as somebody wants it."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from gpuserve.access import signed_endpoint
from gpuserve.client.health import HealthState, Prober
from gpuserve.client.transport import UNSEEN, open_client, request_headers
from gpuserve.errors import Conflict, GpuserveError
from gpuserve.proxy.server import Proxy
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import Deployment, Endpoint
from gpuserve.sandboxes.manager import SignedLink
from gpuserve.serving.child import find_program, run_child
from gpuserve.serving.context import Context
from gpuserve.serving.fleet.names import check_no_fleet
from gpuserve.serving.reach import reach, reach_fresh

#: Seconds for which a signed URL is made where ``connect`` goes through one; it is renewed before they are over.
SIGNED_FOR = 3600
#: Seconds within which an endpoint must say something while ``connect`` looks at it.
_LOOK = 5.0


@dataclass(frozen=True, slots=True)
class Connected:
    """The proxy listens: where, for whom, and whether clients must show a key."""

    deployment: Deployment
    url: str
    needs_key: bool

    @property
    def base_url(self) -> str:
        """What OpenAI clients want."""
        return f"{self.url}/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What ``connect`` was asked for.

    ``port`` 0 takes a free one. ``signed`` goes through a signed URL, which opens the engine's port and nothing else.
    ``key`` is what clients must show as API key, "" for none.
    """

    port: int
    signed: bool = False
    key: str = field(default="", repr=False)


def connect(context: Context, wanted: str | None, wish: Wish, *, emit: Callable[[Connected], None]) -> None:
    """Serves until Ctrl-C, SIGTERM or SIGHUP, which are its regular end.

    Raises:
        NotFound, Conflict: no deployment, several, or one that doesn't run; or the port is taken.
    """
    deployment, way, end = open_way(context, wanted, signed=wish.signed)

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        async with Proxy({"": way}, port=wish.port, key=wish.key) as proxy:
            emit(Connected(deployment, proxy.url, bool(wish.key)))
            await stop.wait()

    try:
        asyncio.run(serve())
    finally:
        end()


def connect_command(
    context: Context, wanted: str | None, wish: Wish, argv: Sequence[str], *, emit: Callable[[Connected], None]
) -> int:
    """Runs ``argv`` with the proxy's address in its environment, and ends with it; returns its exit status.

    The proxy then serves only who shows a key that is made for this run: other users of this machine can't read it
    out of the command's environment, and it is worth nothing elsewhere.

    Raises:
        UsageError: there is no such program; as ``connect`` otherwise.
    """
    program = find_program(argv)
    deployment, way, end = open_way(context, wanted, signed=wish.signed)
    key = wish.key or f"local-{secrets.token_urlsafe(24)}"
    anthropic = speaks_anthropic(way.upstream.endpoint)

    async def serve() -> int:
        async with Proxy({"": way}, port=wish.port, key=key) as proxy:
            emit(Connected(deployment, proxy.url, needs_key=True))
            return await run_child([program, *argv[1:]], client_environment(proxy.url, key, deployment, anthropic))

    try:
        return asyncio.run(serve())
    finally:
        end()


def client_environment(url: str, key: str, deployment: Deployment, anthropic: bool) -> Mapping[str, str]:
    """The variables by which clients of OpenAI's API, and of Anthropic's if it is spoken, find their server."""
    model = deployment.served_model
    openai = {
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_BASE": f"{url}/v1",
        "OPENAI_API_KEY": key,
        "OPENAI_MODEL": model,
    }
    if not anthropic:
        return openai
    return {**openai, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": key, "ANTHROPIC_MODEL": model}


def open_way(context: Context, wanted: str | None, *, signed: bool) -> tuple[Deployment, Way, Callable[[], None]]:
    """The deployment, the way to it that renews itself, and what to call once it isn't needed any more."""
    if signed:
        return _signed_way(context, wanted)
    deployment, endpoint, from_cache = reach(context, wanted)
    if from_cache and _is_stale(endpoint):
        deployment, endpoint = reach_fresh(context, deployment.sandbox_id)

    def renew() -> Upstream:
        return Upstream(reach_fresh(context, deployment.sandbox_id)[1])

    return deployment, Way(deployment.name, Upstream(endpoint), renew), lambda: None


def _is_stale(endpoint: Endpoint) -> bool:
    with Prober(endpoint, "/v1/models", timeout=_LOOK) as prober:
        return prober.probe().state in (HealthState.REFUSED, HealthState.GONE, HealthState.UNREACHABLE)


def _signed_way(context: Context, wanted: str | None) -> tuple[Deployment, Way, Callable[[], None]]:
    hint = "leave --via out; fleet up --gateway sandbox puts the gateway where such a URL leads"
    check_no_fleet(context, wanted, "its gateway is on this machine, and needs no signed URL", hint)
    deployment, known = reach_fresh(context, wanted)
    sandboxes = context.sandboxes(deployment.place)
    made: list[SignedLink] = []

    def renew() -> Upstream:
        current = sandboxes.get(deployment.sandbox_id)
        if current.state != "started":
            raise Conflict(f"{deployment.name} is {current.error or current.state}", hint="gpuserve status")
        link = sandboxes.sign(deployment, SIGNED_FOR)
        made.append(link)
        endpoint = signed_endpoint(link.url, deployment.served_model, api_key=known.api_key)
        return Upstream(endpoint, link.expires_at)

    def end() -> None:
        for link in made:
            with suppress(GpuserveError):  # it ends by itself within the hour; the sandbox may be gone with it
                sandboxes.revoke(deployment, link.port, link.token)

    return deployment, Way(deployment.name, renew(), renew), end


def speaks_anthropic(endpoint: Endpoint) -> bool:
    """Whether the engine has Anthropic's route: asked with an empty request, which generates nothing."""
    import httpx

    headers = request_headers(endpoint) | UNSEEN
    with suppress(httpx.HTTPError), open_client(endpoint.url, silence=_LOOK) as client:
        status = client.post(f"{endpoint.url}/v1/messages", headers=headers, json={}).status_code
        return status in (200, 400, 422) or status == 500  # llama.cpp answers 500 to what lacks a field
    return False
