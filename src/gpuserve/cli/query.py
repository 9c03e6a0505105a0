"""``gpuserve query``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.answer import AnswerOptions, finish, read_images
from gpuserve.cli.command import Run, command
from gpuserve.cli.output import Output, plain
from gpuserve.cli.tooling import NO_TOOLS, ToolOptions, converse, tool_fields
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.client.chat import ChatRequest
    from gpuserve.client.constraints import Constraint
    from gpuserve.client.reply import ChatEvent
    from gpuserve.records import Deployment

EPILOG = (
    "Examples: gpuserve query 'Write a haiku' · cat report.txt | gpuserve query 'Summarise this:' · "
    "gpuserve query --id gpt-oss-20b-7f3c --stats 'hello' · gpuserve query --choice yes,no 'Is 7 prime?' · "
    "gpuserve query --schema invoice.json --image scan.png 'Read this invoice' · "
    "gpuserve query --tool weather:get_weather 'Do I need a coat in Oslo?' · "
    "gpuserve query --tools sandbox 'The 100th prime?'. "
    "With --json: {data: {content, parsed, reasoning, finish_reason, usage, timing, …}}, with tools also "
    "{rounds, capped, tool_results, transcript}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="query", epilog=EPILOG)(query)


@dataclass(frozen=True, slots=True)
class Options(AnswerOptions):
    """What ``query`` takes."""

    prompt: Annotated[
        str | None, typer.Argument(help="The question; what comes through a pipe is added to it.", show_default=False)
    ] = None
    which: Annotated[
        str | None,
        typer.Option("--id", help="Deployment, FLEET or FLEET/MODEL; may be left out if only one is live."),
    ] = None
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None
    image: Annotated[list[str] | None, typer.Option(help="File or address of an image; may be given again.")] = None
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to generate.")] = None
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Sampling temperature.")] = None
    reasoning_effort: Annotated[str | None, typer.Option(help="none, low, medium or high.")] = None
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print the answer as it comes.")] = True
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as bare text, without chat template.")] = False
    stats: Annotated[bool, typer.Option("--stats", help="Say times and tokens at the end.")] = False


def query(run: Run, options: Options, tooling: ToolOptions = NO_TOOLS) -> None:
    """Ask a model one question and print its answer.

    The answer goes to stdout, the reasoning, dimmed, to stderr. An answer that shall have a form is printed once it is
    whole and has it; else stdout stays empty and the exit status is 15. With tools the model may call them before it
    answers.
    """
    constraint = options.constraint()
    images = read_images(options.image)
    if options.raw and (images or options.system or options.reasoning_effort):
        raise UsageError("--raw is bare text: no --system, no --image, no --reasoning-effort", hint="leave one out")
    text = _prompt(options.prompt)
    from gpuserve.serving.ask import question

    screen = Screen(run.output, hold=constraint is not None)
    build = _builder(run, options, text, images, constraint)
    more: dict[str, object] = {}
    try:
        if tooling.wanted:
            ended = converse(run, tooling, options.which, build, screen.draw)
            reply, more = ended.reply, tool_fields(ended)
        else:
            reply = question(run.context, options.which, build, emit=screen.draw)
    finally:
        screen.close()
    finish(run.output, reply, constraint, stats=options.stats, more=more)


def _builder(
    run: Run, options: Options, text: str, images: tuple[str, ...], constraint: Constraint | None
) -> Callable[[Deployment], ChatRequest]:
    """What makes the request, once it is known which engine and model it is for."""
    from gpuserve.client.chat import ChatRequest
    from gpuserve.serving.ask import check_vision, constraint_body, text_request
    from gpuserve.serving.reasoning import effort_for, opens_thinking

    said: set[str] = set()

    def build(deployment: Deployment) -> ChatRequest:
        return raw(deployment) if options.raw else chat(deployment)

    def raw(deployment: Deployment) -> ChatRequest:
        route, extra = text_request(deployment.engine, constraint)
        return ChatRequest(
            prompt=text,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            stream=options.stream,
            route=route,
            extra=extra,
        )

    def chat(deployment: Deployment) -> ChatRequest:
        effort = effort_for(deployment.engine, deployment.model, options.reasoning_effort)
        if effort.note and effort.note not in said:
            said.add(effort.note)
            run.output.say("reasoning", effort.note)
        if images:
            check_vision(deployment.model)
        return ChatRequest(
            prompt=text,
            system=options.system or "",
            images=images,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            stream=options.stream,
            thinks=constraint is None and opens_thinking(deployment.model),
            extra={**effort.body, **constraint_body(deployment.engine, constraint)},
        )

    return build


def _prompt(argument: str | None) -> str:
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _read_pipe(wanted=argument is None)
    if argument == "-":
        argument = None
    text = "\n\n".join(part for part in (argument, piped.strip("\n")) if part)
    if not text.strip():
        raise UsageError("no question", hint="gpuserve query 'Write a haiku'")
    return text


def _read_pipe(*, wanted: bool) -> str:
    """What stdin holds. With a question on the command line, a stdin that nobody writes to must not block."""
    import select

    if not wanted:
        try:
            ready, _, _ = select.select([sys.stdin], [], [], 0)
        except (OSError, ValueError):
            return ""
        if not ready:
            return ""
    try:
        return sys.stdin.read()
    except (OSError, ValueError):
        return ""
    except UnicodeDecodeError as error:
        raise UsageError("stdin is not UTF-8 text", hint="pipe text in") from error


class Screen:
    """Writes an answer as it comes: content to stdout, reasoning dimmed to stderr; nothing in JSON mode.

    ``hold`` keeps the content back, for what must be checked before it is printed.
    """

    def __init__(self, output: Output, *, hold: bool = False) -> None:
        self._output = output
        self._hold = hold
        self._dim = sys.stderr.isatty() and not _no_color()
        self._safe = plain if sys.stdout.isatty() else str
        self._reasoned = False
        self._wrote = False

    def draw(self, event: ChatEvent) -> None:
        """Shows one piece."""
        from gpuserve.client.reply import ContentDelta, ReasoningDelta

        if self._output.as_json:
            return
        if isinstance(event, ReasoningDelta) and not self._output.quiet:
            self._reasoned = True
            text = plain(event.text)
            self._output.raw(f"\x1b[2m{text}\x1b[0m" if self._dim else text)
        elif isinstance(event, ContentDelta):
            self._end_reasoning()
            if self._hold:
                return
            self._wrote = True
            self._output.write(self._safe(event.text))

    def _end_reasoning(self) -> None:
        if self._reasoned:
            self._output.raw("\n")
            self._reasoned = False

    def close(self) -> None:
        """Ends the last line, of whichever stream was written to."""
        self._end_reasoning()
        if self._wrote:
            self._output.write("\n")
            self._wrote = False


def _no_color() -> bool:
    import os

    return bool(os.environ.get("NO_COLOR"))
