"""``gpuserve query``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run, command
from gpuserve.cli.output import Output, plain
from gpuserve.errors import EngineError, UsageError

if TYPE_CHECKING:
    from gpuserve.client.reply import ChatEvent, ChatReply
    from gpuserve.records import Deployment

EPILOG = (
    "Examples: gpuserve query 'Write a haiku' · cat report.txt | gpuserve query 'Summarise this:' · "
    "gpuserve query --id gpt-oss-20b-7f3c --stats 'hello'. "
    "With --json: {data: {content, reasoning, finish_reason, usage, timing, …}}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="query", epilog=EPILOG)(query)


def query(
    run: Run,
    prompt: Annotated[
        str | None, typer.Argument(help="The question; what comes through a pipe is added to it.", show_default=False)
    ] = None,
    which: Annotated[str | None, typer.Option("--id", help="Deployment; may be left out if only one is live.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Sampling temperature.")] = None,
    reasoning_effort: Annotated[str | None, typer.Option(help="none, low, medium or high.")] = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print the answer as it comes.")] = True,
    stats: Annotated[bool, typer.Option("--stats", help="Say times and tokens at the end.")] = False,
) -> None:
    """Ask a model one question and print its answer.

    The answer goes to stdout, the reasoning, dimmed, to stderr.
    """
    text = _prompt(prompt)
    from gpuserve.client.chat import ChatRequest
    from gpuserve.serving.ask import question, reasoning_body

    def build(deployment: Deployment) -> ChatRequest:
        return ChatRequest(
            prompt=text,
            system=system or "",
            max_tokens=max_tokens,
            temperature=temperature,
            stream=stream,
            extra=reasoning_body(deployment.engine, reasoning_effort),
        )

    screen = Screen(run.output)
    try:
        reply = question(run.context, which, build, emit=screen.draw)
    finally:
        screen.close()
    run.output.data(reply_dict(reply))
    if stats:
        run.output.say("stats", stats_line(reply))
    if reply.truncated_by_reasoning:
        raise EngineError("the model used up --max-tokens on reasoning and gave no answer", hint="raise --max-tokens")


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
    """Writes an answer as it comes: content to stdout, reasoning dimmed to stderr; nothing in JSON mode."""

    def __init__(self, output: Output) -> None:
        self._output = output
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


def stats_line(reply: ChatReply) -> str:
    """Times and tokens of one answer, for a person."""
    parts = []
    if reply.timing.ttft is not None:
        parts.append(f"TTFT {reply.timing.ttft:.2f} s")
    if reply.timing.tokens_per_second is not None:
        parts.append(f"{reply.timing.tokens_per_second:.1f} tokens/s")
    if usage := reply.usage:
        cached = "" if usage.cached_tokens is None else f" ({usage.cached_tokens} cached)"
        parts.append(f"{usage.prompt_tokens}{cached} in, {usage.completion_tokens} out")
    parts.append(f"{reply.timing.total:.2f} s in all")
    return ", ".join(parts)


def reply_dict(reply: ChatReply) -> dict[str, object]:
    """An answer as ``--json`` prints it; times in seconds."""
    usage, timing = reply.usage, reply.timing
    return {
        "content": reply.content,
        "reasoning": reply.reasoning,
        "tool_calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in reply.tool_calls],
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "id": reply.id,
        "usage": usage
        and {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "timing": {
            "ttft_seconds": timing.ttft,
            "total_seconds": timing.total,
            "tokens_per_second": timing.tokens_per_second,
        },
    }
