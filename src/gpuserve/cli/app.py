"""Registers the commands. What each does stands in a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuserve.cli import (
    batch,
    bench,
    cachecheck,
    chat,
    connect,
    cp,
    doctor,
    down,
    env,
    execute,
    extend,
    fleet,
    host,
    logs,
    models,
    plan,
    query,
    reap,
    share,
    snippet,
    status,
    up,
    wait,
)

_EPILOG = "Start with: gpuserve up --local, then gpuserve query 'hello', gpuserve down."

app = typer.Typer(
    name="gpuserve",
    help="Turns a Hugging Face model ID into a live OpenAI-compatible endpoint on a GPU sandbox.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"gpuserve {version('gpuserve')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turns a Hugging Face model ID into a live OpenAI-compatible endpoint on a GPU sandbox."""


_MODULES = (
    *(up, wait, query, chat, batch, bench, cachecheck, connect, env, snippet, logs, status, share, extend),
    *(execute, cp, down, reap, plan, models, doctor),
)
for module in _MODULES:
    module.register(app)
app.add_typer(fleet.app, name="fleet")
app.add_typer(host.app, name="host")
