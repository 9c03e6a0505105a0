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

    By the way in that up was told. A token opens the whole sandbox: it is for you, and gpuserve share for others.
    """
    from gpuserve.access import as_dict
    from gpuserve.cli.handoff import check_format, print_endpoint
    from gpuserve.serving.reach import reach
    from gpuserve.serving.share import hand_out

    check_format(form)
    deployment, known, _ = reach(run.context, which)
    endpoint, until = hand_out(run.context, deployment, known)
    more = {"shared_until": None if until is None else until.isoformat()}
    run.output.data({**as_dict(endpoint, deployment), **more})
    print_endpoint(run.output, endpoint, deployment, form)
