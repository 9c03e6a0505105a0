"""From what was asked to what will be done, before anything is created."""

from __future__ import annotations

import re
import secrets
import shlex
import socket
from dataclasses import dataclass, replace

from gpuserve import catalog, engines
from gpuserve.records import LaunchPlan, ServeRequest
from gpuserve.redaction import MASK

#: The region that the guides call the current one for GPU sandboxes.
DEFAULT_TARGET = "us-east-1"

_SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with everything decided: where, under which name, by which run, with which command."""

    request: ServeRequest
    launch: LaunchPlan
    place: str
    name: str
    run_id: str

    @property
    def command(self) -> str:
        """The command line that starts the engine in the sandbox's shell."""
        return command_line(self.launch)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values of the environment that must not be shown."""
        return tuple(value for name, value in self.launch.env.items() if value and _SECRET_NAME.search(name))

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
            "env": {name: MASK if _SECRET_NAME.search(name) else value for name, value in launch.env.items()},
            "gpus": list(request.gpus),
            "gpu_count": request.gpu_count if request.gpus else 0,
            "cpu": request.cpu,
            "memory_gib": request.memory,
            "disk_gib": request.disk,
            "target": request.target or None,
            "ephemeral": True,
            "auto_stop_minutes": 0,
            "ttl_seconds": request.ttl,
            "timeout_seconds": request.timeout,
            "queue_timeout_minutes": request.queue_timeout,
            "public": request.public,
            "labels": dict(request.labels),
            "notes": list(launch.notes),
        }


def make_plan(request: ServeRequest, *, place: str, any_port: bool = False) -> Plan:
    """Decides what the request leaves open.

    ``any_port`` says that nobody asked for ``request.port``: on this machine, whose ports all sandboxes share, a
    free one is taken then. On Daytona the region is the guides' unless one is named.

    Raises:
        UsageError: unknown engine, or engine arguments that contradict the request.
    """
    engine = engines.load(request.engine)
    if place == "local" and any_port:
        request = replace(request, port=free_port())
    request = replace(request, target=request.target or ("local" if place == "local" else DEFAULT_TARGET))
    launch = engine.plan(request, catalog.lookup(request.model, engine.name))
    return Plan(request, launch, place, request.name or _new_name(launch.served_model), secrets.token_hex(6))


def at_port(plan: Plan, port: int) -> Plan:
    """The same plan with the engine on ``port``."""
    moved = make_plan(replace(plan.request, port=port), place=plan.place)
    return replace(plan, request=moved.request, launch=moved.launch)


def command_line(launch: LaunchPlan) -> str:
    """A plain command, safe for any POSIX shell: never ``exec`` or ``exit``, which would hide the exit code."""
    command = shlex.join(launch.argv)
    if not launch.path:
        return command
    return f'PATH="$PATH:{":".join(launch.path)}" {command}'


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _new_name(served_model: str) -> str:
    """The served model's name as a label-safe stem, and four hex digits to tell deployments apart."""
    stem = re.sub(r"[^a-z0-9.]+", "-", served_model.lower()).strip("-.")[:50].strip("-.")
    return f"{stem or 'model'}-{secrets.token_hex(2)}"
