"""A way in that somebody was given, tried: what it leads to, or why it leads nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from gpuserve.access import signed_endpoint, token_endpoint
from gpuserve.client.look import look
from gpuserve.durations import format_duration
from gpuserve.errors import NotAuthenticated
from gpuserve.redaction import shown_url, signed_token
from gpuserve.state import Cache, Share


@dataclass(frozen=True, slots=True)
class Way:
    """A way in that works: the URL with nothing secret in it, and the names of the models behind it."""

    url: str
    models: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """As ``status --url --json`` prints it."""
        return {"url": self.url, "works": True, "models": list(self.models)}


def check(cache: Cache, url: str, *, token: str = "", api_key: str = "") -> Way:
    """Tries ``url``, with the preview token and the engine's key if there are any. Needs no account.

    Raises:
        GpuserveError: as ``client.look``; of a signed URL that was handed out here it is told when it ended.
    """
    url = url.strip().rstrip("/").removesuffix("/v1")
    key = api_key or "EMPTY"
    endpoint = token_endpoint(url, token, "", api_key=key) if token else signed_endpoint(url, "", api_key=key)
    try:
        return Way(shown_url(url), look(endpoint))
    except NotAuthenticated as error:
        known = _known(cache, signed_token(url))
        if known is not None and not known.lives:
            error.message = _end(known)
        raise


def _known(cache: Cache, token: str) -> Share | None:
    """The URL with that token, if it was handed out from this machine."""
    shares = (one for shares in cache.all_shares().values() for one in shares) if token else ()
    return next((one for one in shares if one.is_for(token)), None)


def _end(known: Share) -> str:
    revoked = known.revoked_at is not None
    ended = known.revoked_at or known.expires_at
    ago = format_duration(max(0.0, (datetime.now(UTC) - ended).total_seconds()))
    return f"the signed URL {'was revoked on this machine' if revoked else 'expired'} {ago} ago"
