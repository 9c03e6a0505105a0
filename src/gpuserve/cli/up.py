"""``gpuserve up``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run, command

if TYPE_CHECKING:
    from types import FrameType

    from gpuserve.serving.plan import Plan
    from gpuserve.serving.up import Deployed

_MODEL, _SANDBOX, _HAND_OFF = "Model and engine", "Sandbox", "Waiting and hand-off"

EPILOG = (
    "Examples: gpuserve up --local · gpuserve up --engine sglang --model openai/gpt-oss-20b --ttl 2h · "
    'eval "$(gpuserve up --model Qwen/Qwen3-8B -- --max-model-len 8192)". '
    'With --json: one line {"event": …} for each step, then {"data": {name, endpoint, base_url, token, …}}.'
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="up", epilog=EPILOG)(up)


def up(
    run: Run,
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ENGINE FLAGS]", help="After --: passed to the engine untouched.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Hugging Face model ID.", rich_help_panel=_MODEL, show_default=False),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", "-e", help="vllm (default), sglang, llamacpp or a plug-in.", rich_help_panel=_MODEL),
    ] = None,
    served_as: Annotated[
        str | None, typer.Option(help="Name that clients pass as model.", rich_help_panel=_MODEL)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", rich_help_panel=_MODEL)] = None,
    image: Annotated[
        str | None, typer.Option(help="Container image instead of the engine's own.", rich_help_panel=_MODEL)
    ] = None,
    engine_arg: Annotated[
        list[str] | None, typer.Option(help="One engine flag, as --engine-arg=--flag=value.", rich_help_panel=_MODEL)
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE for the engine; KEY alone takes it from here.", rich_help_panel=_MODEL),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="GPU types in order of preference, or none.", rich_help_panel=_SANDBOX, show_default=False),
    ] = None,
    gpu_count: Annotated[int, typer.Option(help="GPUs per sandbox.", rich_help_panel=_SANDBOX)] = 1,
    cpu: Annotated[int | None, typer.Option(help="CPU cores.", rich_help_panel=_SANDBOX)] = None,
    memory: Annotated[int | None, typer.Option(help="Memory in GiB.", rich_help_panel=_SANDBOX)] = None,
    disk: Annotated[int | None, typer.Option(help="Disk in GiB.", rich_help_panel=_SANDBOX)] = None,
    target: Annotated[str | None, typer.Option(help="Region.", rich_help_panel=_SANDBOX)] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name; an existing one is picked up.", rich_help_panel=_SANDBOX)
    ] = None,
    port: Annotated[int | None, typer.Option(help="The engine's port [8000].", rich_help_panel=_SANDBOX)] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE label.", rich_help_panel=_SANDBOX)] = None,
    ttl: Annotated[
        str | None,
        typer.Option(help="Delete it after this long, ready or not [4h]; none: never.", rich_help_panel=_SANDBOX),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Anybody with the URL may use it.", rich_help_panel=_SANDBOX)
    ] = False,
    queue_timeout: Annotated[
        str | None, typer.Option(help="Give up waiting for a GPU after this long.", rich_help_panel=_SANDBOX)
    ] = None,
    timeout: Annotated[
        str, typer.Option(help="Give up if it isn't ready after this long.", rich_help_panel=_HAND_OFF)
    ] = "15m",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the model answers.", rich_help_panel=_HAND_OFF)
    ] = True,
    on_failure: Annotated[
        str | None, typer.Option(help="keep or delete [delete] the sandbox.", rich_help_panel=_HAND_OFF)
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Where the engine's log is saved.", rich_help_panel=_HAND_OFF)
    ] = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="env, dotenv, fish, github, json, url or id.", rich_help_panel=_HAND_OFF),
    ] = "env",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; create nothing.", rich_help_panel=_HAND_OFF)
    ] = False,
) -> None:
    """Bring a model up and print its endpoint.

    Creates a GPU sandbox, starts the engine, waits until the model answers, and prints two export lines.
    """
    from gpuserve.cli.asked import Asked, keep_failed, make_plan_from
    from gpuserve.cli.handoff import check_format

    check_format(output)
    asked = Asked(
        model=model,
        engine=engine,
        served_as=served_as,
        revision=revision,
        image=image,
        engine_args=(*(engine_arg or ()), *(extra or ())),
        extra=tuple(extra or ()),
        env=tuple(env or ()),
        gpu=gpu,
        gpu_count=gpu_count,
        cpu=cpu,
        memory=memory,
        disk=disk,
        target=target,
        name=name,
        port=port,
        labels=tuple(label or ()),
        ttl=ttl,
        public=public,
        queue_timeout=queue_timeout,
        timeout=timeout,
    )
    plan = make_plan_from(asked, run)
    keep = keep_failed(on_failure, run)
    if dry_run:
        _show_plan(run, plan)
        return
    _bring_up(run, plan, wait=wait, keep=keep, log_file=log_file, form=output)


def _show_plan(run: Run, plan: Plan) -> None:
    from gpuserve.cli.progress import plan_lines

    run.output.data(plan.as_dict())
    if not run.output.as_json:
        for line in plan_lines(plan):
            run.output.say("plan", line)
        run.output.result(plan.command)


def _bring_up(run: Run, plan: Plan, *, wait: bool, keep: bool, log_file: Path | None, form: str) -> None:
    from gpuserve.cli.handoff import hand_off
    from gpuserve.cli.progress import Progress
    from gpuserve.serving.up import Options, up

    run.context.sandboxes(run.context.place_for_up())
    with _terminable(), Progress(run.output, log_on_terminal=run.output.verbose) as progress:
        ask = progress.ask_keep if sys.stdin.isatty() and run.output.lively else None
        options = Options(wait=wait, keep_failed=keep, log_file=log_file, ask_keep=ask)
        deployed: Deployed = up(plan, run.context, emit=progress.draw, options=options)
    hand_off(run.output, deployed, form)


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM, which CI sends to cancel a job, end ``up`` as Ctrl-C does."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
