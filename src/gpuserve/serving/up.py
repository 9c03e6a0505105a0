"""``up``: plan, create, launch, wait, hand off. A step that fails is undone here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gpuserve.errors import Conflict, GpuserveError, Interrupted, TimedOut
from gpuserve.records import GONE, Deployment, Endpoint
from gpuserve.redaction import Redactor
from gpuserve.sandboxes.create import Creation
from gpuserve.sandboxes.manager import Sandboxes
from gpuserve.sandboxes.session import EngineSession
from gpuserve.sandboxes.translate import repeated
from gpuserve.serving.boot import Wait
from gpuserve.serving.context import Context
from gpuserve.serving.cost import deadline_problem
from gpuserve.serving.enginelog import LogFile
from gpuserve.serving.events import BuildLog, Emit, Launched, PickedUp, Planned, Ready, Removed, SandboxState, Warned
from gpuserve.serving.fleet.record import load as fleet_called
from gpuserve.serving.plan import Plan, as_found, is_taken
from gpuserve.serving.reach import open_endpoint
from gpuserve.serving.share import hand_out

#: Seconds for which ``up`` bears with a platform that fails or can't be reached: longer than other commands, since
#: what it would have to give up costs money and minutes.
PATIENCE = 75.0
#: Asked at the first Ctrl-C with the sandbox's name: True keeps it, False deletes it.
AskKeep = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Options:
    """How ``up`` behaves. ``log_file`` None means the default place; ``ask_keep`` None means ``keep_failed``."""

    wait: bool = True
    keep_failed: bool = False
    log_file: Path | None = None
    ask_keep: AskKeep | None = None


@dataclass(frozen=True, slots=True)
class Deployed:
    """What ``up`` hands off: the endpoint by the way in that was asked for, which ends at ``until`` if it is a link.

    ``ready`` is False only where it was told not to wait.
    """

    deployment: Deployment
    endpoint: Endpoint
    ready: bool
    log_file: str
    seconds: float
    until: datetime | None = None


def up(plan: Plan, context: Context, *, emit: Emit, options: Options = Options()) -> Deployed:
    """Brings ``plan`` up and returns it ready (or launched, where ``options.wait`` is off).

    A sandbox of that name that serves the same plan is picked up instead of created.

    Raises:
        Conflict: the name belongs to something else, or the port of this machine to somebody else.
        BootFailed, TimedOut, NoCapacity, QuotaExceeded, NotAuthenticated, NetworkError, PlatformError: as it
            happened; the sandbox is deleted, or kept where ``options.keep_failed`` says so.
        Interrupted: Ctrl-C.
    """
    bringing_up = _Up(plan, context, emit, options)
    try:
        return bringing_up.run()
    finally:
        bringing_up.file.close()


class _Up:
    def __init__(self, plan: Plan, context: Context, emit: Emit, options: Options) -> None:
        self._plan = plan
        self._context = context
        self._sandboxes: Sandboxes = context.sandboxes(plan.place)
        self._sandboxes.patience = max(self._sandboxes.patience, PATIENCE)
        self._emit = emit
        self._options = options
        self._began = time.monotonic()
        self.file = LogFile(None, Redactor())

    def run(self) -> Deployed:
        if fleet_called(self._plan.name) is not None:
            raise Conflict(f"{self._plan.name} is a fleet", hint="choose another --name")
        self._emit(Planned(self._plan))
        existing = self._existing()
        if existing is not None:
            return self._serve(self._settled(existing))
        try:
            created = self._create()
        except Conflict:
            existing = self._existing()  # somebody was faster with the same name
            if existing is None:
                raise
            return self._serve(self._settled(existing))
        return self._serve_or_undo(created)

    # -- the sandbox ---------------------------------------------------------------------------------------

    def _existing(self) -> Deployment | None:
        """The deployment that an explicit name already belongs to."""
        if not self._plan.request.name:
            return None
        found = self._sandboxes.find(self._plan.name)
        if found is None or found.state in GONE:
            return None
        if found.gateway_of:
            raise Conflict(f"{found.name} is a fleet", hint="choose another --name")
        launch = self._plan.launch
        same = (launch.engine, launch.model, launch.served_model, launch.image)
        if (found.engine, found.model, found.served_model, found.image) != same:
            raise Conflict(
                f"{found.name} exists and serves {found.model} on {found.engine}",
                hint=f"choose another --name, or delete it: gpuserve down {found.name}",
            )
        if found.access != (self._plan.request.access or "token"):
            self._emit(Warned(f"{found.name} is there with access {found.access!r}, and keeps it; see gpuserve share"))
        self._plan = as_found(self._plan, found)
        self._emit(PickedUp(found))
        return found

    def _settled(self, deployment: Deployment) -> Deployment:
        """A picked-up deployment once its sandbox runs."""
        while deployment.state != "started":
            if deployment.state in ("error", "build_failed", "destroying", "destroyed", "stopped"):
                reason = deployment.error or deployment.state
                raise Conflict(f"{deployment.name} exists but is {reason}", hint=f"gpuserve down {deployment.name}")
            if time.monotonic() > self._deadline:
                raise TimedOut(f"{deployment.name} is still {deployment.state}", hint="raise --timeout")
            time.sleep(0.5)
            deployment = self._sandboxes.get(deployment.sandbox_id)
        return deployment

    @property
    def _deadline(self) -> float:
        return self._began + self._plan.request.timeout

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _check_port(self) -> None:
        """Sandboxes of this machine share its ports. On a taken one SGLang doesn't end: for minutes it warms up whoever
        listens there.
        """
        port = self._plan.request.port
        if self._plan.place == "local" and is_taken(port):
            raise Conflict(
                f"port {port} is taken by another program of this machine",
                hint="leave --port out, and a free one is chosen",
            )

    def _create(self) -> Deployment:
        plan = self._plan
        self._check_port()
        creation = self._sandboxes.start_creation(
            plan.request,
            plan.launch,
            name=plan.name,
            run_id=plan.run_id,
            timeout=plan.request.timeout,
            on_build_log=lambda text: self._emit(BuildLog(text)),
        )
        try:
            sandbox = creation.wait(lambda state: self._emit(SandboxState(plan.name, state, self._seconds())))
        except BaseException as error:
            self._undo_creation(creation, error)
            raise self._as_ours(error) from error
        return self._sandboxes.as_started(sandbox)

    # -- the engine ----------------------------------------------------------------------------------------

    def _serve_or_undo(self, deployment: Deployment) -> Deployed:
        try:
            return self._serve(deployment)
        except BaseException as error:
            self._undo(deployment.name, deployment.sandbox_id, error)
            raise self._as_ours(error) from error

    def _serve(self, deployment: Deployment) -> Deployed:
        if problem := deadline_problem(deployment):
            self._emit(Warned(problem))
        session = self._launch(deployment)
        endpoint = open_endpoint(self._context, deployment)
        ready = self._options.wait
        if ready:
            self._wait(deployment, endpoint, session)
            self._emit(Ready(deployment, endpoint, self._seconds()))
        handed, until = hand_out(self._context, deployment, endpoint)
        return Deployed(deployment, handed, ready, str(self.file.path or ""), self._seconds(), until)

    def _launch(self, deployment: Deployment) -> EngineSession:
        session = self._sandboxes.session(deployment)
        # Asked again while the platform fails: what was started is found, so that nothing starts twice.
        command, key = self._plan.command, self._plan.request.api_key
        repeated(lambda: session.attach() or session.launch(command, key=key), patience=self._sandboxes.patience)
        if self._options.wait:
            log_file = self._options.log_file or self._context.log_path(self._plan.name)
            self.file = LogFile(log_file, self._redactor(session))
            if self.file.problem:
                self._emit(Warned(self.file.problem))
        self._emit(Launched(deployment, str(self.file.path or ""), self._seconds()))
        return session

    def _redactor(self, session: EngineSession) -> Redactor:
        return Redactor((*self._context.settings.secrets, *self._plan.secrets, *session.secrets))

    def _wait(self, deployment: Deployment, endpoint: Endpoint, session: EngineSession) -> None:
        wait = Wait(self._sandboxes, deployment, endpoint, deadline=self._deadline, began=self._began, emit=self._emit)
        wait.follow(session, self.file)

    # -- what went wrong -----------------------------------------------------------------------------------

    def _undo_creation(self, creation: Creation, error: BaseException) -> None:
        """As ``_undo``, for a sandbox of which it isn't known whether the request made it."""
        name = self._plan.name
        try:
            left = creation.settle()
        except (GpuserveError, KeyboardInterrupt) as unknown:
            self._leave(name, unknown)
            return
        if left is not None:
            self._undo(name, left.id, error)

    def _undo(self, name: str, sandbox_id: str, error: BaseException) -> None:
        """Deletes the sandbox or says that it was kept. A failure to delete is reported, not raised over ``error``."""
        if self._keeps(name, error):
            self._emit(Warned(f"{name} was kept; delete it with: gpuserve down {name}"))
            return
        try:
            self._sandboxes.delete(sandbox_id)
        except (GpuserveError, KeyboardInterrupt) as left:
            self._leave(name, left)
            return
        self._context.cache.forget(sandbox_id)
        self._emit(Removed(name))

    def _leave(self, name: str, why: BaseException) -> None:
        said = why.message if isinstance(why, GpuserveError) else "interrupted while it was deleted"
        self._emit(Warned(f"{name} may still exist ({said}): gpuserve down {name}"))

    def _keeps(self, name: str, error: BaseException) -> bool:
        if isinstance(error, KeyboardInterrupt) and self._options.ask_keep is not None:
            return self._options.ask_keep(name)
        return self._options.keep_failed

    def _as_ours(self, error: BaseException) -> BaseException:
        if isinstance(error, KeyboardInterrupt):
            return Interrupted(f"interrupted after {self._seconds():.0f} s")
        return error
