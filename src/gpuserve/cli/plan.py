"""``gpuserve plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuserve.cli.asked import Asked
from gpuserve.cli.command import Run, command
from gpuserve.cli.up import show_plan

EPILOG = (
    "Examples: gpuserve plan openai/gpt-oss-120b --engine sglang · gpuserve plan Qwen/Qwen3-8B --gpu RTX-4090. "
    "With --json: {data: {command, image, gpus, fit, notes, …}}, as up --dry-run --json."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="plan", epilog=EPILOG)(plan)


def plan(
    run: Run,
    model: Annotated[str, typer.Argument(help="Hugging Face model ID.")],
    engine: Annotated[str | None, typer.Option("--engine", "-e", help="vllm, sglang, llamacpp or a plug-in.")] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU types in order of preference, or none.")] = None,
    gpu_count: Annotated[int | None, typer.Option(help="GPUs per sandbox (1).")] = None,
    image: Annotated[str | None, typer.Option(help="Container image instead of the engine's own.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    engine_arg: Annotated[list[str] | None, typer.Option(help="One engine flag, as --engine-arg=--flag=value.")] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Ask the Hub and the platform.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Plan it even if it can't work.")] = False,
) -> None:
    """Show what `up` would do for a model, with the reasons. Creates nothing.

    The same as `gpuserve up --model MODEL --dry-run`, which takes all other flags, too.
    """
    asked = Asked(
        model=model,
        engine=engine,
        gpu=gpu,
        gpu_count=gpu_count,
        image=image,
        revision=revision,
        engine_arg=engine_arg,
        check=check,
        force=force,
    )
    show_plan(run, asked)
