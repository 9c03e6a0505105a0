"""``gpuserve extend``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuserve.cli.command import Run, command
from gpuserve.durations import format_duration

EPILOG = (
    "Examples: gpuserve extend gpt-oss-20b-7f3c 1h · gpuserve extend ci-17 none. "
    "A fleet's name means all its workers, and its gateway's sandbox. "
    "With --json: {data: {name, expires_at, seconds_left}}, both null without a deadline."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="extend", epilog=EPILOG)(extend)


def extend(
    run: Run,
    which: Annotated[str, typer.Argument(metavar="ID", help="Name, sandbox ID or a unique prefix.")],
    time: Annotated[str, typer.Argument(metavar="TIME", help="From now, such as 1h; none: it is never deleted.")],
) -> None:
    """Move the moment at which a deployment is deleted to TIME from now, sooner or later than before.

    The platform counts in minutes, rounded up; the deadline printed is the one that it then tells.
    """
    from gpuserve.serving import extend as core

    seconds = core.parse_limit(time)
    name, changed = core.extend_named(run.context, which, seconds)
    left = changed.time_left()
    run.output.data(
        {
            "name": name,
            "expires_at": None if changed.expires_at is None else changed.expires_at.isoformat(),
            "seconds_left": None if left is None else int(left),
        }
    )
    if changed.expires_at is None or left is None:
        run.output.warn(f"nothing deletes {name} now: it runs until gpuserve down {name}")
        return
    run.output.result(changed.expires_at.isoformat())
    run.output.say("extend", f"{name} is deleted in {format_duration(left)}")
