"""``gpuserve up``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gpuserve.cli.asked import Asked, keep_failed, make_plan_from
from gpuserve.cli.command import Run, command
from gpuserve.cli.consent import OPEN, agreed
from gpuserve.cli.signals import terminable

if TYPE_CHECKING:
    from gpuserve.serving.plan import Plan
    from gpuserve.serving.up import Deployed

EPILOG = (
    "Examples: gpuserve up --local · gpuserve up --engine sglang --model openai/gpt-oss-20b --ttl 2h · "
    'eval "$(gpuserve up --model Qwen/Qwen3-8B -- --max-model-len 8192)" · '
    "gpuserve up --model Qwen/Qwen3-8B --fast-boot. "
    'With --json: one line {"event": …} for each step, then {"data": {name, endpoint, base_url, token, …}}.'
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="up", epilog=EPILOG)(up)


def up(run: Run, asked: Asked) -> None:
    """Bring a model up and print its endpoint.

    Creates a GPU sandbox, starts the engine, waits until the model answers, and prints two export lines.
    """
    from gpuserve.cli.handoff import check_format

    check_format(asked.output)
    keep = keep_failed(asked.on_failure, run)
    if asked.dry_run:
        show_plan(run, asked)
        return
    plan = make_plan_from(asked, run)
    if plan.request.access == "open":
        agreed(OPEN, yes=asked.yes)
    _bring_up(run, plan, wait=asked.wait, keep=keep, log_file=asked.log_file, form=asked.output)


def show_plan(run: Run, asked: Asked) -> None:
    """Prints what would be done, and the command alone on stdout."""
    from gpuserve.cli.progress import plan_lines

    plan = make_plan_from(asked, run)
    run.output.data(plan.as_dict())
    if not run.output.as_json:
        for line in plan_lines(plan):
            run.output.say("plan", line)
        for flag, reason in plan.reasons.items():
            run.output.say("flag", f"{flag:<34}{reason}")
        run.output.result(plan.command)


def _bring_up(run: Run, plan: Plan, *, wait: bool, keep: bool, log_file: Path | None, form: str) -> None:
    from gpuserve.cli.handoff import hand_off
    from gpuserve.cli.progress import Progress
    from gpuserve.serving.up import Options, up

    run.context.sandboxes(run.context.place_for_up())
    with terminable(), Progress(run.output, log_on_terminal=run.output.verbose) as progress:
        ask = progress.ask_keep if sys.stdin.isatty() and run.output.lively else None
        options = Options(wait=wait, keep_failed=keep, log_file=log_file, ask_keep=ask)
        deployed: Deployed = up(plan, run.context, emit=progress.draw, options=options)
    hand_off(run.output, deployed, form)
