"""What gpuserve writes on a sandbox, and reads back: the truth about a deployment is on the platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from gpuserve.records import Deployment, LaunchPlan

PREFIX = "gpuserve/"
SCHEMA = "1"
#: The pair that every sandbox of ours carries; what ``list`` filters by.
MARK: Mapping[str, str] = {"gpuserve/schema": SCHEMA}
#: The label with the ID of the run that created it.
RUN = "gpuserve/run"
#: Labels with the time to live and the idle limit that were asked for.
TTL, IDLE = "gpuserve/ttl", "gpuserve/idle"
#: Labels with the way in that was asked for, and whether the engine checks a key of its own ("yes").
ACCESS, KEY = "gpuserve/access", "gpuserve/key"


class SandboxData(Protocol):
    """The fields of the SDK's sandbox that we read."""

    id: str
    name: str
    labels: dict[str, str]
    public: bool
    target: str
    gpu: int
    created_at: str | None
    auto_destroy_at: str | None
    error_reason: str | None


@dataclass(frozen=True, slots=True)
class Routes:
    """The engine's routes, as the labels keep them: no engine need be loaded to look after a deployment."""

    health: str
    metrics: str


def encode(launch: LaunchPlan, run_id: str, extra: Mapping[str, str]) -> dict[str, str]:
    """The labels of a new sandbox; ``extra`` are the user's own. No secret ever goes in here."""
    return {
        **extra,
        **MARK,
        RUN: run_id,
        "gpuserve/engine": launch.engine,
        "gpuserve/model": launch.model,
        "gpuserve/served-as": launch.served_model,
        "gpuserve/port": str(launch.port),
        "gpuserve/session": launch.session,
        "gpuserve/image": launch.image,
        "gpuserve/health": launch.health_path,
        "gpuserve/metrics": launch.metrics_path,
        KEY: "no" if launch.key is None else "yes",
    }


def access(labels: Mapping[str, str], *, public: bool) -> str:
    """The way in: what was asked for, as far as the platform's own word on who is let in agrees with it."""
    if public:
        return "key" if labels.get(KEY) == "yes" else "open"
    return "signed" if labels.get(ACCESS) == "signed" else "token"


def limits(ttl: int | None, idle: int | None) -> dict[str, str]:
    """The labels that keep what was asked for: seconds from creation to deletion, seconds without use; or "none"."""
    return {TTL: _limit(ttl), IDLE: _limit(idle)}


def asked(labels: Mapping[str, str], which: str) -> int | None:
    """The seconds that the label ``which`` (``TTL`` or ``IDLE``) asks for; None for no limit, or for no such label."""
    text = labels.get(which, "")
    return int(text) if text.isascii() and text.isdigit() else None


def moved(deployment: Deployment, seconds: int | None) -> str:
    """What the label ``TTL`` holds once the deadline of ``deployment`` was moved to ``seconds`` from now."""
    if seconds is None or deployment.created_at is None or deployment.expires_at is None:
        return _limit(None if seconds is None else int(deployment.age() or 0) + seconds)
    return _limit(int((deployment.expires_at - deployment.created_at).total_seconds()))


def _limit(seconds: int | None) -> str:
    return "none" if seconds is None else str(seconds)


def is_ours(labels: Mapping[str, str]) -> bool:
    """Whether a sandbox with these labels was made by gpuserve."""
    return all(labels.get(key) == value for key, value in MARK.items())


def run_id(labels: Mapping[str, str]) -> str:
    """The run that made the sandbox; "" for a sandbox that isn't ours."""
    return labels.get(RUN, "")


def routes(labels: Mapping[str, str]) -> Routes:
    """The engine's health and metrics routes."""
    return Routes(labels.get("gpuserve/health") or "/health", labels.get("gpuserve/metrics", ""))


def decode(sandbox: SandboxData, state: str, gpu_type: str, place: str) -> Deployment:
    """A sandbox of ours as a ``Deployment``. Labels that somebody broke become empty fields, not errors."""
    labels = sandbox.labels
    port = labels.get("gpuserve/port", "")
    return Deployment(
        name=sandbox.name,
        sandbox_id=sandbox.id,
        place=place,
        state=state,
        engine=labels.get("gpuserve/engine", ""),
        model=labels.get("gpuserve/model", ""),
        served_model=labels.get("gpuserve/served-as", ""),
        port=int(port) if port.isascii() and port.isdigit() else 0,
        session=labels.get("gpuserve/session", ""),
        run_id=run_id(labels),
        image=labels.get("gpuserve/image", ""),
        gpu=_gpu(sandbox.gpu, gpu_type),
        target=sandbox.target,
        public=bool(sandbox.public),
        access=access(labels, public=bool(sandbox.public)),
        keyed=labels.get(KEY) == "yes",
        created_at=_time(sandbox.created_at),
        expires_at=_time(sandbox.auto_destroy_at),
        error=sandbox.error_reason or "",
        labels=dict(labels),
    )


def _gpu(count: float, gpu_type: str) -> str:
    if not count:
        return ""
    kind = gpu_type or "GPU"
    return f"{int(count)}x {kind}" if count > 1 else kind


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
