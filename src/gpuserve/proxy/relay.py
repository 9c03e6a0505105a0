"""One request, passed on: its body up as it comes, its answer down as it comes, with other credentials."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from gpuserve.client.faults import Fault, fault_error, read_fault
from gpuserve.client.transport import UNSEEN
from gpuserve.proxy.body import Body
from gpuserve.proxy.guard import Refusal
from gpuserve.proxy.upstream import Ride
from gpuserve.redaction import shown_url

if TYPE_CHECKING:
    from types import SimpleNamespace

    from gpuserve.proxy.upstream import Upstream, Way

#: Headers that belong to one connection (RFC 9110, 7.6.1), and some of old.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
#: What a client's request doesn't take along: credentials that are for this proxy, or that it has no business with.
_NOT_UP = _HOP_BY_HOP | {"host", "expect", "cookie", "authorization", "x-api-key", "api-key", "x-daytona-preview-token"}
#: What an answer doesn't bring along: the preview proxy's cookie is a credential, the others name its address.
_NOT_DOWN = _HOP_BY_HOP | {"set-cookie", "location", "content-location", "refresh", "alt-svc"}
#: Statuses with which the platform's proxy may answer in the engine's place.
_DOUBTFUL = frozenset({400, 401, 403, 404, 502})
#: Most bytes of a doubtful answer that are looked at.
_LOOK = 2**16
#: How often a request is sent again because the kept connection that it went out on had been closed meanwhile.
_STALE_TRIES = 3


@dataclass(slots=True)
class _Trip:
    """What is known of one try: whether it went out on a connection that had been used before."""

    reused: bool = False


@dataclass(slots=True)
class _Answer:
    """An answer whose start was read, or wasn't; ``fault`` is set where the platform's proxy wrote it."""

    response: aiohttp.ClientResponse
    start: bytes = b""
    fault: Fault | None = None


def open_session() -> aiohttp.ClientSession:
    """The client for all upstreams: no time limit but for connecting, no cookies, bodies passed on as they are."""
    import httpx

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        # Idle connections are given up before the platform does so (70 s). Certificates as in the rest of gpuserve.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=20, ssl=httpx.create_ssl_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=None),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        trust_env=False,  # it would read ~/.netrc for each request; see Upstream.proxy
        trace_configs=[trace],
        read_bufsize=2**16,
        max_line_size=2**16,
        max_field_size=2**16,
    )


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.reused = True


async def relay(request: web.BaseRequest, session: aiohttp.ClientSession, way: Way, target: str) -> web.StreamResponse:
    """Sends ``request`` to ``target`` of ``way``, and its answer back."""
    ride = Ride()
    way.in_flight += 1
    way.rides.add(ride)
    try:
        answer = await _ask_until_cut(ride, _ask(request, session, way, target))
    except aiohttp.ClientError as error:
        return refused(Refusal(502, "upstream_unreachable", _unreachable(way, error)))
    except TimeoutError:
        return refused(Refusal(502, "upstream_unreachable", f"{way.name} can't be reached: no connection in time"))
    else:
        if isinstance(answer, Refusal):
            return refused(answer)
        way.served += request.method != "GET"
        ride.end = answer.response.close
        return await _pass_down(request, answer)
    finally:
        way.rides.discard(ride)
        way.in_flight -= 1


async def _ask_until_cut(ride: Ride, question: Coroutine[Any, Any, _Answer | Refusal]) -> _Answer | Refusal:
    """What ``question`` comes to; a ``TimeoutError`` if the ride is ended meanwhile."""
    asking = asyncio.ensure_future(question)
    ride.end = asking.cancel
    try:
        return await asking
    except asyncio.CancelledError:
        if ride.cut and asking.cancelled():
            raise TimeoutError from None
        asking.cancel()
        raise


def _unreachable(way: Way, error: aiohttp.ClientError) -> str:
    """No text of the error's own: it would name the address."""
    said = "the connection was closed without an answer"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno  # a resolver's is negative
        said = os.strerror(number) if number is not None and number > 0 else "no connection"
    return f"{way.name} can't be reached: {said}"


async def _ask(request: web.BaseRequest, session: aiohttp.ClientSession, way: Way, target: str) -> _Answer | Refusal:
    """The answer to pass on, after one renewal of the credential if it was refused."""
    body = Body(request)
    used = await way.current()
    answer = await _look(await _send(request, session, used, target, body, seen=not way.pooled), target)
    if answer.response.status in (401, 403) or (answer.fault is not None and answer.fault.refused):
        fresh = await way.renewed(used) if body.replayable else None
        if fresh is not None:
            answer.response.close()
            used = fresh
            answer = await _look(await _send(request, session, used, target, body, seen=not way.pooled), target)
    if answer.fault is None:
        if not (way.pooled and answer.response.status in (401, 403)):
            return answer
        answer.response.close()
        return Refusal(502, "upstream_refused", f"{way.name} refuses the credential that gpuserve holds for it")
    answer.response.close()
    return _explained(answer.fault, way, used)


