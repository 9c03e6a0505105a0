"""``up``'s flags, and the way from them and the settings to a checked request and its plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.durations import parse_duration
from gpuserve.errors import UsageError
from gpuserve.records import DEFAULT_PORT, ServeRequest

if TYPE_CHECKING:
    from gpuserve.cli.command import Run
    from gpuserve.serving.plan import Plan
    from gpuserve.settings import Settings

_MODEL, _SANDBOX, _HAND_OFF = "Model and engine", "Sandbox", "Waiting and hand-off"
#: The figures are those of docs/gpu-run.md.
_FAST_BOOT = (
    "Be ready sooner and answer more slowly: skip compilation and CUDA graphs. vLLM also forks its engine's process "
    "and takes its older model runner. Measured with vLLM and an 8B model on H200s: ready in 63 s instead of 103 to "
    "143; one stream gets 46 tokens/s instead of 185, 64 streams 1,327 instead of 4,714; long prompts are read 7 % "
    "more slowly."
)


def _option(panel: str, help_text: str, *names: str) -> typer.models.OptionInfo:
    """An option whose default isn't shown: the help says it where None isn't the whole story."""
    info: typer.models.OptionInfo = typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False)
    return info


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """``up``'s flags as they were typed; None means not said."""

    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ENGINE FLAGS]", help="After --: passed to the engine untouched.")
    ] = None
    model: Annotated[str | None, _option(_MODEL, "Hugging Face model ID.", "--model", "-m")] = None
    engine: Annotated[
        str | None, _option(_MODEL, "vllm (default), sglang, llamacpp or a plug-in.", "--engine", "-e")
    ] = None
    served_as: Annotated[str | None, _option(_MODEL, "Name that clients pass as model.")] = None
    revision: Annotated[str | None, _option(_MODEL, "Branch, tag or commit.")] = None
    image: Annotated[str | None, _option(_MODEL, "Container image instead of the engine's own.")] = None
    engine_arg: Annotated[list[str] | None, _option(_MODEL, "One engine flag, as --engine-arg=--flag=value.")] = None
    fast_boot: Annotated[bool, _option(_MODEL, _FAST_BOOT, "--fast-boot")] = False
    env: Annotated[list[str] | None, _option(_MODEL, "KEY=VALUE for the engine; KEY alone takes it from here.")] = None
    gpu: Annotated[str | None, _option(_SANDBOX, "GPU types in order of preference, or none.")] = None
    gpu_count: Annotated[int | None, _option(_SANDBOX, "GPUs per sandbox (1).")] = None
    cpu: Annotated[int | None, _option(_SANDBOX, "CPU cores.")] = None
    memory: Annotated[int | None, _option(_SANDBOX, "Memory in GiB.")] = None
    disk: Annotated[int | None, _option(_SANDBOX, "Disk in GiB.")] = None
    target: Annotated[str | None, _option(_SANDBOX, "Region (us-east-1).")] = None
    name: Annotated[str | None, _option(_SANDBOX, "Name; an existing one is picked up.", "--name", "-n")] = None
    port: Annotated[int | None, _option(_SANDBOX, "The engine's port (8000; locally a free one).")] = None
    label: Annotated[list[str] | None, _option(_SANDBOX, "KEY=VALUE label.")] = None
    ttl: Annotated[str | None, _option(_SANDBOX, "Delete it after this long, ready or not (4h); none: never.")] = None
    idle: Annotated[
        str | None,
        _option(_SANDBOX, "The platform deletes it after this long without any request (never)."),
    ] = None
    access: Annotated[
        str | None,
        _option(_SANDBOX, "Who gets in: token, signed (a URL), key (public, engine's own key) or open (token)."),
    ] = None
    public: Annotated[
        bool, _option(_SANDBOX, "As --access key where a key was given, else as --access open.", "--public")
    ] = False
    yes: Annotated[bool, _option(_SANDBOX, "Don't ask before opening it to everybody.", "--yes", "-y")] = False
    queue_timeout: Annotated[str | None, _option(_SANDBOX, "Give up waiting for a GPU after this long.")] = None
    timeout: Annotated[str, _option(_HAND_OFF, "Give up if it isn't ready after this long (15m).")] = "15m"
    wait: Annotated[bool, _option(_HAND_OFF, "Wait until the model answers (wait).", "--wait/--no-wait")] = True
    on_failure: Annotated[str | None, _option(_HAND_OFF, "keep or delete the sandbox (delete).")] = None
    log_file: Annotated[Path | None, _option(_HAND_OFF, "Where the engine's log is saved.")] = None
    output: Annotated[
        str, _option(_HAND_OFF, "env, dotenv, fish, github, json, url or id (env).", "--output", "-o")
    ] = "env"
    check: Annotated[
        bool,
        _option(_HAND_OFF, "Ask the Hub and the platform before anything is created (check).", "--check/--no-check"),
    ] = True
    force: Annotated[
        bool, _option(_HAND_OFF, "Go on where the estimate or the catalogue says that it can't work.", "--force")
    ] = False
    dry_run: Annotated[bool, _option(_HAND_OFF, "Print the plan; create nothing.", "--dry-run")] = False

    @property
    def engine_args(self) -> tuple[str, ...]:
        """What goes to the engine untouched: ``--engine-arg`` first, then all after ``--``."""
        return (*(self.engine_arg or ()), *(self.extra or ()))


