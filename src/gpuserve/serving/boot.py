"""From a started process to a model that answers, or to a sentence that says why not."""

from __future__ import annotations

import time

from gpuserve.client.health import HealthState, Prober
from gpuserve.engines.base import Engine
from gpuserve.engines.exits import by_exit_code
from gpuserve.errors import BootFailed, NotAuthenticated, TimedOut
from gpuserve.records import Deployment, Endpoint
from gpuserve.sandboxes.manager import Sandboxes
from gpuserve.serving.enginelog import Tail
from gpuserve.serving.events import Boot, Emit, EngineLog

#: Seconds between two looks at the health route: a first 200 is noticed within a quarter of a second.
PROBE_EVERY = 0.2
#: Seconds for one look. SGLang's generates a token before it answers.
PROBE_TIMEOUT = 20.0
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
        engine: Engine,
        *,
        health_path: str,
        deadline: float,
        began: float,
        emit: Emit,
    ) -> None:
        self._sandboxes = sandboxes
        self._deployment = deployment
        self._endpoint = endpoint
        self._engine = engine
        self._health_path = health_path
        self._deadline = deadline
        self._began = began
        self._emit = emit
        self._refused_since: float | None = None
        self._state_seen = 0.0

    def until_ready(self, tail: Tail) -> None:
        """Returns at the health route's first 200.

        Raises:
            BootFailed: the engine or its sandbox ended; cause and remedy as far as they can be told.
            NotAuthenticated: the proxy keeps refusing the credential.
            TimedOut: neither came in time.
        """
        with Prober(self._endpoint, self._health_path, timeout=PROBE_TIMEOUT) as prober:
            while True:
                looked = time.monotonic()
                probe = prober.probe()
                self.report(tail)
                if probe.ready:
                    return
                if tail.ended.is_set():
                    self.report(tail)
                    raise self.failure(tail)
                self._judge(probe.state, probe.detail)
                if time.monotonic() > self._deadline:
                    raise TimedOut(self._late(probe.detail), hint="raise --timeout, or read the log")
                tail.ended.wait(max(0.0, PROBE_EVERY - (time.monotonic() - looked)))

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

    def _late(self, detail: str) -> str:
        waited = time.monotonic() - self._began
        return f"the engine was not ready after {waited:.0f} s ({detail or 'no answer yet'})"

    def failure(self, tail: Tail) -> BootFailed:
        """Why the engine that wrote this log ended."""
        log = "".join(tail.whole)
        found = self._engine.diagnose(log)
        if found is None and tail.exit_code is not None:
            found = by_exit_code(tail.exit_code, log)
        how = "ended without an exit code" if tail.exit_code is None else f"exited with code {tail.exit_code}"
        if found is None:
            return BootFailed(f"the engine {how}: {_last_line(log)}")
        return BootFailed(f"the engine {how}: {found.cause}", hint=found.remedy)


def _last_line(log: str) -> str:
    """The last line that looks like an error, else the last one there is."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    marked = [line for line in lines if "error" in line.lower()]
    return (marked or lines or ["it wrote nothing"])[-1][:300]
