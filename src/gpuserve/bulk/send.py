"""One request over HTTP, once: what came, when, and whether asking again may help.

aiohttp takes 0.15 to 0.4 ms of CPU for a request with a prompt of 2,300 words, the OpenAI SDK 4 to 5 ms on the same
machine (``benchmarks/batch.py``): a client of our own, with TLS and proxies to look after, isn't worth the rest.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from gpuserve.bulk.assemble import BrokenStream, assembled
from gpuserve.bulk.job import Job
from gpuserve.bulk.pace import retry_after
from gpuserve.bulk.rows import CHAT, Request
from gpuserve.errors import UsageError

#: Seconds to wait for a connection.
CONNECT_TIMEOUT = 10.0
#: Statuses after which the same question may well be answered: time-outs, too many requests, a server's own failures.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
#: Those that say that it was too much.
TOO_MUCH = frozenset({429, 503, 529})

#: What an answer holds: of chat and completions, of embeddings and their like, of responses.
_ANSWERS = frozenset({"choices", "data", "results", "output"})

_STREAMED = b',"stream":true,"stream_options":{"include_usage":true}}'


@dataclass(slots=True)
class Answer:
    """What came of one attempt.

    ``status`` is 0 where there was no answer, and ``code`` and ``message`` then say why. ``sent`` and ``done`` are
    moments of ``time.perf_counter``; ``content`` is the decoded body of an answer that is JSON.
    """

    status: int
    body: bytes
    request_id: str = ""
    code: str = ""
    message: str = ""
    again: bool = False
    wait: float | None = None
    sent: float = 0.0
    done: float = 0.0
    content: Any = None

    @property
    def too_much(self) -> bool:
        """Whether the server had more to do than it could."""
        return self.status in TOO_MUCH or self.code == "timed_out"


class Body(aiohttp.payload.BytesPayload):
    """A request's body that notes when it is written: what came before was waiting on this side."""

    sent = 0.0

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.sent = time.perf_counter()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.sent = time.perf_counter()
        await super().write_with_length(writer, content_length)


class Sender:
    """An open client for one endpoint. No cookie is kept and no redirect followed: a sign-in page is no answer."""

    def __init__(self, job: Job) -> None:
        self._job = job
        try:
            self._base = URL(job.url)
        except ValueError as error:
            raise UsageError("that is no address of an endpoint", hint="it starts with https:// or http://") from error
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise UsageError("that is no address of an endpoint", hint="it starts with https:// or http://")
        self._headers = {**job.headers, "Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._urls: dict[str, URL] = {}
        self._proxy = _proxy_for(self._base)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=1 << 18,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._job.timeout),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(f"{self._job.url.rstrip('/')}{path}", encoded=True)
        return url

    def post(self, path: str, body: Body) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Sends ``body``; for whoever reads the answer in pieces. Raises what aiohttp does: see ``failure``."""
        return self._session.post(
            self._url(path), data=body, headers=self._headers, allow_redirects=False, proxy=self._proxy
        )

    async def ask(self, request: Request) -> Answer:
        """Sends ``request`` once. Never raises for what the network or the server does."""
        body = body_of(request.body[:-1] + _STREAMED if self._job.stream and request.path == CHAT else request.body)
        began = time.perf_counter()
        try:
            answer = await self._exchange(request, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            answer = failure(error, self._job.timeout)
        answer.sent, answer.done = body.sent or began, time.perf_counter()
        return answer

    async def _exchange(self, request: Request, body: Body) -> Answer:
        async with self.post(request.path, body) as response:
            content = await response.read()
            headers = response.headers
            if response.status != 200:
                return Answer(
                    response.status,
                    content,
                    headers.get("x-request-id", ""),
                    again=response.status in AGAIN,
                    wait=retry_after(headers.get("Retry-After")),
                )
            streamed = headers.get("Content-Type", "").startswith("text/event-stream")
            return understood(content, headers.get("x-request-id", ""), streamed=streamed)


def body_of(data: bytes) -> Body:
    """``data``, JSON, as a body to be sent."""
    if len(data) <= aiohttp.payload.TOO_LARGE_BYTES_BODY:
        return Body(data, content_type="application/json")
    import warnings

    with warnings.catch_warnings():  # a body beyond 1 MiB is written in one go: a moment's hold-up, and meant
        warnings.simplefilter("ignore", ResourceWarning)
        return Body(data, content_type="application/json")


def understood(content: bytes, request_id: str, *, streamed: bool) -> Answer:
    """What an answer with status 200 amounts to; one that is no whole JSON object is asked for again."""
    try:
        decoded = assembled(content) if streamed else json.loads(content)
    except BrokenStream as error:
        return _broken(error, request_id)
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        return Answer(0, b"", request_id, "no_json", "the server answered with something that is no JSON", again=True)
    if isinstance(decoded.get("error"), dict) and not _ANSWERS & decoded.keys():
        return _broken(BrokenStream("the server answered with an error and status 200", decoded["error"]), request_id)
    body = json.dumps(decoded, separators=(",", ":")).encode() if streamed or not _plain(content) else content
    found = decoded.get("id")
    return Answer(200, body, request_id or (found if isinstance(found, str) else ""), content=decoded)


def _broken(error: BrokenStream, request_id: str) -> Answer:
    """An error inside a stream has a status of its own, if the server gave it one."""
    status = error.error.get("code") if error.error else None
    if isinstance(status, int) and 400 <= status < 600:
        body = json.dumps({"error": error.error}).encode()
        return Answer(status, body, request_id, again=status in AGAIN)
    return Answer(0, b"", request_id, "cut_off", str(error), again=True)


def failure(error: Exception, timeout: float) -> Answer:
    """What an attempt amounts to that broke. No message holds an address: that of a signed URL is a credential."""
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return Answer(0, b"", code="timed_out", message=f"no byte for {timeout:g} s", again=True)
    if isinstance(error, aiohttp.InvalidURL):
        raise UsageError("that is no address of an endpoint", hint="it starts with https:// or http://") from error
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        reason = getattr(getattr(error, "os_error", None), "strerror", None) or "nobody answers"
        return Answer(0, b"", code="no_connection", message=f"can't connect: {reason}", again=True)
    return Answer(0, b"", code="connection_lost", message=f"the connection broke ({type(error).__name__})", again=True)


def _proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for ``url``. Looked up once: aiohttp would do so for every request."""
    host = url.host or ""
    if host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host):
        return None
    return getproxies().get(url.scheme)


def error_words(body: bytes) -> bytes:
    """``body`` as JSON: itself if it is that, else an error object with its first words."""
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        return json.dumps({"error": {"message": body[:2000].decode("utf-8", errors="replace")}}).encode()
    return body if _plain(body) else json.dumps(decoded).encode()


def _plain(body: bytes) -> bool:
    """Whether JSON is UTF-8 without a mark of its byte order, so that it can stand in a line of others."""
    return not body.startswith(b"\xef\xbb\xbf") and b"\0" not in body
