"""``gpuserve wait``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuserve.cli.command import Id, Run, command
from gpuserve.durations import format_duration

EPILOG = (
    "Examples: gpuserve up --no-wait --name ci-17 … && gpuserve wait ci-17 --timeout 10m. "
    'With --json: one line {"event": …} for what its log tells, then {"data": {name, sandbox_id, ready, endpoint, '
    "seconds}}. Exit status 9: it died; 10: not in time; 4: it is gone."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="wait", epilog=EPILOG)(wait)


def wait(
    run: Run,
    which: Id = None,
    timeout: Annotated[str, typer.Option(help="Give up after this long.")] = "15m",
) -> None:
    """Wait until a deployment answers. Changes nothing: one that fails is left as it is.

    Of a fleet: until its gateway sends requests to each of its workers.

    Reading the log of one that isn't ready counts as use where `up` was given --idle.
    """
    from gpuserve.cli.progress import Progress
    from gpuserve.durations import parse_duration
    from gpuserve.serving.fleet.ready import wait_for

    seconds = parse_duration(timeout)
    with Progress(run.output, log_on_terminal=run.output.verbose) as progress:
        done = wait_for(run.context, which, timeout=seconds, emit=progress.draw)
    run.output.data(
        {
            "name": done.deployment.name,
            "sandbox_id": done.deployment.sandbox_id,
            "ready": True,
            "endpoint": done.endpoint.url,
            "seconds": round(done.seconds, 3),
        }
    )
    run.output.say("ready", f"{done.deployment.name} answers, after {format_duration(done.seconds)}")
