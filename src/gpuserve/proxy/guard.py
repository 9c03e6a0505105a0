"""Who may ask: programs on this machine, not pages of others in its browser.

A page from elsewhere can send requests to this machine in two ways: under its own name (then ``Origin`` or
``Sec-Fetch-Site`` tell), or under a name that it makes resolve to 127.0.0.1 (then ``Host`` tells).
"""

from __future__ import annotations

import hmac
import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from aiohttp import hdrs, web


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes nowhere: an HTTP status, a word for programs, a sentence for people."""

    status: int
    code: str
    message: str


def refusal(request: web.BaseRequest, key: str) -> Refusal | None:
    """Why ``request`` isn't served; None if it is. ``key`` is what clients must show, "" if nothing."""
    hosts = request.headers.getall(hdrs.HOST, [])
    if len(hosts) != 1 or not _is_here(f"//{hosts[0]}"):
        return Refusal(403, "foreign_host", "this proxy serves 127.0.0.1 and localhost, not the host of this request")
    origin = request.headers.get(hdrs.ORIGIN)
    if (origin is not None and not _is_here(origin)) or request.headers.get("Sec-Fetch-Site") == "cross-site":
        return Refusal(403, "foreign_origin", "this proxy doesn't serve pages of other hosts")
    if key and not _shows(request, key):
        return Refusal(401, "invalid_api_key", "this proxy wants the key that it was started with, as API key")
    if not _plain(request.raw_path):
        return Refusal(400, "invalid_path", "this proxy takes a plain path, without dots that lead out of it")
    return None


def _is_here(address: str) -> bool:
    """Whether an address, or an origin, names this machine: as ``localhost`` or by number, whatever the port."""
    with suppress(ValueError):
        parts = urlsplit(address)
        host = parts.hostname or ""
        if parts.path or parts.query or parts.username is not None:
            return False
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


def _shows(request: web.BaseRequest, key: str) -> bool:
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    shown = (token.strip() if scheme.lower() == "bearer" else "", request.headers.get("x-api-key", ""))
    return any(hmac.compare_digest(one.encode("utf-8", "surrogateescape"), key.encode()) for one in shown)


def _plain(target: str) -> bool:
    """Whether a path stays below where it starts: the credential opens more than the engine's port."""
    path = target.partition("?")[0]
    parts = unquote(unquote(path)).replace("\\", "/").split("/")
    return path.startswith("/") and not {".", ".."} & set(parts)
