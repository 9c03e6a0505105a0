"""Creating a sandbox so that a lost answer, a time-out or a Ctrl-C loses nothing.

The SDK's ``create`` sends the request and then waits without telling anything. Here it runs in a thread of
its own, while the caller's thread looks the sandbox up by its name: it sees every state, keeps its own
deadline, can be interrupted, and finds a sandbox whose answer got lost on the way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpuserve.errors import (
    BootFailed,
    Conflict,
    NetworkError,
    NoCapacity,
    NotFound,
    PlatformError,
    RateLimited,
    TimedOut,
)
from gpuserve.records import FLEET_LABEL, LaunchPlan, ServeRequest
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.translate import CALL_TIMEOUT, never_sent, translate, translated

if TYPE_CHECKING:
    from daytona import CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Daytona, Sandbox

    Params = CreateSandboxFromImageParams | CreateSandboxFromSnapshotParams

_DEAD = ("error", "build_failed", "destroyed", "destroying", "stopped", "stopping", "archived")
#: Seconds between looks at a sandbox that is being created.
POLL = 0.5
#: Seconds in which a sandbox whose create answer was lost must turn up.
LOST_ANSWER_GRACE = 15.0
#: Seconds for which a request that could not be sent is tried again: it has made nothing.
UNSENT_PATIENCE = 5.0

OnState = Callable[[str], None]
OnBuildLog = Callable[[str], None]


def parameters(request: ServeRequest, launch: LaunchPlan, name: str, run_id: str) -> CreateSandboxFromImageParams:
    """The SDK's parameters: name, labels, time to live and idle limit are in the create request itself.

    Both limits count in minutes, rounded up. To stop an ephemeral sandbox is to delete it.
    """
    from daytona import CreateSandboxFromImageParams, GpuType, Image, Resources

    resources = Resources(
        cpu=request.cpu,
        memory=request.memory,
        disk=request.disk,
        gpu=request.gpu_count if request.gpus else None,
        gpu_type=[GpuType(gpu) for gpu in request.gpus] or None,
    )
    return CreateSandboxFromImageParams(
        name=name,
        image=Image.base(launch.image),
        resources=resources,
        labels={
            **labels.encode(launch, run_id, request.labels),
            **labels.limits(request.ttl, request.idle),
            labels.ACCESS: request.access or "token",
            **({FLEET_LABEL: request.fleet} if request.fleet else {}),
        },
        env_vars=dict(launch.env),
        public=request.public,
        ephemeral=True,
        auto_stop_interval=0 if request.idle is None else -(-request.idle // 60),
        ttl_minutes=None if request.ttl is None else -(-request.ttl // 60),
        queue_timeout=request.queue_timeout,
        target=request.target or None,
    )


class Creation:
    """One create request under way. ``wait`` returns the started sandbox.

    The request is repeated only where it never left this machine: what was sent may have made a sandbox.
    """

    def __init__(self, client: Daytona, params: Params, timeout: float) -> None:
        self._client = client
        self._params = params
        self._name = params.name or ""
        self._run_id = labels.run_id(params.labels or {})
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._error: Exception | None = None
        self._made: Sandbox | None = None
        self._answered = threading.Event()
        self._over = threading.Event()
        self._build_log: OnBuildLog | None = None

    def send(self, on_build_log: OnBuildLog | None = None) -> None:
        """Sends the request from a thread of its own, which tells of the build until ``wait`` is over."""
        self._build_log = on_build_log
        threading.Thread(target=self._send, name="gpuserve-create", daemon=True).start()

    def _send(self) -> None:
        give_up = time.monotonic() + UNSENT_PATIENCE
        try:
            while not self._made_or_refused(give_up):
                time.sleep(POLL)
        finally:
            self._answered.set()

    def _made_or_refused(self, give_up: float) -> bool:
        """Whether the request is done with. Only one that never left this machine isn't, until ``give_up``."""
        told = None if self._build_log is None else self._tell_of_build
        try:
            create: Any = self._client.create  # its overloads don't know that either kind of parameters will do
            self._made = create(self._params, timeout=self._timeout + 5, on_snapshot_create_logs=told)
        except Exception as error:  # noqa: BLE001  # handed to the thread that waits
            if never_sent(error) and time.monotonic() < min(give_up, self._deadline):
                return False
            self._error = error
        return True

    def _tell_of_build(self, text: str) -> None:
        """Hands a line on, but not behind the back of a caller that has what it waited for: the SDK may be late."""
        if self._build_log is not None and not self._over.is_set():
            self._build_log(text)

    def find(self) -> Sandbox | None:
        """The sandbox of this very run, by its name; None if there is none (yet).

        A name that can't be found yet is no reason to doubt the answer to the create request.
        """
        try:
            with translated("looking for the sandbox"):
                sandbox = self._client.get(self._name, request_timeout=CALL_TIMEOUT)
        except NotFound:
            return self._made
        return sandbox if labels.run_id(sandbox.labels) == self._run_id else None

    def settle(self, patience: float = 10.0) -> Sandbox | None:
        """After an interruption: the sandbox that the request in flight made or still makes, within ``patience`` s.

        Raises:
            NotAuthenticated, NetworkError, PlatformError: the platform doesn't say whether there is one.
        """
        give_up = time.monotonic() + patience
        while True:
            answered = self._answered.is_set()
            if answered and never_sent(self._error):
                return None
            try:
                sandbox = self.find()
            except (NetworkError, PlatformError):
                if self._made is not None:
                    return self._made
                if time.monotonic() > give_up:
                    raise
            else:
                if sandbox is not None:
                    return sandbox
                if answered or time.monotonic() > give_up:
                    return self._listed()
            time.sleep(POLL)

    def _listed(self) -> Sandbox | None:
        """The sandbox of this very run by its label: a second witness, before it is said that there is none."""
        from daytona import ListSandboxesQuery

        query = ListSandboxesQuery(labels={labels.RUN: self._run_id}, limit=2)
        with translated("looking for the sandbox in the list"):
            found = list(self._client.list(query, request_timeout=CALL_TIMEOUT))
        return next((one for one in found if labels.run_id(one.labels) == self._run_id), None)

    def wait(self, on_state: OnState) -> Sandbox:
        """Waits until the sandbox runs.

        Raises:
            BootFailed: it can't be built, or ended in an error state.
            NoCapacity, TimedOut: the deadline passed while it waited for a GPU, or otherwise.
            Conflict, QuotaExceeded, UsageError, NotAuthenticated, NetworkError, PlatformError: as the platform says.
        """
        try:
            return self._wait(on_state)
        finally:
            self._over.set()

    def _wait(self, on_state: OnState) -> Sandbox:
        state = ""
        while True:
            sandbox = self._look()
            if sandbox is not None:
                now = state_of(sandbox)
                if now != state:
                    state = now
                    on_state(state)
                if state == "started":
                    return sandbox
                if state in _DEAD:
                    raise self._death(sandbox, state)
            elif self._answered.is_set():
                self._raise_refusal()
            if time.monotonic() > self._deadline:
                raise self._too_late(state)
            self._pause()

    def _pause(self) -> None:
        if self._answered.is_set():
            time.sleep(POLL)
        else:
            self._answered.wait(POLL)

    def _look(self) -> Sandbox | None:
        """As ``find``, but a platform that can't be reached for a moment is no reason to give up."""
        try:
            return self.find()
        except (NetworkError, PlatformError):
            if time.monotonic() > self._deadline:
                raise
            return None

    def _raise_refusal(self) -> None:
        """The request was answered, yet there is no sandbox: says why, unless the answer was merely lost."""
        if self._error is None:
            return
        error = translate(self._error, "creating the sandbox")
        unclear = isinstance(error, NetworkError | PlatformError) and not isinstance(error, RateLimited)
        if unclear and not never_sent(self._error):
            self._deadline = min(self._deadline, time.monotonic() + LOST_ANSWER_GRACE)
            self._pause()
            if self._look() is not None or time.monotonic() < self._deadline:
                return
        if isinstance(error, Conflict):
            error.hint = f"choose another --name, or delete it: gpuserve down {self._name}"
        raise error from self._error

    def _death(self, sandbox: Sandbox, state: str) -> Exception:
        if sandbox.queue_timed_out_at:
            return NoCapacity("no GPU became free within the queue timeout", hint="try again, or name more --gpu types")
        if sandbox.spot_evicted_at or state in ("destroyed", "destroying"):
            return BootFailed("the sandbox was taken back by the platform while it started", hint="run up again")
        reason = (sandbox.error_reason or "no reason given").strip().splitlines()[0]
        what = "image can't be used" if state == "build_failed" else f"sandbox ended as {state!r}"
        return BootFailed(f"the {what}: {reason}", hint="check --image, or try again")

    def _too_late(self, state: str) -> Exception:
        if state in ("pending_build", "", "unknown"):
            types = ", ".join(self._gpu_types()) or "the sandbox asked for"
            return NoCapacity(
                f"no capacity for {types} within {self._timeout:.0f} s", hint="try again, or name more --gpu types"
            )
        return TimedOut(f"the sandbox was still {state!r} after {self._timeout:.0f} s", hint="raise --timeout")

    def _gpu_types(self) -> list[str]:
        resources = getattr(self._params, "resources", None)
        wanted = resources.gpu_type if resources else None
        return [str(gpu.value) for gpu in wanted] if isinstance(wanted, list) else []


def state_of(sandbox: Sandbox) -> str:
    """The platform's word for the sandbox's state."""
    return str(getattr(sandbox.state, "value", sandbox.state) or "unknown")
