"""``gpuserve logs``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuserve.cli.command import Id, Run, command
from gpuserve.cli.output import shown_path
from gpuserve.errors import Interrupted

EPILOG = (
    "Examples: gpuserve logs --tail 50 · gpuserve logs -f gpt-oss-20b-7f3c · gpuserve logs --since 10m. "
    "With --json: {data: {name, log, source}}; with -f one line {log} for each piece."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="logs", epilog=EPILOG)(logs)


def logs(
    run: Run,
    which: Id = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the engine ends.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="The last lines only.")] = None,
    since: Annotated[str | None, typer.Option(help="Lines of the last 10m, 2h, …")] = None,
) -> None:
    """Print an engine's log.

    A deployment that is gone still has the copy that was saved on this machine while it started.
    """
    from gpuserve.durations import parse_duration
    from gpuserve.serving import logs as core

    seconds = None if since is None else parse_duration(since)

    def choose(text: str) -> str:
        return core.last_lines(text if seconds is None else core.since(text, seconds), tail)

    if follow:
        _follow(run, which, choose)
        return
    text, source = core.read(run.context, which)
    chosen = choose(text)
    run.output.data({"name": which, "log": chosen, "source": source or "platform"})
    if source:
        run.output.say("log", f"the deployment is gone; this is the copy in {shown_path(source)}")
    if not run.output.as_json:
        run.output.write(chosen)


def _follow(run: Run, which: str | None, choose: object) -> None:
    from gpuserve.serving import logs as core

    def write(text: str) -> None:
        if text and run.output.as_json:
            run.output.line({"log": text})
        elif text:
            run.output.write(text)

    assert callable(choose)
    try:
        code = core.follow(run.context, which, write, skip=choose)
    except KeyboardInterrupt:
        raise Interrupted("stopped following; the engine goes on") from None
    ended = "its sandbox is gone" if code is None else f"the engine ended with exit code {code}"
    run.output.data({"ended": True, "exit_code": code})
    run.output.say("log", ended)
