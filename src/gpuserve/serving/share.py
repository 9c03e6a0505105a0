"""``share``: who else may come in. URLs for others, bound to the engine's port, that expire and can be revoked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from gpuserve.access import SHARE_MAX, check_share_seconds, signed_endpoint
from gpuserve.errors import NotFound
from gpuserve.records import Deployment, Endpoint
from gpuserve.redaction import shown_url, signed_token
from gpuserve.serving.context import Context
from gpuserve.serving.find import check_started, find
from gpuserve.serving.fleet.names import check_no_fleet
from gpuserve.serving.reach import open_endpoint
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


@dataclass(frozen=True, slots=True)
class Listed:
    """One signed URL that was handed out from this machine, and the sandbox that it leads to."""

    sandbox_id: str
    name: str
    share: Share

    def as_dict(self, *, reveal: bool) -> dict[str, object]:
        """As ``share list --json`` prints it; the URL with its credential only where ``reveal`` says so."""
        one = self.share
        now = datetime.now(UTC)
        return {
            "name": self.name,
            "sandbox_id": self.sandbox_id,
            "url": one.url if reveal else shown_url(one.url),
            "port": one.port,
            "state": self.state,
            "made_at": None if one.made_at is None else one.made_at.isoformat(),
            "expires_at": one.expires_at.isoformat(),
            "seconds_left": int((one.expires_at - now).total_seconds()) if one.lives else 0,
            "revoked_at": None if one.revoked_at is None else one.revoked_at.isoformat(),
        }

    @property
    def state(self) -> str:
        """live, revoked or expired, for all that this machine knows."""
        if self.share.lives:
            return "live"
        return "expired" if self.share.revoked_at is None else "revoked"


def share(context: Context, wanted: str | None, seconds: int) -> Shared:
    """Makes a URL that works for ``seconds``.

    Raises:
        UsageError: ``seconds`` is out of the platform's range; nothing was asked of it.
        Conflict: the sandbox doesn't run.
    """
    check_share_seconds(seconds)
    check_shareable(context, wanted)
    return _sign(context, _running(context, wanted), seconds)


def check_shareable(context: Context, wanted: str | None) -> None:
    """Raises ``UsageError`` for a fleet whose gateway is on this machine."""
    check_no_fleet(
        context,
        wanted,
        "its gateway listens on this machine only, so there is no address to hand out",
        "gpuserve fleet up --gateway sandbox puts the gateway where others reach it; "
        "gpuserve share ID shares one worker past the gateway",
    )


def _running(context: Context, wanted: str | None) -> Deployment:
    deployment = find(context, wanted)
    check_started(deployment)
    return deployment


def _sign(context: Context, deployment: Deployment, seconds: int) -> Shared:
    link = context.sandboxes(deployment.place).sign(deployment, seconds)
    made = datetime.now(UTC)
    kept = Share(url=link.url, token=link.token, port=link.port, expires_at=link.expires_at, made_at=made)
    context.cache.note_share(deployment.sandbox_id, kept)
    return Shared(deployment, link.url, link.expires_at)


def hand_out(context: Context, deployment: Deployment, endpoint: Endpoint) -> tuple[Endpoint, datetime | None]:
    """The endpoint as the deployment's way in gives it to others, and when that ends, None if it doesn't.

    ``endpoint`` is the administrator's, which opens everything. A signed URL is made for as long as the deployment
    lives, at most the platform's 24 hours.
    """
    if deployment.access == "signed":
        left = deployment.time_left()
        seconds = SHARE_MAX if left is None else max(1, min(SHARE_MAX, int(left)))
        shared = _sign(context, deployment, seconds)
        return signed_endpoint(shared.url, endpoint.served_model, api_key=endpoint.api_key), shared.expires_at
    if deployment.public:
        return signed_endpoint(endpoint.url, endpoint.served_model, api_key=endpoint.api_key), None
    return endpoint, None


def set_public(context: Context, wanted: str | None, *, public: bool) -> tuple[Deployment, Endpoint]:
    """Opens every port of the sandbox to everybody, or closes them again; the deployment as it is then.

    Raises:
        Conflict: the sandbox doesn't run.
    """
    check_shareable(context, wanted)
    deployment = _running(context, wanted)
    sandboxes = context.sandboxes(deployment.place)
    sandboxes.set_public(deployment, public=public)
    current = sandboxes.get(deployment.sandbox_id)
    endpoint = open_endpoint(context, current)
    return current, endpoint


def listed(context: Context, wanted: str | None) -> list[Listed]:
    """The signed URLs that were handed out from this machine, the oldest first; nothing is asked of the platform.

    ``wanted`` is a name, a sandbox ID or the beginning of either; None means all.
    """
    names = {one.deployment.sandbox_id: one.deployment.name for one in context.cache.all()}
    found = [
        Listed(sandbox_id, names.get(sandbox_id, ""), one)
        for sandbox_id, shares in context.cache.all_shares().items()
        for one in shares
    ]
    exact = [one for one in found if wanted in (None, one.name, one.sandbox_id)]
    return exact or [
        one for one in found if one.name.startswith(wanted or "") or one.sandbox_id.startswith(wanted or "")
    ]


def revoke(context: Context, wanted: str | None, which: str | None) -> tuple[Deployment, int]:
    """Makes signed URLs worthless: the one that ``which`` names (URL or token), else all made on this machine.

    Returns the deployment and how many were revoked.

    Raises:
        NotFound: ``which`` is no URL of this deployment's.
    """
    check_shareable(context, wanted)
    deployment = find(context, wanted)
    sandboxes = context.sandboxes(deployment.place)
    if which is None:
        chosen = [(one.port, one.token) for one in context.cache.shares(deployment.sandbox_id)]
    else:
        token = _token_in(which)  # made elsewhere, perhaps: the platform knows it all the same
        known = (one.port for one in context.cache.shares(deployment.sandbox_id) if one.is_for(token))
        chosen = [(next(known, deployment.port), token)]
    for port, token in chosen:
        sandboxes.revoke(deployment, port, token)
        context.cache.end_share(deployment.sandbox_id, token)
    return deployment, len(chosen)


def _token_in(text: str) -> str:
    """The signed token in a preview URL (``https://PORT-TOKEN.host`` or ``…/preview/PORT-TOKEN``), or itself."""
    candidate = signed_token(text) if "://" in text else text
    if not (candidate.isascii() and candidate.isalnum()):
        raise NotFound("that is no signed URL", hint="give the URL that gpuserve share printed, or leave it out")
    return candidate
