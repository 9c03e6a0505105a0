"""``gpuserve reap``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run, command
from gpuserve.durations import format_duration
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.serving.reap import Orphan

EPILOG = (
    "Examples: gpuserve reap · gpuserve reap --yes · gpuserve reap --older-than 12h --yes. "
    "With --json: {data: [{name, sandbox_id, place, state, age_seconds, reason, deleted, error, …}]}; "
    "deleted is false without --yes."
)
COLUMNS = ("NAME", "STATE", "AGE", "REASON")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="reap", epilog=EPILOG)(reap)


def reap(
    run: Run,
    older_than: Annotated[
        str | None, typer.Option(help="Also what is older than this (24h, for what has no deadline).")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete what is listed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list it: so without --yes, too.")] = False,
) -> None:
    """List what nobody owns any more, and delete it with --yes. Sandboxes of others are never touched.

    That is: failed or stopped sandboxes, those past their deadline, or without one and older than 24 hours, those
    in which no engine was started within 15 minutes, and those that nobody used for longer than their --idle, by
    the engine's own counters as status and reap saw them here. With --older-than: whatever is older than that.
    """
    from gpuserve.cli.down import outcome, tell
    from gpuserve.durations import parse_duration
    from gpuserve.serving import reap as core
    from gpuserve.serving.down import delete

    if yes and dry_run:
        raise UsageError("--yes and --dry-run don't go together", hint="gpuserve reap --yes deletes")
    found, errors = core.orphans(run.context, None if older_than is None else parse_duration(older_than))
    for error in errors:
        run.output.warn(error.message)
    gone = {one.sandbox_id: one for one in delete(run.context, [one.deployment for one in found])} if yes else {}
    untouched = {"deleted": False, "error": None, "cost_per_hour": None, "cost": None}
    run.output.data(
        [described(one) | (outcome(gone[one.deployment.sandbox_id]) if yes else untouched) for one in found]
    )
    _show(run, found, yes=yes)
    tell(run, list(gone.values()))


def described(one: Orphan) -> dict[str, object]:
    """One orphan as ``--json`` prints it."""
    age = one.deployment.age()
    return {
        "name": one.deployment.name,
        "sandbox_id": one.deployment.sandbox_id,
        "place": one.deployment.place,
        "state": one.deployment.state,
        "age_seconds": None if age is None else int(age),
        "reason": one.reason,
    }


def _show(run: Run, found: list[Orphan], *, yes: bool) -> None:
    if run.output.as_json:
        return
    if not found:
        run.output.say("reap", "nothing to delete")
        return
    now = datetime.now(UTC)
    rows = [
        (one.deployment.name, one.deployment.state, format_duration(one.deployment.age(now) or 0.0), one.reason)
        for one in found
    ]
    run.output.table(COLUMNS, rows)
    if not yes:
        run.output.say("reap", "nothing was deleted: gpuserve reap --yes deletes these")
