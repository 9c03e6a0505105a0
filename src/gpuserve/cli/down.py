"""``gpuserve down``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run, command
from gpuserve.errors import GpuserveError, Interrupted, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuserve.records import Deployment
    from gpuserve.serving.context import Context
    from gpuserve.serving.down import Gone

EPILOG = (
    "Examples: gpuserve down gpt-oss-20b-7f3c · gpuserve down --all --yes · gpuserve down ci-17 --ignore-not-found. "
    "With --json: {data: [{name, sandbox_id, deleted, error, cost_per_hour, cost}]}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="down", epilog=EPILOG)(down)


def down(
    run: Run,
    which: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="One deployment or several.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is live.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="An ID that means nothing is no error.")
    ] = False,
) -> None:
    """Delete deployments and make sure that they are gone.

    A fleet's name ends the fleet at once; ``fleet down`` lets requests that are under way end first.
    """
    if bool(which) == everything:
        raise UsageError("name what to delete, or say --all", hint="gpuserve status lists what is live")
    from gpuserve.serving import down as core
    from gpuserve.serving.find import live
    from gpuserve.serving.fleet.names import fleets_among

    missing: list[str] = []
    if everything:
        chosen, errors = live(run.context)
        for error in errors:
            run.output.warn(error.message)
        _confirm(run, chosen, yes=yes)
        fleets = _fleets_here(run.context)
    else:
        fleets = fleets_among(which or [])
        rest = [one for one in which or [] if one not in fleets]
        found, missing = core.named(run.context, rest, ignore_not_found=ignore_not_found)
        fleets += [one.gateway_of for one in found if one.gateway_of]
        chosen = [one for one in found if not one.gateway_of]
    for name in missing:
        run.output.say("down", f"{name} was not there")
    if everything and not chosen:
        run.output.say("down", "nothing is live")
    if not everything:
        _tell_workers(run, [one for one in chosen if one.fleet and one.fleet not in fleets])
    ended = _end_fleets(run, fleets, or_go_on=everything)
    there = {one.sandbox_id for one in ended}
    _report(run, [*ended, *core.delete(run.context, [one for one in chosen if one.sandbox_id not in there])])


def _tell_workers(run: Run, workers: Sequence[Deployment]) -> None:
    """What follows for the fleets that these are workers of."""
    from gpuserve.serving.fleet.record import load

    for one in workers:
        record = load(one.fleet)
        again = "" if record is None or record.keep is None else f"; {one.fleet} starts another in its place"
        run.output.warn(
            f"{one.name} is a worker of {one.fleet}, and what it is asked is cut off: "
            f"gpuserve fleet remove lets that end first{again}"
        )


def _fleets_here(context: Context) -> list[str]:
    """The fleets whose gateway runs here: unless these end, their keepers would replace what is deleted."""
    from gpuserve.serving.fleet.record import known

    return [one.name for one in known() if not context.only_local or one.place == "local"]


def _end_fleets(run: Run, names: Sequence[str], *, or_go_on: bool) -> list[Gone]:
    """Ends fleets at once. ``or_go_on``: what one leaves is among those that are deleted next, and reported."""
    from gpuserve.serving.fleet import daemon
    from gpuserve.serving.fleet.change import down as end_fleet

    ended: list[Gone] = []
    for name in names:
        try:
            ended += end_fleet(run.context, name, emit=lambda _, __: None, drain=0).went
        except GpuserveError as error:
            if not or_go_on:
                raise
            run.output.warn(f"{name}: {error.message}")
            daemon.stop(name)  # or it would replace them
        else:
            run.output.say("fleet", f"{name} is gone")
    return ended


def _confirm(run: Run, chosen: list[Deployment], *, yes: bool) -> None:
    if yes or not chosen:
        return
    names = ", ".join(one.name for one in chosen)
    if not sys.stdin.isatty():
        raise UsageError(f"this would delete {names}", hint="say so with --yes")
    run.output.raw(f"Delete {names}? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Interrupted("nothing was deleted")


def _report(run: Run, results: list[Gone]) -> None:
    run.output.data([outcome(one) for one in results])
    tell(run, results)


def outcome(one: Gone) -> dict[str, object]:
    """What became of one deployment, as ``--json`` prints it."""
    from gpuserve.serving.cost import UNKNOWN

    return {
        "name": one.name,
        "sandbox_id": one.sandbox_id,
        "deleted": one.error is None,
        "error": None if one.error is None else one.error.as_dict(),
        **(UNKNOWN if one.cost is None else one.cost.as_dict()),
    }


def tell(run: Run, results: Sequence[Gone]) -> None:
    """Says what became of each; raises the first error, once all are told."""
    for one in results:
        if one.error is None:
            cost = "" if one.cost is None or one.cost.so_far is None else f"; it cost {one.cost.so_far:.2f}"
            gone = f"{one.name} deleted, it is gone{cost}" if one.existed else f"{one.name} was gone already"
            run.output.say("down", gone)
        else:
            run.output.warn(f"{one.name}: {one.error.message}")
    failed = [one.error for one in results if one.error is not None]
    if failed:
        raise failed[0]
