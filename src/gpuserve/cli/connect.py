"""``gpuserve connect``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from gpuserve.cli.command import Id, Run, command
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.serving.connect import Connected

EPILOG = (
    "Examples: gpuserve connect · gpuserve connect gpt-oss-20b-7f3c --port 0 --json · "
    "gpuserve connect -- python agent.py. "
    "It serves until Ctrl-C, which is its regular end: exit status 0. With a command it ends when that does, with its "
    "exit status, and sets OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL, and ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY "
    "and ANTHROPIC_MODEL where the engine speaks that too. "
    "With --json: {data: {name, sandbox_id, served_model, url, base_url, needs_key}}, once it listens."
)


class _WithCommand(TyperCommand):
    """A command line whose words after ``--`` are another command, however many words stand before."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        rest: list[str] = super().parse_args(ctx, args[:at])
        if ctx.params["program"]:
            raise UsageError(f"unexpected argument {ctx.params['program'][0]!r}", hint="gpuserve connect ID -- COMMAND")
        if args[at:] == ["--"]:
            raise UsageError("no command after --", hint="gpuserve connect ID -- COMMAND")
        ctx.params["program"] = args[at + 1 :]
        return rest


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="connect", epilog=EPILOG, cls=_WithCommand)(connect)


def connect(
    run: Run,
    which: Id = None,
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND]", help="After --: a command to run with the address in its environment."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.", show_default="8000, a free one for COMMAND"
        ),
    ] = None,
    via: Annotated[
        str,
        typer.Option(help="token: the sandbox's own, asks nothing twice. signed: a URL for the one port, renewed."),
    ] = "token",
    key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Serve only who shows the key in this variable as API key.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a deployment reachable at a plain local address, for any OpenAI client.

    The proxy adds the credentials and renews them. Whoever can open a connection on this machine can use the model,
    unless --key-env names a key or a command is given, which gets a key of its own.
    """
    if via not in ("token", "signed"):
        raise UsageError(f"--via can't be {via!r}", hint="token or signed")
    if program and run.output.as_json:
        raise UsageError("--json and a command don't go together: stdout is the command's", hint="leave out --json")
    key = _key(key_env)
    from gpuserve.serving.connect import Wish, connect, connect_command

    if program:
        wish = Wish(port=port or 0, signed=via == "signed", key=key)
        status = connect_command(run.context, which, wish, program, emit=lambda at: _say(run, at))
        raise typer.Exit(status)
    wish = Wish(port=8000 if port is None else port, signed=via == "signed", key=key)
    connect(run.context, which, wish, emit=lambda at: _tell(run, at))
    run.output.say("ended", "the proxy is closed; the deployment lives on")


def _key(name: str | None) -> str:
    if name is None:
        return ""
    value = os.environ.get(name, "")
    if not value.strip():
        raise UsageError(f"${name} holds no key", hint=f"export {name} first: clients then show it as their API key")
    return value


def _tell(run: Run, at: Connected) -> None:
    """For a script on stdout, for a person on stderr."""
    run.output.data(
        {
            "name": at.deployment.name,
            "sandbox_id": at.deployment.sandbox_id,
            "served_model": at.deployment.served_model,
            "url": at.url,
            "base_url": at.base_url,
            "needs_key": at.needs_key,
        }
    )
    run.output.result(at.base_url)
    _say(run, at)
    if not at.needs_key:
        run.output.say("access", "whoever can open a connection on this machine can use the model; any api_key will do")
    run.output.say("next", "Ctrl-C closes it")


def _say(run: Run, at: Connected) -> None:
    run.output.say("connected", f"{at.base_url} is {at.deployment.name}, serving {at.deployment.served_model}")
