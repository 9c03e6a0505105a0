"""From what was asked to what will be done, before anything is created."""

from __future__ import annotations

import errno
import re
import secrets
import shlex
import socket
from dataclasses import dataclass, replace

from gpuserve import engines
from gpuserve.access import planned
from gpuserve.catalog.fit import Fit
from gpuserve.engines.base import Engine, StartsFaster
from gpuserve.records import KEY_FILE, Deployment, LaunchPlan, ModelFacts, ServeRequest
from gpuserve.redaction import MASK, SECRET_NAME, secret_values
from gpuserve.serving.defaults import default_target
from gpuserve.serving.preflight import Rules, Seen, judged
from gpuserve.serving.reasons import reasons
from gpuserve.serving.ways import found_at, key_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request with everything decided: where, under which name, by which run, with which command.

    ``fit`` is the estimate for the first GPU type; None where nothing is known of the model's size, or there is no
    GPU to choose. ``notes`` are the reasons and warnings, each a sentence for a person.
    """

    request: ServeRequest
    launch: LaunchPlan
    facts: ModelFacts
    place: str
    name: str
    run_id: str
    fit: Fit | None = None
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line that starts the engine in the sandbox's shell."""
        return command_line(self.launch)

    @property
    def reasons(self) -> dict[str, str]:
        """Why each flag that gpuserve set is there."""
        return reasons(self.request, self.launch)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values of the environment that must not be shown, and the engine's own key."""
        own = (self.request.api_key,) if self.request.api_key else ()
        return (*secret_values(self.launch.env), *own)

    @property
    def who(self) -> tuple[str, ...]:
        """Who will be able to reach what, one sentence for each way in."""
        request = self.request
        uncovered = key_words(request.engine) if request.api_key else ""
        return planned(request.access or "token", keyed=bool(request.api_key), uncovered=uncovered)

    def as_dict(self) -> dict[str, object]:
        """The plan as ``up --dry-run --json`` prints it; secrets masked."""
        request, launch = self.request, self.launch
        return {
            "name": self.name,
            "place": self.place,
            "engine": launch.engine,
            "model": launch.model,
            "served_model": launch.served_model,
            "image": launch.image,
            "command": list(launch.argv),
            "command_line": self.command,
            "session": launch.session,
            "port": launch.port,
            "health_path": launch.health_path,
            "env": {name: MASK if SECRET_NAME.search(name) else value for name, value in launch.env.items()},
            "gpus": list(request.gpus),
            "gpu_count": request.gpu_count if request.gpus else 0,
            "cpu": request.cpu,
            "memory_gib": request.memory,
            "disk_gib": request.disk,
            "target": request.target or None,
            "ephemeral": True,
            "auto_stop_minutes": 0 if request.idle is None else -(-request.idle // 60),
            "ttl_seconds": request.ttl,
            "idle_seconds": request.idle,
            "timeout_seconds": request.timeout,
            "queue_timeout_minutes": request.queue_timeout,
            "public": request.public,
            "access": request.access or "token",
            "engine_key": bool(request.api_key),
            "who": list(self.who),
            "labels": dict(request.labels),
            "family": self.facts.family or None,
            "tool_parser": self.facts.tool_parser or None,
            "reasoning_parser": self.facts.reasoning_parser or None,
            "source": self.facts.source or None,
            "fit": None if self.fit is None else self.fit.as_dict(),
            "fast_boot": self.request.fast_boot,
            "reasons": self.reasons,
            "notes": list(self.notes),
        }


def make_plan(
    request: ServeRequest, *, place: str, any_port: bool = False, seen: Seen = Seen(), rules: Rules | None = None
) -> Plan:
    """Decides what the request leaves open. Pure: what was asked of the Hub and the platform is in ``seen``.

    ``any_port`` says that nobody asked for ``request.port``: on this machine, whose ports all sandboxes share, a
    free one is taken then. On Daytona the region is the guides' unless one is named.

    Raises:
        UsageError: unknown engine, engine arguments that contradict the request, a model that the engine can't serve.
        DoesNotFit: no GPU that may be taken holds the model.
        QuotaExceeded: the platform says that it would refuse.
    """
    engine = engines.load(request.engine)
    if place == "local" and any_port:
        request = replace(request, port=free_port())
    request = replace(request, target=request.target or default_target(place))
    verdict = judged(request, seen, rules or Rules(place))
    launch = engine.plan(verdict.request, verdict.facts)
    name = request.name or _new_name(launch.served_model)
    return Plan(
        request=verdict.request,
        launch=launch,
        facts=verdict.facts,
        place=place,
        name=name,
        run_id=secrets.token_hex(6),
        fit=verdict.fit,
        notes=tuple(dict.fromkeys((*launch.notes, *_fast_boot_note(engine, request), *verdict.notes))),
    )


def _fast_boot_note(engine: Engine, request: ServeRequest) -> tuple[str, ...]:
    """What comes of ``--fast-boot``, where it was asked for."""
    if not request.fast_boot:
        return ()
    if isinstance(engine, StartsFaster):
        return (f"--fast-boot: {engine.title} leaves out {engine.fast_boot} at its start, and answers more slowly.",)
    return (f"{engine.title} has nothing to leave out at its start: --fast-boot changes nothing.",)


def as_found(plan: Plan, found: Deployment) -> Plan:
    """The same plan for a sandbox that exists: its labels say where its engine listens and who may come in."""
    return at_port(replace(plan, request=found_at(plan.request, found)), found.port)


def at_port(plan: Plan, port: int) -> Plan:
    """The same plan with the engine on ``port``."""
    request = replace(plan.request, port=port)
    return replace(plan, request=request, launch=engines.load(request.engine).plan(request, plan.facts))


def command_line(launch: LaunchPlan) -> str:
    """A plain command, safe for any POSIX shell: never ``exec`` or ``exit``, which would hide the exit code."""
    command = shlex.join(launch.argv)
    if launch.path:
        command = f'PATH="$PATH:{":".join(launch.path)}" {command}'
    key = launch.key
    if key is None:
        return command
    given = f'{key.variable}="$(cat {KEY_FILE})" ' if key.variable else ""
    first = f"{key.before}\n" if key.before else ""
    return f"{first}{given}{command}{key.after}"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def is_taken(port: int) -> bool:
    """Whether somebody listens on ``port`` of the loopback interface."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a closed server left behind doesn't count
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _new_name(served_model: str) -> str:
    """The served model's name as a label-safe stem, and four hex digits to tell deployments apart."""
    stem = re.sub(r"[^a-z0-9.]+", "-", served_model.lower()).strip("-.")[:50].strip("-.")
    return f"{stem or 'model'}-{secrets.token_hex(2)}"
