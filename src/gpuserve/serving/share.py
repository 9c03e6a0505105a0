"""``share``: a URL for others, bound to the engine's port, that expires and can be revoked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from gpuserve.access import check_share_seconds
from gpuserve.errors import Conflict, NotFound
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.find import find
from gpuserve.state import Share


@dataclass(frozen=True, slots=True)
class Shared:
    """A signed URL of a deployment. The URL is the secret that ``share`` exists to hand over."""

    deployment: Deployment
    url: str = field(repr=False)
    expires_at: datetime

    @property
    def base_url(self) -> str:
        """What OpenAI clients want."""
        return f"{self.url}/v1"


def share(context: Context, wanted: str | None, seconds: int) -> Shared:
    """Makes a URL that works for ``seconds``.

    Raises:
        UsageError: ``seconds`` is out of the platform's range; nothing was asked of it.
        Conflict: the sandbox doesn't run.
    """
    check_share_seconds(seconds)
    deployment = find(context, wanted)
    if deployment.state != "started":
        raise Conflict(f"{deployment.name} is {deployment.error or deployment.state}", hint="gpuserve status")
    link = context.sandboxes(deployment.place).sign(deployment, seconds)
    kept = Share(url=link.url, token=link.token, port=link.port, expires_at=link.expires_at)
    context.cache.note_share(deployment.sandbox_id, kept)
    return Shared(deployment, link.url, link.expires_at)


def revoke(context: Context, wanted: str | None, which: str | None) -> tuple[Deployment, int]:
    """Makes signed URLs worthless: the one that ``which`` names (URL or token), else all made on this machine.

    Returns the deployment and how many were revoked.

    Raises:
        NotFound: ``which`` is no URL of this deployment's.
    """
    deployment = find(context, wanted)
    shares = context.cache.shares(deployment.sandbox_id)
    chosen = [one for one in shares if which is None or which.removesuffix("/v1").rstrip("/") in (one.url, one.token)]
    sandboxes = context.sandboxes(deployment.place)
    if which is not None and not chosen:
        token = _token_in(which)
        sandboxes.revoke(deployment, deployment.port, token)  # made elsewhere: the platform knows it all the same
        return deployment, 1
    for one in chosen:
        sandboxes.revoke(deployment, one.port, one.token)
        context.cache.drop_share(deployment.sandbox_id, one.token)
    return deployment, len(chosen)


def _token_in(text: str) -> str:
    """The signed token in a preview URL (``https://PORT-TOKEN.host`` or ``…/preview/PORT-TOKEN``), or itself."""
    from urllib.parse import urlsplit

    parts = urlsplit(text) if "://" in text else None
    if parts is None:
        candidate = text
    elif parts.path.startswith("/preview/"):
        candidate = parts.path.split("/")[2].partition("-")[2]
    else:
        candidate = (parts.hostname or "").split(".")[0].partition("-")[2]
    if not (candidate.isascii() and candidate.isalnum()):
        raise NotFound("that is no signed URL", hint="give the URL that gpuserve share printed, or leave it out")
    return candidate
