"""From a started process to a model that answers, or to a sentence that says why not."""

from __future__ import annotations

import time

from gpuserve import engines
from gpuserve.client.health import Health, HealthState
from gpuserve.engines.exits import by_exit_code, telling
from gpuserve.errors import BootFailed, GpuserveError, NotAuthenticated, TimedOut
from gpuserve.records import Deployment, Endpoint
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.manager import Sandboxes
from gpuserve.sandboxes.session import EngineSession
from gpuserve.serving.enginelog import LogFile, Tail
from gpuserve.serving.events import Boot, Emit, EngineLog
from gpuserve.serving.probing import Looks

#: Seconds between two looks at the log's new lines and the engine's life, between the answers of the health route.
LISTEN_EVERY = 0.1
#: Seconds without a line after which an engine that is not ready in time is said to hang.
HANGS_AFTER = 5.0
#: Seconds for which the proxy may refuse the credential before that counts as final.
REFUSAL_GRACE = 10.0
#: Seconds between two looks at the sandbox itself while its proxy says that it is gone.
STATE_EVERY = 2.0


class Wait:
    """One wait for one engine. ``deadline`` and ``began`` are on the monotonic clock."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        deployment: Deployment,
        endpoint: Endpoint,
        *,
        deadline: float,
        began: float,
        emit: Emit,
    ) -> None:
        self._sandboxes = sandboxes
        self._deployment = deployment
        self._endpoint = endpoint
        self._engine = engines.load(deployment.engine)
        self._health_path = labels.routes(deployment.labels).health
        self._deadline = deadline
        self._began = began
        self._emit = emit
        self._refused_since: float | None = None
        self._state_seen = 0.0

    def follow(self, session: EngineSession, file: LogFile) -> None:
        """As ``until_ready``, with the engine's log saved in ``file`` and told of to its last line.

        Raises:
            BootFailed: with ``log_file`` set.
        """
        with Tail(session, file) as tail:
            try:
                self.until_ready(tail)
            except BootFailed as error:
                error.log_file = str(file.path or "")
                raise
            finally:
                tail.finish()
                self.report(tail)

    def until_ready(self, tail: Tail) -> None:
        """Returns at the health route's first 200.

        Raises:
            BootFailed: the engine or its sandbox ended; cause and remedy as far as they can be told.
            NotAuthenticated: the proxy keeps refusing the credential.
            TimedOut: neither came in time.
        """
        with Looks(self._endpoint, self._health_path) as looks:
            while True:
                looks.news.wait(LISTEN_EVERY)
                news = looks.news.is_set()
                looks.news.clear()
                self.report(tail)
                if looks.error is not None:
                    raise looks.error
                probe = looks.latest
                if probe is not None and probe.ready:
                    return
                if tail.ended.is_set():
                    self.report(tail)
                    raise self.failure(tail)
                if probe is not None and news:
                    self._judge(probe.state, probe.detail)
                if time.monotonic() > self._deadline:
                    raise TimedOut(self._late(tail, probe), hint="raise --timeout, or read the log")

    def report(self, tail: Tail) -> None:
        """Hands on what the log has brought since the last time."""
        for text in tail.drain():
            self._emit(EngineLog(text))
            for line in text.splitlines():
                fact = self._engine.read(line)
                if fact is not None:
                    self._emit(Boot(fact, time.monotonic() - self._began))

    def _judge(self, health: HealthState, detail: str) -> None:
        now = time.monotonic()
        if health in (HealthState.REFUSED, HealthState.GONE) and now - self._state_seen > STATE_EVERY:
            self._state_seen = now
            self._check_sandbox()
        if health is not HealthState.REFUSED:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since > REFUSAL_GRACE:
            raise NotAuthenticated(f"the endpoint refuses its own credential: {detail}", hint="gpuserve status")

    def _check_sandbox(self) -> None:
        current = self._sandboxes.find(self._deployment.sandbox_id)
        if current is None or current.state != "started":
            state = "gone" if current is None else current.error or current.state
            raise BootFailed(f"the sandbox is {state}", hint="run up again")

    def _late(self, tail: Tail, probe: Health | None) -> str:
        waited = time.monotonic() - self._began
        said = (probe.detail if probe is not None else "") or "no answer yet"
        silent = tail.feed.silent_for
        late = f"the engine was not ready after {waited:.0f} s ({said})"
        if silent < HANGS_AFTER:
            return late
        return f"{late}; it hangs: its process has not ended, but for the last {silent:.0f} s it wrote nothing"

    def failure(self, tail: Tail) -> GpuserveError:
        """Why the engine that wrote this log ended."""
        log = "".join(tail.whole)
        found = self._engine.diagnose(log)
        if found is None and tail.exit_code is not None:
            found = by_exit_code(tail.exit_code, log)
        if isinstance(tail.error, NotAuthenticated):
            return tail.error
        if tail.error is not None:
            return BootFailed(f"the engine can't be watched any more: {tail.error.message}", hint=tail.error.hint)
        how = "is gone without an exit code" if tail.exit_code is None else f"exited with code {tail.exit_code}"
        if found is None:
            return BootFailed(f"the engine {how}: {_last_line(log)}")
        return BootFailed(f"the engine {how}: {found.cause}", hint=found.remedy)


def _last_line(log: str) -> str:
    """The last line that looks like an error, else the last one there is."""
    lines = [line.strip() for line in telling(log).splitlines() if line.strip()]
    marked = [line for line in lines if "error" in line.lower()]
    return (marked or lines or ["it wrote nothing"])[-1][:300]
