"""The preview proxy: HTTP and websockets from outside to a port of a sandbox on 127.0.0.1.

Two forms of address lead here: ``/preview/{port}-{mark}/rest``, which is the form handed out, and any path on a host
named ``{port}-{mark}.anything``. The mark is a sandbox's ID or a signed token. Credentials are tried in the platform's
order: API key as bearer, preview token header, query parameter, signed token. Two differences are deliberate: a
failure is always a 401 in JSON, never a redirect to a login page, and no cookie is set that would outlive a signed
URL. In the first form, a redirect of the server's to itself is given the prefix that its address has outside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from gpuserve.host import tunnel
from gpuserve.host.faults import faults
from gpuserve.host.guard import PREVIEW_HOST, Handler
from gpuserve.host.house import AUTH_QUERY, House, bearer, house_of, same
from gpuserve.host.ports import Ports
from gpuserve.host.store import GONE, Sandbox
from gpuserve.host.wire import NOT_STARTED, PREVIEW_TOKEN_HEADER, ApiError

NEVER_PUBLIC = frozenset({22222, 2280, 33333})
"""The web terminal, the toolbox and the recording port of a sandbox on the platform."""
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
_NOT_FORWARDED = _HOP_BY_HOP | {"host", "expect", PREVIEW_TOKEN_HEADER.lower()}
_ADDRESS = re.compile(r"/preview/(\d{1,5})-([A-Za-z0-9_-]+)")

CLIENT: web.AppKey[aiohttp.ClientSession] = web.AppKey("client", aiohttp.ClientSession)
PORTS: web.AppKey[Ports] = web.AppKey("ports", Ports)


@dataclass(frozen=True)
class Aim:
    """Where a preview request wants to go: port, mark, the target behind them, and the prefix outside."""

    port: int
    mark: str
    target: str
    prefix: str


def client() -> aiohttp.ClientSession:
    """The client for requests to sandboxes: no time limit, no cookies, bodies passed on as they are."""
    return aiohttp.ClientSession(
        # A connection of its own for each request: one kept open may be closed by the server just as it is used again,
        # and a request with a body could then not be repeated.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=30, sock_read=None),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        trust_env=False,
        read_bufsize=2**16,
        max_line_size=2**16,
        max_field_size=2**16,
    )


def routes() -> list[web.RouteDef]:
    """The path form of a preview address."""
    return [web.route("*", "/preview/{address:.*}", by_path)]


@web.middleware
async def by_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve the host form of a preview address; everything else goes on."""
    match = PREVIEW_HOST.fullmatch(request.headers.get("Host", ""))
    if match is None:
        return await handler(request)
    return await _serve(request, Aim(int(match[1]), match[2], _origin_form(request.raw_path), ""))


async def by_path(request: web.Request) -> web.StreamResponse:
    """``/preview/{port}-{mark}/...``."""
    raw = _origin_form(request.raw_path)
    match = _ADDRESS.match(raw)
    rest = raw[match.end() :] if match else ""
    if match is None or rest[:1] not in {"", "/", "?"}:
        raise ApiError(404, "not found: not found")
    target = rest if rest.startswith("/") else f"/{rest}"
    return await _serve(request, Aim(int(match[1]), match[2], target, match[0]))


def _origin_form(raw: str) -> str:
    return raw if raw.startswith("/") else URL(raw, encoded=True).raw_path_qs


async def _serve(request: web.Request, aim: Aim) -> web.StreamResponse:
    house = house_of(request)
    sandbox, headers, target = _admit(house, request, aim)
    injected = faults(sandbox.labels)
    if "dead-proxy" in injected:
        return web.Response(status=502)
    if "login-redirect" in injected:
        return web.Response(status=307, headers={hdrs.LOCATION: f"{house.origin}/login"})
    if not sandbox.started:
        raise ApiError(400, NOT_STARTED)
    house.touch(sandbox, request)
    ports = request.config_dict[PORTS]
    if not await ports.allowed(sandbox.id, house.store.root(sandbox.id), aim.port):
        return web.Response(status=502)
    url = URL(f"http://127.0.0.1:{aim.port}{target}", encoded=True)
    async with house.kept_active(request, lambda: sandbox):
        try:
            if tunnel.wanted(request):
                return await tunnel.websocket(request, request.config_dict[CLIENT], url, headers)
            return await _forward(request, url, headers, aim.prefix)
        except aiohttp.ClientConnectorError:
            ports.forget(sandbox.id, aim.port)
            return web.Response(status=502)


