"""What it means when an endpoint answers with something other than a reply.

Two parties speak behind one address: the platform's preview proxy and the engine. Their errors look
different, and mean different things to the user, so they are told apart here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gpuserve.client.transport import redactor_for
from gpuserve.errors import (
    EngineError,
    GpuserveError,
    NetworkError,
    NotAuthenticated,
    NotFound,
    PlatformError,
    RateLimited,
    TimedOut,
)
from gpuserve.records import Endpoint
from gpuserve.redaction import shown_url, signed_token

_LONGEST = 500  # characters of a server's own words that are worth showing
# The proxy's words when the sandbox behind an address has stopped or is gone.
_GONE = ("no ip address found", "failed to get runner info", "sandbox not found", "not found: not found")


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that is no reply: its HTTP status, its own words, and whether the platform's proxy wrote it."""

    status: int
    words: str
    by_proxy: bool = False
    is_page: bool = False

    @property
    def sandbox_gone(self) -> bool:
        """Whether the proxy says that there is no running sandbox behind the address."""
        said = any(sign in self.words.lower() for sign in _GONE)
        return (self.status in (400, 404) and said) or (self.status == 404 and self.by_proxy)

    @property
    def refused(self) -> bool:
        """Whether the credential was refused: said plainly, or by a sign-in page in the place of an answer."""
        return self.status in (401, 403) or 300 <= self.status < 400 or (self.is_page and self.status == 400)


def read_fault(status: int, body: bytes) -> Fault:
    """The parts of an error answer. Nothing is redacted yet."""
    text = body.decode("utf-8", errors="replace").strip()
    if 300 <= status < 400 or text[:200].lower().startswith(("<!doctype", "<html", "<?xml")):
        return Fault(status, "a sign-in page" if status < 500 else "a web page", is_page=True)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return Fault(status, _short(text), by_proxy=text.lower().startswith("unauthorized:"))
    words = error_words(content) or _short(text)
    by_proxy = isinstance(content, Mapping) and "statusCode" in content
    return Fault(status, words, by_proxy=by_proxy or words.startswith(("unauthorized: ", "bad request: ")))


def error_words(content: object) -> str:
    """What a decoded JSON error says, in any of the forms that engines and proxy use; "" if it says nothing."""
    if isinstance(content, str):
        return _short(content)
    if not isinstance(content, Mapping):
        return ""
    error = content.get("error")
    for candidate in (error.get("message") if isinstance(error, Mapping) else None, content.get("message"), error):
        if isinstance(candidate, str) and candidate.strip():
            return _short(candidate)
    detail = content.get("detail")
    return _short(detail if isinstance(detail, str) else json.dumps(detail)) if detail else ""


def _short(text: str) -> str:
    """``text`` on one line without control characters, and not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " …"


def fault_error(fault: Fault, endpoint: Endpoint) -> GpuserveError:
    """The error to raise for ``fault``, with no credential in it."""
    words = redactor_for(endpoint)(fault.words)
    where = shown_url(endpoint.url)
    if fault.refused:
        return _refusal(fault, endpoint, words)
    if fault.sandbox_gone:
        return NotFound(f"the sandbox behind {where} has stopped or is gone", hint="see what lives: gpuserve status")
    if fault.status == 502 and (fault.is_page or not words):
        return NetworkError(
            f"nothing listens behind {where}", hint="the engine is still starting or has died: gpuserve logs"
        )
    if fault.by_proxy:
        return _proxy_error(fault, words)
    return _engine_error(fault, endpoint, words)


def _refusal(fault: Fault, endpoint: Endpoint, words: str) -> NotAuthenticated:
    said = f" ({words})" if words else ""
    from_engine = fault.status in (401, 403) and not fault.by_proxy and not fault.is_page
    if from_engine and words:
        has_key = endpoint.api_key not in ("", "EMPTY")
        return NotAuthenticated(
            f"the engine {'refuses its API key' if has_key else 'wants an API key'}{said}",
            hint="it was started with a key of its own: give the same one",
        )
    if signed_token(endpoint.url):
        return NotAuthenticated(
            f"the signed URL has expired or was revoked, or its sandbox is gone{said}",
            hint="make a new one: gpuserve share",
        )
    if endpoint.headers:
        return NotAuthenticated(
            f"the platform refuses the preview token, or its sandbox is gone{said}",
            hint="see what lives, and get a fresh token: gpuserve status",
        )
    return NotAuthenticated(
        f"the platform wants a credential for {shown_url(endpoint.url)}: it isn't public, or no longer{said}",
        hint="use the endpoint that gpuserve up printed, or a signed URL from gpuserve share",
    )


def _proxy_error(fault: Fault, words: str) -> GpuserveError:
    message = f"the platform's proxy answered HTTP {fault.status}: {words}"
    if fault.status == 429:
        return RateLimited(message, hint="wait a minute, then try again")
    if fault.status == 504:
        return TimedOut(message, hint="stream the answer, or ask for fewer tokens")
    return PlatformError(message, hint="try again; gpuserve status tells if the sandbox lives")


def _engine_error(fault: Fault, endpoint: Endpoint, words: str) -> GpuserveError:
    words = words or "no explanation"
    if fault.status == 404:
        return NotFound(
            f"the engine knows no such model or route: {words}",
            hint=f"it was started to serve {endpoint.served_model!r}; GET /v1/models lists what it serves now",
        )
    if fault.status == 504:
        return TimedOut(
            f"the engine took too long (HTTP 504): {words}", hint="stream the answer, or ask for fewer tokens"
        )
    if fault.status == 503:
        return EngineError(f"the engine isn't ready (HTTP 503): {words}", hint="wait for it: gpuserve status --watch")
    if 400 <= fault.status < 500:
        return EngineError(f"the engine refuses the request (HTTP {fault.status}): {words}", hint=_remedy(words))
    return EngineError(
        f"the engine answered HTTP {fault.status}: {words}",
        hint=_remedy(words) or "its side of the story: gpuserve logs",
    )


def _remedy(words: str) -> str:
    """What to do about a refused request, from the engine's words; "" if they say enough."""
    lowered = words.lower()
    if any(
        sign in lowered
        for sign in ("context length", "context size", "maximum context", "max_model_len", "input is too long")
    ):
        return "shorten the prompt or lower --max-tokens"
    if "image" in lowered and any(
        sign in lowered for sign in ("not supported", "not a multimodal", "mmproj", "at most 0")
    ):
        return "the model that runs there takes no images: leave --image out"
    return ""
