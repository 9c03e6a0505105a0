"""``gpuserve batch``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuserve.cli.command import Run, command
from gpuserve.cli.output import Output
from gpuserve.durations import format_clock, format_duration, parse_duration
from gpuserve.errors import EngineError, UsageError

if TYPE_CHECKING:
    from gpuserve.bulk.events import BatchEvent, Checked, Progress
    from gpuserve.records import Endpoint

EPILOG = (
    "Examples: gpuserve batch questions.jsonl · gpuserve batch reviews.csv -t 'Good or bad? {text}' --choice good,bad "
    "-o verdicts.jsonl · gpuserve batch lines.txt --in-sandbox. "
    "Stopped in any way, the same command goes on where it stopped. "
    "With --json: {data: {rows, answered, failed, prompt_tokens, latency, …}}, and lines {event} before it."
)
#: Seconds between two lines of progress off a terminal.
_LINE_EVERY = 10.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="batch", epilog=EPILOG)(batch)


@dataclass(kw_only=True)
class Options:
    """The options, in the order of the help."""

    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="OpenAI batch JSONL, simple JSONL, CSV, or text (a row a line); - is a pipe."
        ),
    ]
    output: Annotated[
        str, typer.Option("--output", "-o", help="Output, JSONL; by default INPUT's name, .out.jsonl.")
    ] = ""
    which: Annotated[
        str | None,
        typer.Option("--id", help="Deployment, FLEET or FLEET/MODEL; may be left out if only one is live."),
    ] = None
    url: Annotated[str, typer.Option(help="Ask this endpoint instead; its key is taken from OPENAI_API_KEY.")] = ""
    model: Annotated[str, typer.Option(help="With --url: the model's name there.")] = ""
    template: Annotated[str, typer.Option("--template", "-t", help="How to ask: 'Classify: {text}'.")] = ""
    system: Annotated[str, typer.Option("--system", "-s", help="System prompt.")] = ""
    schema: Annotated[str | None, typer.Option(help="Answers are JSON of this schema (a file, or JSON).")] = None
    choice: Annotated[str | None, typer.Option(help="Answers are one of these: yes,no.")] = None
    regex: Annotated[str | None, typer.Option(help="Answers match this regular expression.")] = None
    reasoning_effort: Annotated[str | None, typer.Option(help="none, low, medium or high.")] = None
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.")] = None
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Sampling temperature.")] = None
    keep_model: Annotated[bool, typer.Option("--keep-model", help="Send each row's own model name (adapters).")] = False
    form: Annotated[str, typer.Option("--format", help="openai, jsonl, csv, tsv or text, where the name misleads.")] = (
        ""
    )
    concurrency: Annotated[str, typer.Option("--concurrency", "-c", help="Requests in flight: a number, or auto.")] = (
        "auto"
    )
    order: Annotated[str, typer.Option(help="Send in the order of the input, or by prefix, for the cache.")] = "input"
    output_order: Annotated[str, typer.Option(help="answered (as they come) or input (sorted at the end).")] = (
        "answered"
    )
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed in an earlier run.")] = (
        False
    )
    retries: Annotated[int, typer.Option(min=0, help="How often a row is asked again (429, 5xx, reset, time-out).")] = 6
    timeout: Annotated[str, typer.Option(help="Give a request up after so long without a byte.")] = "10m"
    stream: Annotated[
        bool, typer.Option("--stream", help="Ask for streamed answers: for proxies with time limits.")
    ] = False
    in_sandbox: Annotated[
        bool, typer.Option("--in-sandbox", help="Run beside the engine; goes on when this machine goes.")
    ] = False


def batch(run: Run, options: Options) -> None:
    """Ask a model thousands of questions from a file.

    Answers are appended to the output as they come, errors too. Whatever ends it (Ctrl-C, a crash, a full disk), the
    same command goes on where it stopped. Ctrl-C waits for what is in flight; a second one doesn't.
    """
    from gpuserve.serving import batch as core

    request = core.BatchRequest(
        source=options.source,
        output=options.output,
        form=options.form,
        template=options.template,
        system=options.system,
        schema=options.schema,
        choice=options.choice,
        regex=options.regex,
        reasoning_effort=options.reasoning_effort,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        keep_model=options.keep_model,
        concurrency=core.check_concurrency(options.concurrency),
        order=options.order,
        output_order=options.output_order,
        retry_failed=options.retry_failed,
        retries=options.retries,
        timeout=parse_duration(options.timeout),
        stream=options.stream,
    )
    screen = Screen(run.output)
    try:
        if options.url:
            summary = core.batch_at(_endpoint(options), request, emit=screen.draw)
        else:
            summary = core.batch(run.context, options.which, request, in_sandbox=options.in_sandbox, emit=screen.draw)
    finally:
        screen.close()
    _report(run.output, summary)


def _endpoint(options: Options) -> Endpoint:
    import os

    from gpuserve.records import Endpoint

    if options.in_sandbox or options.which:
        raise UsageError("--url doesn't go with --id or --in-sandbox")
    if not options.model:
        raise UsageError("--url needs the model's name there", hint="add --model NAME; GET /v1/models lists them")
    url = options.url.rstrip("/").removesuffix("/v1")
    return Endpoint(url=url, served_model=options.model, api_key=os.environ.get("OPENAI_API_KEY") or "EMPTY")


def _report(output: Output, summary: dict[str, Any]) -> None:
    output.data(summary)
    if not output.quiet:
        for line in summary_lines(summary):
            output.say("batch", line)
    output.result(summary["output"])
    failed = summary["failed"] + summary["failed_before"]
    if failed:
        raise EngineError(
            f"{failed} of {summary['rows']} rows failed; the output says why",
            hint="the same command with --retry-failed asks them again",
        )


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary for a person."""
    from gpuserve.cli.narrator import count

    failed = summary["failed"] + summary["failed_before"]
    done = summary["answered"] + summary["answered_before"]
    rows = f"{done} of {summary['rows']} rows answered, {failed} failed"
    before = summary["answered_before"] + summary["failed_before"]
    if not summary["requests"]:
        return [f"{rows}; nothing was left to ask"]
    cached = summary["cached_tokens"]
    cache = "" if cached is None else f" ({count(cached)} cached)"
    earlier = f" ({before} in earlier runs)" if before else ""
    lines = [f"{rows}{earlier}, in {format_duration(summary['seconds'])}, {summary['retries']} retries"]
    for what, kind, more in (("in", "prompt", cache), ("out", "completion", "")):
        tokens, second, hour = (count(summary[f"{kind}_tokens{part}"]) for part in ("", "_per_second", "_per_hour"))
        lines.append(f"{what} {tokens} tokens{more}, {second}/s, {hour}/hour")
    lines.append(
        f"latency {_spread(summary['latency'])} (p50, p90, p99), waiting on this side {_spread(summary['queueing'])}"
    )
    if summary["cut_short"]:
        lines.append(f"{summary['cut_short']} answers were cut short by the limit of tokens")
    return lines


