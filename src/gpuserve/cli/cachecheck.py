"""``gpuserve cache-check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Id, Run, command

if TYPE_CHECKING:
    from gpuserve.client.cacheprobe import CacheReport, Pair, Shot
    from gpuserve.records import Deployment

EPILOG = (
    "Examples: gpuserve cache-check · gpuserve cache-check gpt-oss-20b-7f3c --pairs 5 --tokens 4000 --json. "
    "The exit status says nothing of what is found. With --json: {data: {name, works, speedup, verdict, pairs, …}}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="cache-check", epilog=EPILOG)(cache_check)


def cache_check(
    run: Run,
    which: Id = None,
    pairs: Annotated[int, typer.Option(help="How many prompts, each asked twice.")] = 3,
    tokens: Annotated[int, typer.Option(help="Length of a prompt in tokens, about.")] = 960,
) -> None:
    """Measure what the prefix cache saves.

    Asks a long prompt that was never asked before, then the same again, and compares cached tokens and the time to the
    first token.
    """
    from gpuserve.serving.cachecheck import cache_check as check

    count = 0

    def draw(pair: Pair) -> None:
        nonlocal count
        count += 1
        run.output.say(f"pair {count}", f"cold {_shot(pair.cold)} · warm {_shot(pair.warm)}")

    deployment, report = check(run.context, which, pairs=pairs, tokens=tokens, emit=draw)
    run.output.data(_dict(deployment, report))
    run.output.result(report.verdict)


def _shot(shot: Shot) -> str:
    cached = "" if shot.cached_tokens is None else f", {shot.cached_tokens}/{shot.prompt_tokens} cached"
    return f"{shot.ttft:.3f} s{cached}"


def _dict(deployment: Deployment, report: CacheReport) -> dict[str, object]:
    return {
        "name": deployment.name,
        "engine": deployment.engine,
        "model": deployment.model,
        "works": report.works,
        "speedup": report.speedup,
        "verdict": report.verdict,
        "pairs": [{"cold": _shot_dict(pair.cold), "warm": _shot_dict(pair.warm)} for pair in report.pairs],
    }


def _shot_dict(shot: Shot) -> dict[str, object]:
    return {
        "ttft_seconds": shot.ttft,
        "total_seconds": shot.total,
        "prompt_tokens": shot.prompt_tokens,
        "cached_tokens": shot.cached_tokens,
    }
