"""``wait``: until a deployment that somebody brought up answers, or until it is clear that it won't."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gpuserve.client.health import Prober
from gpuserve.errors import BootFailed, NetworkError, NotFound, PlatformError, TimedOut
from gpuserve.records import GONE, Deployment, Endpoint
from gpuserve.redaction import Redactor
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.manager import Sandboxes
from gpuserve.sandboxes.session import EngineSession
from gpuserve.serving.boot import Wait
from gpuserve.serving.context import Context
from gpuserve.serving.enginelog import LogFile
from gpuserve.serving.events import Emit
from gpuserve.serving.find import find
from gpuserve.serving.probing import PROBE_TIMEOUT
from gpuserve.serving.reach import open_endpoint

#: States in which a sandbox will never serve.
DEAD = ("error", "build_failed", "stopped", "stopping", "archived")


@dataclass(frozen=True, slots=True)
class Waited:
    """A deployment that answers; ``seconds`` is how long the wait took."""

    deployment: Deployment
    endpoint: Endpoint
    seconds: float


def wait(context: Context, wanted: str | None, *, timeout: float, emit: Emit) -> Waited:
    """Waits at most ``timeout`` seconds for the health route's 200. Changes nothing, whatever comes.

    Raises:
        NotFound: there is no such deployment, or it is deleted meanwhile.
        Conflict: several are meant.
        BootFailed: the engine or its sandbox ended; ``log_file`` is the engine's log.
        TimedOut: it doesn't answer in time.
    """
    began = time.monotonic()
    deployment = find(context, wanted)
    sandboxes = context.sandboxes(deployment.place)
    one = _Waiting(context, sandboxes, emit, began, began + timeout)
    deployment = one.until_started(deployment)
    endpoint = open_endpoint(context, deployment)
    if not _answers(deployment, endpoint):
        one.until_ready(deployment, endpoint)
    return Waited(deployment, endpoint, time.monotonic() - began)


def _answers(deployment: Deployment, endpoint: Endpoint) -> bool:
    with Prober(endpoint, labels.routes(deployment.labels).health, timeout=PROBE_TIMEOUT) as prober:
        return prober.probe().ready


@dataclass
class _Waiting:
    context: Context
    sandboxes: Sandboxes
    emit: Emit
    began: float
    deadline: float

    def until_started(self, deployment: Deployment) -> Deployment:
        """The deployment once its sandbox runs."""
        while deployment.state != "started":
            if deployment.state in DEAD:
                raise BootFailed(
                    f"{deployment.name} is {deployment.error or deployment.state}",
                    hint=f"gpuserve down {deployment.name}",
                )
            self._in_time(f"the sandbox of {deployment.name} is still {deployment.state!r}")
            time.sleep(0.5)
            deployment = self._again(deployment)
        return deployment

    def _again(self, deployment: Deployment) -> Deployment:
        """The deployment as it is now; a platform that can't be reached for a moment changes nothing."""
        try:
            current = self.sandboxes.get(deployment.sandbox_id)
        except (NetworkError, PlatformError):
            return deployment
        if current.state in GONE:
            raise NotFound(f"{deployment.name} is gone", hint="gpuserve status")
        return current

    def _in_time(self, otherwise: str) -> None:
        if time.monotonic() > self.deadline:
            waited = time.monotonic() - self.began
            raise TimedOut(f"{otherwise} after {waited:.0f} s", hint="wait again, or raise --timeout")

    def _session(self, deployment: Deployment) -> EngineSession:
        """The engine's session, which another process may be about to start."""
        session = self.sandboxes.session(deployment)
        while not session.attach(patience=1.0):
            self.until_started(self._again(deployment))
            self._in_time(f"nobody has started the engine of {deployment.name}")
        return session

    def until_ready(self, deployment: Deployment, endpoint: Endpoint) -> None:
        """Returns at the health route's first 200; the log is saved beside the copies that ``up`` makes."""
        session = self._session(deployment)
        redact = Redactor((*self.context.settings.secrets, *session.secrets))
        looked = Wait(self.sandboxes, deployment, endpoint, deadline=self.deadline, began=self.began, emit=self.emit)
        try:
            looked.follow(session, LogFile(self.context.log_path(deployment.name), redact))
        except BootFailed:
            self._again(deployment)  # says so if it is gone
            raise
