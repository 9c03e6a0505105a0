"""``gpuserve snippet``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Id, Run, command

if TYPE_CHECKING:
    from gpuserve.serving.snippet import Snippet

EPILOG = (
    "Examples: gpuserve snippet --for openai · gpuserve snippet --for curl | sh · "
    'gpuserve snippet --for llm --connect 8000 >> "$(dirname "$(llm logs path)")/extra-openai-models.yaml". '
    "With --json: {data: {client, name, text, file, variables}}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="snippet", epilog=EPILOG)(snippet)


def snippet(
    run: Run,
    which: Id = None,
    client: Annotated[str, typer.Option("--for", help="curl, openai, litellm, langchain, llm or opencode.")] = "openai",
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Write the credentials into it instead of reading them from variables.")
    ] = False,
    connect: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, metavar="PORT", help="Go through gpuserve connect on this port: no credentials at all."
        ),
    ] = None,
) -> None:
    """Print a few lines that make a client talk to a deployment, ready to paste.

    They read the address and what is secret from the variables that gpuserve env sets.
    """
    from gpuserve.errors import UsageError
    from gpuserve.serving.reach import local_endpoint, reach
    from gpuserve.serving.snippet import make_snippet

    if reveal and connect is not None:
        raise UsageError("--reveal and --connect don't go together", hint="through connect there is nothing to reveal")
    deployment, endpoint, _ = reach(run.context, which)
    if connect is not None:
        made = make_snippet(client, local_endpoint(connect, deployment), reveal=True)
    else:
        made = make_snippet(client, endpoint, reveal=reveal)
    run.output.data(
        {
            "client": made.client,
            "name": deployment.name,
            "text": made.text,
            "file": made.file or None,
            "variables": list(made.variables),
        }
    )
    run.output.result(made.text)
    _explain(run, made, deployment.name, connect)


def _explain(run: Run, made: Snippet, name: str, connect: int | None) -> None:
    quoted = shlex.quote(name)
    if made.file:
        run.output.say("file", made.file)
    if made.variables:
        run.output.say("first", f'eval "$(gpuserve env {quoted})"')
    if connect is not None:
        run.output.say("first", f"gpuserve connect {quoted} --port {connect}")
