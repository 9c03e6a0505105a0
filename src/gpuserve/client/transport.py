"""How this room speaks HTTP: what is sent along, how a client is opened, and what its failures mean.

httpx, imported inside the functions: nothing here is paid for by a command that asks no endpoint.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gpuserve.durations import format_duration
from gpuserve.errors import GpuserveError, NetworkError, TimedOut, UsageError
from gpuserve.records import Endpoint
from gpuserve.redaction import Redactor, secrets_in, shown_url

if TYPE_CHECKING:
    import httpx

#: Seconds to wait for a connection.
CONNECT_TIMEOUT = 10.0
#: Sent with health checks and metrics, so that looking at a sandbox doesn't keep it from stopping when idle.
UNSEEN = {"X-Daytona-Skip-Last-Activity-Update": "true"}

_SENDABLE = re.compile(r"[\t\x20-\x7e]*")


def is_loopback(url: str) -> bool:
    """Whether ``url`` points at this machine (by its address or as ``localhost``, not by asking a resolver)."""
    host = ""
    with suppress(ValueError):  # a name and not an address, or no URL at all
        host = urlsplit(url).hostname or ""
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def open_client(url: str, *, silence: float, connect: float = CONNECT_TIMEOUT) -> httpx.Client:
    """A client for ``url`` that gives up after ``silence`` seconds without a byte, or ``connect`` without a connection.

    It follows no redirect (a sign-in page is no answer), and keeps no cookie: the preview proxy answers a signed URL
    with one that goes on working after the URL has expired. A proxy from the environment isn't used for this machine.
    """
    import httpx

    return httpx.Client(
        timeout=httpx.Timeout(silence, connect=connect),
        follow_redirects=False,
        trust_env=not is_loopback(url),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


def request_headers(endpoint: Endpoint) -> dict[str, str]:
    """The credentials of ``endpoint`` as headers.

    The placeholder key "EMPTY" isn't sent: the preview proxy would first try it as a key of the platform.

    Raises:
        UsageError: a credential holds what no HTTP header can.
    """
    headers = dict(endpoint.headers)
    if endpoint.api_key not in ("", "EMPTY"):
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    for name, value in headers.items():
        if not _SENDABLE.fullmatch(value) or value != value.strip():
            raise UsageError(
                f"the value for the header {name} holds a line break, an outer blank or a letter beyond ASCII",
                hint="copy the credential again, without quotes or line breaks",
            )
    return headers


def redactor_for(endpoint: Endpoint) -> Redactor:
    """Takes the credentials of ``endpoint`` out of what a server wrote."""
    return Redactor(secrets_in(endpoint.url, endpoint.headers, endpoint.api_key))


def read_start(response: httpx.Response, limit: int = 65536) -> bytes:
    """The first ``limit`` bytes or so of a streamed body; the rest stays unread."""
    start = bytearray()
    for chunk in response.iter_bytes():
        start += chunk
        if len(start) >= limit:
            break
    return bytes(start)


def failure(error: Exception, endpoint: Endpoint, silence: float) -> GpuserveError:
    """What an ``httpx.RequestError`` or ``httpx.InvalidURL`` means to the user."""
    import httpx

    where = shown_url(endpoint.url)
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return UsageError(f"{where!r} is no address of an endpoint", hint="it starts with https:// or http://")
    if isinstance(error, httpx.ReadTimeout):
        return TimedOut(
            f"{where} sent nothing for {format_duration(silence)}", hint="gpuserve status tells if it lives"
        )
    if isinstance(error, httpx.ConnectTimeout):
        return NetworkError(f"{where} doesn't answer", hint="check the network, then gpuserve status")
    reason = redactor_for(endpoint)(str(error)) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        return NetworkError(f"can't connect to {where}: {reason}", hint="check the network, then gpuserve status")
    return NetworkError(
        f"the connection to {where} broke: {reason}", hint="try again; gpuserve status tells if it lives"
    )