def make_plan_from(asked: Asked, run: Run) -> Plan:
    """The plan for what was asked, everything checked; nothing has been created.

    Raises:
        UsageError, ConfigError: some input can't be right.
    """
    from gpuserve.engines import load as check_engine
    from gpuserve.serving import defaults
    from gpuserve.serving.plan import make_plan
    from gpuserve.serving.preflight import Rules, Seen, checked

    if asked.extra and not asked.extra[0].startswith("-"):
        raise UsageError(
            f"unexpected argument {asked.extra[0]!r}", hint=f"for a model: gpuserve up --model {asked.extra[0]}"
        )
    context = run.context
    settings, local = context.settings, context.only_local
    request = make_request(asked, settings, local=local)
    place = "local" if local else "daytona"
    check_engine(request.engine)  # a typo is told before anything is asked
    seen = checked(request, context) if asked.check else Seen()
    any_gpu = not (asked.gpu or settings.gpu)
    any_count, prices = asked.gpu_count is None, defaults.prices(settings)
    rules = Rules(place, any_gpu=any_gpu, any_count=any_count, force=asked.force, prices=prices)
    return make_plan(request, place=place, any_port=asked.port is None, seen=seen, rules=rules)


def make_request(asked: Asked, settings: Settings, *, local: bool) -> ServeRequest:
    """What was asked, with what the settings and the place add."""
    from gpuserve.serving import defaults
    from gpuserve.serving.ways import chosen

    engine, model = defaults.engine_and_model(asked.engine or "", asked.model or "", settings, local=local)
    way = chosen(
        engine,
        asked.access or "",
        public=asked.public,
        env=defaults.environment(_environment(asked.env or ()), settings),
        engine_args=asked.engine_args,
        settings=settings,
    )
    return ServeRequest(
        model=model,
        engine=engine,
        served_as=asked.served_as or "",
        revision=asked.revision or "",
        image=asked.image or "",
        engine_args=way.engine_args,
        env=way.env,
        gpus=defaults.gpus(asked.gpu or "", settings, local=local),
        gpu_count=1 if asked.gpu_count is None else asked.gpu_count,
        cpu=asked.cpu,
        memory=asked.memory,
        disk=asked.disk,
        target=asked.target or ("" if local else settings.region),
        name=asked.name or "",
        port=DEFAULT_PORT if asked.port is None else asked.port,
        labels=pairs(asked.label or (), "label"),
        ttl=defaults.ttl(asked.ttl or "", settings),
        idle=defaults.idle(asked.idle or ""),
        public=way.public,
        access=way.access,
        api_key=way.api_key,
        queue_timeout=None if asked.queue_timeout is None else -(-parse_duration(asked.queue_timeout) // 60),
        timeout=parse_duration(asked.timeout),
        fast_boot=asked.fast_boot,
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
