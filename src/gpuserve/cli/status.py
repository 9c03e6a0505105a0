"""``gpuserve status``."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Id, Run, command
from gpuserve.durations import format_duration
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.serving.status import Report

EPILOG = (
    "Examples: gpuserve status · gpuserve status gpt-oss-20b-7f3c · gpuserve status --watch · "
    'gpuserve status --url "$ENDPOINT" --token-from TOKEN. '
    "With --json: {data: [{name, state, health, gpu, age_seconds, seconds_left, cost, idle_since, access, who, …}]}, "
    "one object with an ID, {url, works, models} with --url. "
    "COST needs prices of your own: GPUSERVE_PRICES=H100=3.95. Looking doesn't count as use."
)
COLUMNS = (
    "NAME",
    "STATE",
    "HEALTH",
    "MODEL",
    "ENGINE",
    "GPU",
    "AGE",
    "LEFT",
    "COST",
    "RUN/WAIT",
    "KV",
    "ACCESS",
    "ENDPOINT",
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="status", epilog=EPILOG)(status)


def status(
    run: Run,
    which: Id = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again until Ctrl-C.")] = False,
    every: Annotated[str, typer.Option(help="How often --watch looks.")] = "2s",
    url: Annotated[str | None, typer.Option(help="Try this URL instead: does it lead in, and if not, why?")] = None,
    token_from: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="With --url: where the preview token is, such as TOKEN.")
    ] = None,
    key_from: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="With --url: where the engine's key is, such as API_KEY.")
    ] = None,
) -> None:
    """Show what is live, how it is doing, and who can reach it."""
    from gpuserve.durations import parse_duration

    if url is not None:
        if which is not None or watch:
            raise UsageError("--url goes with neither an ID nor --watch", hint='gpuserve status --url "$ENDPOINT"')
        _try(run, url, _variable(token_from), _variable(key_from))
        return
    if token_from is not None or key_from is not None:
        raise UsageError("--token-from and --key-from go with --url", hint='gpuserve status --url "$ENDPOINT"')

    pause = max(1, parse_duration(every))
    if not watch:
        _once(run, which)
        return
    try:
        while True:
            if run.output.lively:
                run.output.write("\x1b[H\x1b[2J")
            _once(run, which)
            time.sleep(pause)
    except KeyboardInterrupt:
        return


def _variable(name: str | None) -> str:
    """The value of an environment variable; a secret isn't given as an argument."""
    if name is None:
        return ""
    if not os.environ.get(name):
        raise UsageError(f"the variable {name} isn't set", hint=f"export {name}=…, or leave it out")
    return os.environ[name]


def _try(run: Run, url: str, token: str, key: str) -> None:
    from gpuserve.serving.links import check
    from gpuserve.state import Cache

    way = check(Cache(), url, token=token, api_key=key)
    run.output.data(way.as_dict())
    models = f", which serves {', '.join(way.models)}" if way.models else ""
    run.output.result(f"{way.url} leads to a live engine{models}")


def _once(run: Run, which: str | None) -> None:
    from gpuserve.cli.fleetlook import show_status
    from gpuserve.serving import status as core
    from gpuserve.serving.fleet.names import meant

    if which is not None and meant(run.context, which) is not None:
        show_status(run, which)
        return
    if which is not None:
        report = core.inspect(run.context, which)
        if report.deployment.gateway_of:
            show_status(run, report.deployment.gateway_of)
            return
        run.output.data(report.as_dict())
        _warn(run, report)
        if not run.output.as_json:
            run.output.result("\n".join(f"{label:<12}{value}" for label, value in details(report)))
        return
    reports, errors = core.survey(run.context)
    for error in errors:
        run.output.warn(error.message)
    run.output.data([report.as_dict() for report in reports])
    for report in reports:
        _warn(run, report)
    if run.output.as_json:
        return
    if not reports:
        run.output.say("status", "nothing is live: gpuserve up --local, or gpuserve up --model openai/gpt-oss-20b")
        return
    run.output.table(COLUMNS, [row(report) for report in reports])
    fleets = sorted({one.deployment.fleet or one.deployment.gateway_of for one in reports} - {""})
    if fleets:
        run.output.say("fleets", f"{', '.join(fleets)}, with what belongs to them: gpuserve fleet status")


def _warn(run: Run, report: Report) -> None:
    if report.warning:
        run.output.warn(report.warning)


def row(report: Report) -> tuple[str, ...]:
    """One line of the table."""
    one, load = report.deployment, report.load
    return (
        one.name,
        one.state,
        report.health or "-",
        one.model,
        one.engine,
        one.gpu or "-",
        _duration(one.age(report.moment)),
        "no limit" if one.expires_at is None else _duration(one.time_left(report.moment)),
        "-" if report.cost is None or report.cost.so_far is None else f"{report.cost.so_far:.2f}",
        "-" if load is None else f"{_number(load.running)}/{_number(load.waiting)}",
        "-" if load is None or load.kv_usage is None else f"{load.kv_usage:.0%}",
        _access(report),
        report.url or "-",
    )


def details(report: Report) -> list[tuple[str, str]]:
    """The view of one deployment: what it is, where it answers, who can reach it."""
    one = report.deployment
    shown = [
        (column if column in ("GPU", "KV") else column.capitalize(), value)
        for column, value in zip(COLUMNS, row(report), strict=True)
    ]
    shown += [("Sandbox", one.sandbox_id), ("Place", one.place), ("Image", one.image), ("Port", str(one.port))]
    if one.expires_at is not None:
        shown.append(("Deleted at", one.expires_at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")))
    if report.cost is not None:
        shown.append(("Per hour", f"{report.cost.per_hour:.2f}"))
    if report.idle_seconds is not None:
        shown.append(("Idle", f"for at least {format_duration(report.idle_seconds)}, by the engine's own counters"))
    if report.idle_limit is not None:
        shown.append(
            ("Idle limit", f"{format_duration(report.idle_limit)} without a request, then the platform deletes it")
        )
    if report.detail or one.error:
        shown.append(("Detail", report.detail or one.error))
    return shown + [("Who", sentence) for sentence in report.who]


def _access(report: Report) -> str:
    """The way in, and how many signed URLs from this machine still work."""
    links = len(report.links)
    more = f" ({links} link{'' if links == 1 else 's'})" if links else ""
    return (
        f"{report.deployment.access}{'+key' if report.deployment.keyed and not report.deployment.public else ''}{more}"
    )


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
