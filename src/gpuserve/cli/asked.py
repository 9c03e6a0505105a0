"""From ``up``'s flags and the settings to a checked request and its plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuserve.durations import parse_duration
from gpuserve.errors import UsageError
from gpuserve.records import DEFAULT_PORT, ServeRequest

if TYPE_CHECKING:
    from gpuserve.cli.command import Run
    from gpuserve.serving.plan import Plan
    from gpuserve.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """``up``'s flags as they were typed; None means not said."""

    model: str | None
    engine: str | None
    served_as: str | None
    revision: str | None
    image: str | None
    engine_args: tuple[str, ...]
    extra: tuple[str, ...]
    env: tuple[str, ...]
    gpu: str | None
    gpu_count: int
    cpu: int | None
    memory: int | None
    disk: int | None
    target: str | None
    name: str | None
    port: int | None
    labels: tuple[str, ...]
    ttl: str | None
    public: bool
    queue_timeout: str | None
    timeout: str


def make_plan_from(asked: Asked, run: Run) -> Plan:
    """The plan for what was asked, everything checked; nothing has been created.

    Raises:
        UsageError, ConfigError: some input can't be right.
    """
    from gpuserve.serving.plan import make_plan

    if asked.extra and not asked.extra[0].startswith("-"):
        raise UsageError(
            f"unexpected argument {asked.extra[0]!r}", hint=f"for a model: gpuserve up --model {asked.extra[0]}"
        )
    settings, local = run.context.settings, run.context.only_local
    request = make_request(asked, settings, local=local)
    return make_plan(request, place="local" if local else "daytona", any_port=asked.port is None)


def make_request(asked: Asked, settings: Settings, *, local: bool) -> ServeRequest:
    """What was asked, with what the settings and the place add."""
    from gpuserve.serving import defaults

    engine, model = defaults.engine_and_model(asked.engine or "", asked.model or "", settings, local=local)
    return ServeRequest(
        model=model,
        engine=engine,
        served_as=asked.served_as or "",
        revision=asked.revision or "",
        image=asked.image or "",
        engine_args=asked.engine_args,
        env=defaults.environment(_environment(asked.env), settings),
        gpus=defaults.gpus(asked.gpu or "", settings, local=local),
        gpu_count=asked.gpu_count,
        cpu=asked.cpu,
        memory=asked.memory,
        disk=asked.disk,
        target=asked.target or ("" if local else settings.region),
        name=asked.name or "",
        port=DEFAULT_PORT if asked.port is None else asked.port,
        labels=pairs(asked.labels, "label"),
        ttl=defaults.ttl(asked.ttl or "", settings),
        public=asked.public,
        queue_timeout=None if asked.queue_timeout is None else -(-parse_duration(asked.queue_timeout) // 60),
        timeout=parse_duration(asked.timeout),
    )


def keep_failed(on_failure: str | None, run: Run) -> bool:
    """Whether a sandbox whose engine failed is kept."""
    chosen = on_failure or run.context.settings.on_failure or "delete"
    if chosen not in ("keep", "delete"):
        raise UsageError(f"--on-failure can't be {chosen!r}", hint="keep or delete")
    return chosen == "keep"


def _environment(given: Sequence[str]) -> dict[str, str]:
    """``--env`` items: ``KEY=VALUE``, or ``KEY`` to take the value from this process's environment."""
    found = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"--env {name}: not set here", hint="write --env KEY=VALUE, or export it first")
        found[name] = value if equals else os.environ[name]
    return found


def pairs(given: Sequence[str], what: str) -> dict[str, str]:
    """``KEY=VALUE`` items as a mapping.

    Raises:
        UsageError: an item without ``=``.
    """
    found = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{item!r} is no {what}", hint=f"write --{what} KEY=VALUE")
        found[name] = value
    return found
