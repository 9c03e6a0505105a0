"""The options with which a question gets tools, and what a person and a script see of the calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.signals import terminable
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.cli.command import Run
    from gpuserve.client.reply import ChatEvent
    from gpuserve.client.tools import Conversation, Limits, Toolbox, ToolEvent
    from gpuserve.records import Deployment
    from gpuserve.sandboxes.workroom import Network
    from gpuserve.serving.line import Build
    from gpuserve.serving.tooling import RoomEvent

_PANEL = "Tools"
#: Characters of a call, or of what came of it, that a remark shows.
_SHOWN = 200


def _option(help_text: str, *names: str, metavar: str | None = None) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        *names, help=help_text, metavar=metavar, rich_help_panel=_PANEL, show_default=False
    )
    return info


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """``query``'s flags about tools, as they were typed."""

    tool: Annotated[
        list[str] | None,
        _option("A Python function that the model may call; may be repeated.", "--tool", metavar="MODULE:FUNCTION"),
    ] = None
    tools: Annotated[
        str | None,
        _option("sandbox: run_python and run_shell in a CPU sandbox of this conversation's own.", metavar="sandbox"),
    ] = None
    tool_choice: Annotated[str, _option("auto (default), required, none or a tool's name: for the first round.")] = (
        "auto"
    )
    max_rounds: Annotated[int, _option("Rounds of calls before the model must answer (10).")] = 10
    tool_timeout: Annotated[str, _option("Give up a call after this long (60s).")] = "60s"
    tool_output: Annotated[int, _option("Characters of a call's result that the model is given (16000).")] = 16_000
    tool_network: Annotated[
        str, _option("What the sandbox may reach: none (default), all, or domains and networks, comma-separated.")
    ] = "none"
    tool_ttl: Annotated[str, _option("The platform deletes the sandbox after this long, whatever happens (1h).")] = "1h"
    yes: Annotated[
        bool, _option("Let the tools' sandbox be on this machine, where the deployment is local.", "--yes", "-y")
    ] = False

    @property
    def wanted(self) -> bool:
        """Whether any tool was asked for."""
        return bool(self.tool) or self.tools is not None

    def limits(self) -> Limits:
        """The loop's limits.

        Raises:
            UsageError: one that is no limit.
        """
        from gpuserve.client.tools import Limits
        from gpuserve.durations import parse_duration

        timeout = parse_duration(self.tool_timeout)
        return Limits(rounds=self.max_rounds, timeout=timeout, output=self.tool_output)


#: No tool at all.
NO_TOOLS = ToolOptions()


def converse(
    run: Run, options: ToolOptions, which: str | None, build: Build, draw: Callable[[ChatEvent], None]
) -> Conversation:
    """Asks with tools. Everything that can be wrong with the options is found before anything is asked.

    Raises:
        UsageError: unusable options, or a function that can be no tool.
        GpuserveError: as ``serving.tooling.converse``.
    """
    from gpuserve.client.functions import FunctionTools, Toolboxes, load
    from gpuserve.durations import parse_duration
    from gpuserve.sandboxes.workroom import network
    from gpuserve.serving.line import Line
    from gpuserve.serving.tooling import Hooks
    from gpuserve.serving.tooling import converse as core

    if options.tools not in (None, "sandbox"):
        raise UsageError(f"unknown tools {options.tools!r}", hint="--tools sandbox, or --tool module:function")
    limits, ttl, net = options.limits(), parse_duration(options.tool_ttl), network(options.tool_network)
    if ttl < 60:
        raise UsageError("--tool-ttl is too short", hint="use at least 1m")
    with redirect_stdout(sys.stderr):  # stdout is the answer's, whatever a module prints
        functions = FunctionTools([load(one, Path.cwd()) for one in options.tool or ()])
    line = Line(run.context, which)
    boxes: list[Toolbox] = [functions] if options.tool else []
    if options.tools:
        boxes.append(_sandbox(run, line.deployment, net, ttl, yes=options.yes))
    hooks = Hooks(chat=draw, tools=Told(run).draw, around=_aside)
    with terminable():
        ended = core(line, build, Toolboxes(*boxes), hooks=hooks, limits=limits, choice=options.tool_choice)
    if ended.capped:
        run.output.warn(f"the model used up its {ended.rounds} rounds of calls and had to answer: --max-rounds")
    return ended


def tool_fields(ended: Conversation) -> dict[str, object]:
    """What ``query --json`` adds to the answer where there were tools."""
    return {
        "rounds": ended.rounds,
        "capped": ended.capped,
        "tool_results": [one.as_dict() for one in ended.calls],
        "transcript": [dict(one) for one in ended.messages],
    }


def _aside() -> AbstractContextManager[object]:
    return redirect_stdout(sys.stderr)


def _sandbox(run: Run, deployment: Deployment, net: Network, ttl: int, *, yes: bool) -> Toolbox:
    from gpuserve.serving.tooling import SandboxTools

    def tell(event: RoomEvent) -> None:
        run.output.say(
            "tools",
            f"sandbox {event.sandbox_id} {event.what}, {net}"
            if event.what == "created"
            else f"sandbox {event.sandbox_id} {event.what}",
        )

    if deployment.place == "local" and not yes:
        raise UsageError(
            "the local host is no security boundary: what the model writes would run as you, with your files",
            hint="say --yes if that is what you want, or serve the model on Daytona",
        )
    return SandboxTools(run.context, deployment, network=net, ttl=ttl, emit=tell)


class Told:
    """Remarks on stderr about the calls."""

    def __init__(self, run: Run) -> None:
        self._output = run.output

    def draw(self, event: ToolEvent) -> None:
        """Says that a call begins, or what came of it."""
        from gpuserve.client.tools import CallBegan

        call = event.call
        if isinstance(event, CallBegan):
            self._output.say("call", f"{call.name} {_short(call.arguments)}")
        else:
            word = "failed" if event.error else "done"
            self._output.say("result", f"{call.name} {word} in {event.seconds:.1f} s: {_short(event.result)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + " …"