def _spread(times: dict[str, float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.3g} s" for value in times.values())


class Screen:
    """Draws how far it is: one line that moves on a terminal, a line every ten seconds off it, JSON lines else."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said_at = time.monotonic()
        self._open = False

    def draw(self, event: BatchEvent) -> None:
        """Shows one event."""
        from gpuserve.bulk.events import Checked, Draining, Progress, Reading, Said

        if self._output.as_json:
            if not isinstance(event, Progress) or self._due():
                self._output.line({"event": {"kind": type(event).__name__.lower(), **asdict(event)}})
            return
        match event:
            case Progress():
                self._progress(event)
            case Reading(rows):
                self._move(f"checking the input, {rows} rows so far")
            case Checked():
                self._checked(event)
            case Draining(in_flight):
                self.close()
                self._output.say("batch", f"stopping: waiting for {in_flight} answers; Ctrl-C again ends it at once")
            case Said(text):
                self.close()
                self._output.say("batch", text)

    def _checked(self, event: Checked) -> None:
        self.close()
        if event.mended:
            self._output.say("batch", f"cut a half-written line ({event.mended} bytes) off the output")
        notes = [f"{event.rows} rows"]
        if event.before:
            notes.append(f"{event.before} done by earlier runs ({event.failed_before} failed)")
        if event.again:
            notes.append(f"{event.again} failed and are asked again")
        self._output.say("batch", ", ".join(notes))

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._said_at < _LINE_EVERY:
            return False
        self._said_at = now
        return True

    def _progress(self, event: Progress) -> None:
        if self._output.lively:
            self._move(progress_line(event))
        elif self._due():
            self._output.say("batch", progress_line(event))

    def _move(self, text: str) -> None:
        if self._output.lively:
            self._output.raw(f"\r\x1b[2K{'batch':<10}{text}")
            self._open = True

    def close(self) -> None:
        """Ends the line that moves."""
        if self._open:
            self._output.raw("\r\x1b[2K")
            self._open = False


def progress_line(event: Progress) -> str:
    """How far it is, in one line."""
    from gpuserve.cli.narrator import count

    share = 100 * event.done / max(event.rows, 1)
    parts = [
        f"{event.done} of {event.rows} ({share:.0f} %)",
        f"{event.failed} failed" if event.failed else "",
        f"{event.in_flight} in flight",
        f"{event.requests_per_second:.3g}/s",
        f"{count(event.prompt_tokens_per_second)} tokens/s in, {count(event.completion_tokens_per_second)} out",
        f"{event.retries} retries" if event.retries else "",
        "" if event.eta is None else f"{format_clock(event.eta)} left",
    ]
    return ", ".join(filter(None, parts))