def _admit(house: House, request: web.Request, aim: Aim) -> tuple[Sandbox, CIMultiDict[str], str]:
    """The sandbox, the headers and the target to forward, once a credential was found good.

    Raises:
        ApiError: 401 without one, 400 for a sandbox that is gone, 404 for an impossible port.
    """
    if not 1 <= aim.port <= 65_535:
        raise ApiError(404, "not found: not found")
    signed = house.store.signed_for(aim.mark)
    sandbox = house.store.sandboxes.get(signed.sandbox_id if signed else aim.mark)
    headers = _forwarded(request)
    public = sandbox is not None and sandbox.public and aim.port not in NEVER_PUBLIC
    has_key = house.has_key(request)
    if has_key:
        headers.popall(hdrs.AUTHORIZATION, None)
    key, target = _take_query_key(aim.target)
    in_query = sandbox is not None and (same(key, sandbox.token) or house.is_key(key))
    in_header = sandbox is not None and same(request.headers.get(PREVIEW_TOKEN_HEADER), sandbox.token)
    by_signature = signed is not None and signed.port == aim.port
    if not (public or has_key or in_header or in_query or by_signature):
        raise _refusal(request, key)
    if sandbox is None or sandbox.state in GONE:
        raise ApiError(400, f"bad request: failed to get runner info: sandbox {aim.mark} not found")
    return sandbox, headers, target if in_query else aim.target


def _refusal(request: web.Request, key: str | None) -> ApiError:
    given = key or bearer(request) or request.headers.get(PREVIEW_TOKEN_HEADER)
    if given is None:
        return ApiError(
            401,
            "unauthorized: missing authentication: provide a preview access token (via header, query parameter, or "
            "cookie) or use an API key or JWT",
        )
    return ApiError(401, "unauthorized: authentication failed: Invalid or expired token")


def _take_query_key(target: str) -> tuple[str | None, str]:
    """The access token in the query of ``target``, and ``target`` without it, otherwise untouched."""
    path, mark, query = target.partition("?")
    if AUTH_QUERY not in query:
        return None, target
    parts = query.split("&")
    found = [part for part in parts if part.partition("=")[0] == AUTH_QUERY]
    kept = "&".join(part for part in parts if part not in found)
    value = URL(f"http://x/?{found[0]}", encoded=True).query.get(AUTH_QUERY) if found else None
    return value, f"{path}{mark}{kept}" if kept else path


def _forwarded(request: web.Request) -> CIMultiDict[str]:
    named = {name.strip().lower() for name in request.headers.get(hdrs.CONNECTION, "").split(",")}
    headers = CIMultiDict(
        (name, value) for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED | named
    )
    headers["X-Forwarded-Host"] = request.headers.get(hdrs.HOST, "")
    headers["X-Forwarded-Proto"] = "http"
    return headers


async def _forward(request: web.Request, url: URL, headers: CIMultiDict[str], prefix: str) -> web.StreamResponse:
    body = request.content if request.body_exists else None
    session = request.config_dict[CLIENT]
    try:
        upstream = await session.request(request.method, url, headers=headers, data=body, allow_redirects=False)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError) as error:
        if isinstance(error, aiohttp.ClientConnectorError):
            raise
        return web.Response(status=502)
    async with upstream:
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
        _copy_headers(upstream, response, url, prefix)
        await response.prepare(request)
        try:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
        except aiohttp.ClientError:
            # The server broke off in the middle: so must this answer, or it would look complete.
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response


def _copy_headers(upstream: aiohttp.ClientResponse, response: web.StreamResponse, url: URL, prefix: str) -> None:
    named = {name.strip().lower() for name in upstream.headers.get(hdrs.CONNECTION, "").split(",")}
    for name, value in upstream.headers.items():
        if name.lower() in _HOP_BY_HOP | named:
            continue
        response.headers.add(name, _outside(value, url, prefix) if name.lower() == "location" else value)


def _outside(location: str, url: URL, prefix: str) -> str:
    """A redirect's target as it is seen from outside."""
    inner = f"{url.scheme}://{url.host}:{url.port}"
    rest = location.removeprefix(inner)
    own = rest != location or (location.startswith("/") and not location.startswith("//"))
    return f"{prefix}{rest}" if own else location