async def _send(
    request: web.BaseRequest,
    session: aiohttp.ClientSession,
    upstream: Upstream,
    target: str,
    body: Body,
    *,
    seen: bool = True,
) -> aiohttp.ClientResponse:
    headers = _headers_up(request, upstream)
    if request.method == "GET" and not seen:  # a gateway's look at its workers must not keep an idle one alive
        headers.update(UNSEEN)
    for left in reversed(range(_STALE_TRIES)):
        trip = _Trip()
        try:
            return await session.request(
                request.method,
                upstream.address(target),
                headers=headers,
                data=await body.data(),
                allow_redirects=False,
                proxy=upstream.proxy,
                trace_request_ctx=trip,
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # Nothing was answered. A new connection that breaks is the engine's doing, and asking again wouldn't help.
            if isinstance(error, aiohttp.ClientConnectorError) or not (trip.reused and body.replayable and left):
                raise
    raise AssertionError("unreachable")


def _headers_up(request: web.BaseRequest, upstream: Upstream) -> CIMultiDict[str]:
    named = _named(request.headers.get(hdrs.CONNECTION))
    headers = CIMultiDict(
        (name, value) for name, value in request.headers.items() if name.lower() not in _NOT_UP | named
    )
    headers.update(upstream.headers)
    return headers


def _named(connection: str | None) -> frozenset[str]:
    """The headers that a Connection header declares to belong to the connection."""
    return frozenset(name.strip().lower() for name in connection.split(",")) if connection else frozenset()


async def _look(response: aiohttp.ClientResponse, target: str) -> _Answer:
    """Whether the engine answered, or the platform's proxy in its place."""
    status = response.status
    if 300 <= status < 400 and status != 304:
        return _Answer(response, fault=read_fault(status, b""))
    if status in _DOUBTFUL:
        start = await _start_of(response)
        fault = read_fault(status, start)
        return _Answer(response, start, fault if _by_platform(fault, start) else None)
    is_page = response.content_type == "text/html" and target.startswith("/v1/")
    if is_page:  # where the API should be: a page to sign in at, with a status that says that all is well
        return _Answer(response, fault=Fault(401, "a sign-in page", is_page=True))
    return _Answer(response)


def _by_platform(fault: Fault, start: bytes) -> bool:
    if fault.status == 502:
        return fault.is_page or fault.by_proxy or not start
    if fault.refused:
        return fault.by_proxy or fault.is_page or not fault.words
    return fault.sandbox_gone and fault.by_proxy


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    start = bytearray()
    while len(start) < _LOOK and (piece := await response.content.readany()):
        start += piece
    return bytes(start)


def _explained(fault: Fault, way: Way, upstream: Upstream) -> Refusal:
    """What the platform's answer means. Always a 502: the client's own key was not what was refused."""
    told = way.problem if fault.refused and way.problem is not None else fault_error(fault, upstream.endpoint)
    message = told.message.replace(shown_url(upstream.endpoint.url), way.name)
    return Refusal(502, "upstream_refused" if fault.refused else "upstream_unavailable", f"{way.name}: {message}")


def refused(why: Refusal) -> web.Response:
    """An error as OpenAI's clients read it, and Anthropic's."""
    kind = "invalid_request_error" if why.status < 500 else "api_error"
    error = {"message": why.message, "type": kind, "param": None, "code": why.code}
    return web.Response(
        status=why.status, text=json.dumps({"type": "error", "error": error}), content_type="application/json"
    )


async def _pass_down(request: web.BaseRequest, answer: _Answer) -> web.StreamResponse:
    upstream = answer.response
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    named = _named(upstream.headers.get(hdrs.CONNECTION))
    for name, value in upstream.headers.items():
        if name.lower() not in _NOT_DOWN | named:
            response.headers.add(name, value)
    try:
        await response.prepare(request)
        if answer.start:
            await response.write(answer.start)
        while chunk := await upstream.content.readany():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError, ConnectionError, asyncio.CancelledError) as error:
        # Either side has gone. What is cut off must look so: a proper end would make half an answer a whole one.
        upstream.close()
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
    else:
        upstream.release()
    return response
