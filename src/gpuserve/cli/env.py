"""``gpuserve env``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuserve.cli.command import Id, Run, command

EPILOG = (
    'Examples: eval "$(gpuserve env)" · gpuserve env --format dotenv > .env · gpuserve env --format fish | source. '
    "With --json: {data: {id, name, endpoint, base_url, token, headers, api_key, …}}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="env", epilog=EPILOG)(env)


def env(
    run: Run,
    which: Id = None,
    form: Annotated[str, typer.Option("--format", help="env, dotenv, fish, github, json, url or id.")] = "env",
) -> None:
    """Print a live deployment's address and credentials for a shell or a file, as up does.

    The token opens the whole sandbox: what is printed is for you, and gpuserve share for others.
    """
    from gpuserve.access import as_dict
    from gpuserve.cli.handoff import check_format, print_endpoint
    from gpuserve.serving.reach import reach

    check_format(form)
    deployment, endpoint, _ = reach(run.context, which)
    run.output.data(as_dict(endpoint, deployment))
    print_endpoint(run.output, endpoint, deployment, form)
