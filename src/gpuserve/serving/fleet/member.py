"""One worker as the keeper sees it: how it is, since when, and what it has done."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gpuserve.client.health import Health, HealthState
from gpuserve.proxy.upstream import Way
from gpuserve.records import Deployment

#: How many looks in a row must fail before a worker that gave no good answer leaves the rotation: a busy one may miss
#: one. A refused credential, or a sandbox that is gone, is believed at once.
FAILURES = 2
#: The same for looks of which it isn't sure that they failed by the worker's own doing.
FAILURES_IN_DOUBT = 5


@dataclass
class Member:
    """A worker. ``well`` says that it is in rotation, ``ever_well`` that it once was.

    ``ended`` says how its engine ended, where that is sure; ``asked_at`` is when that was last asked for,
    ``since`` when it came.
    """

    deployment: Deployment
    way: Way
    well: bool = False
    ever_well: bool = False
    state: str = "booting"
    detail: str = ""
    failures: int = 0
    doubtful: int = 0
    failing_since: float | None = None
    ended: str = ""
    since: float = field(default_factory=time.monotonic, repr=False)
    asked_at: float = field(default=float("-inf"), repr=False)

    @property
    def name(self) -> str:
        """Its sandbox's name."""
        return self.deployment.name

    @property
    def lost_touch(self) -> bool:
        """Whether what it was asked won't be answered any more; a refused credential doesn't stop what is under way."""
        return not self.well and self.state != "refused"

    @property
    def booting_for(self) -> float:
        """For how many seconds it has been here without ever having been well; 0 once it was."""
        return 0.0 if self.ever_well else time.monotonic() - self.since

    @property
    def failing_for(self) -> float:
        """For how many seconds it has failed; 0 where it is well or hasn't been yet."""
        return 0.0 if self.failing_since is None else time.monotonic() - self.failing_since

    def take(self, health: Health, *, doubt: bool = False, alone: bool = True) -> None:
        """Judges it by another look; ``doubt``: what failed may have been the way to it, or this machine.

        In doubt only one that is ``alone`` leaves the rotation: when all are silent, all would, and nobody be served.
        """
        if health.ready:
            self.well, self.ever_well, self.state, self.detail = True, True, "ready", ""
            self.failures, self.doubtful, self.failing_since, self.ended = 0, 0, None, ""
            return
        self.failures += not doubt
        self.doubtful += doubt
        self.detail = health.detail
        if self.ever_well and self.failing_since is None:
            self.failing_since = time.monotonic()
        if self.ended:
            self.well, self.state, self.detail = False, "ended", self.ended
            return
        sure = health.state in (HealthState.REFUSED, HealthState.GONE)
        if sure or self.failures >= FAILURES or (alone and self.failures + self.doubtful >= FAILURES_IN_DOUBT):
            self.well = False
            self.state = health.state.value if sure else ("unwell" if self.ever_well else "booting")

    def to_be_asked_for(self, pause: float) -> bool:
        """Whether it is time to ask once more how its engine is; at most every ``pause`` seconds."""
        now = time.monotonic()
        if self.ended or now - self.asked_at < pause:
            return False
        self.asked_at = now
        return True

    def forgive(self) -> None:
        """Forgets for how long it has failed, but not that it does: nobody could be reached, which is not its doing."""
        if self.failing_since is not None:
            self.failing_since = time.monotonic()

    def as_dict(self, *, draining: bool) -> dict[str, object]:
        """As the keeper tells it; no secret."""
        way = self.way
        return {
            "name": self.name,
            "sandbox_id": self.deployment.sandbox_id,
            "model": self.deployment.served_model,
            "state": "draining" if draining else self.state,
            "in_rotation": self.well and not draining,
            "detail": self.detail,
            "in_flight": way.in_flight,
            "served": way.served,
            "token_age_seconds": int(time.monotonic() - way.renewed_at),
            "failing_seconds": int(self.failing_for),
        }
