"""``gpuserve bench``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuserve.cli.command import Id, Run, command
from gpuserve.cli.output import Output
from gpuserve.cli.signals import terminable
from gpuserve.durations import parse_duration
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.bench.events import BenchEvent, Measuring
    from gpuserve.bench.wanted import Wanted
    from gpuserve.records import Endpoint

EPILOG = (
    "Examples: gpuserve bench · gpuserve bench gpt-oss-20b-7f3c --concurrency 1,8,64 --slo ttft=500ms,itl=50ms "
    "-o a.json --plot a.svg · gpuserve bench --rate 2,4,8 --duration 1m · gpuserve bench --compare a.json b.json. "
    "The exit status says nothing of how fast it is. "
    "With --json: {data: {points: [{load, ttft, itl, latency, output_tokens_per_second, …}], verdict, …}}, and lines "
    "{event} before it; with --compare: {data: {points: [{figures, …}], …}}."
)
#: Loads where none is named.
CONCURRENCY = "1,8,64"
#: Seconds between two lines of progress off a terminal.
_LINE_EVERY = 10.0
_COLUMNS = (
    *("load", "tokens", "req/s", "in tok/s", "out tok/s", "TTFT p50", "p90", "p99", "ITL p50", "p90", "p99"),
    *("e2e p50", "p90", "p99"),
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="bench", epilog=EPILOG)(bench)


@dataclass(kw_only=True)
class Options:
    """The options, in the order of the help."""

    which: Id = None
    concurrency: Annotated[
        str, typer.Option("--concurrency", "-c", help=f"Requests in flight, one point each; {CONCURRENCY} by default.")
    ] = ""
    rate: Annotated[str, typer.Option(help="Arrivals a second, by chance (Poisson), one point each: 0.5,2,8.")] = ""
    prompt_tokens: Annotated[str, typer.Option(help="Lengths of the prompts: 512,4096.")] = "512"
    output_tokens: Annotated[str, typer.Option(help="Lengths of the answers.")] = "128"
    requests: Annotated[
        int, typer.Option(min=0, help="Requests measured at each point; by default 4 for each in flight, 32 at least.")
    ] = 0
    duration: Annotated[str, typer.Option(help="Measure each point for so long instead: 30s.")] = ""
    slo: Annotated[str, typer.Option(help="Limits that good answers keep: ttft=500ms,itl=50ms,e2e=10s.")] = ""
    shared_prefix: Annotated[
        float, typer.Option(help="Measure each point again with prompts that share so much of their beginning: 0.8.")
    ] = 0.0
    url: Annotated[str, typer.Option(help="Measure this endpoint; its key is taken from OPENAI_API_KEY.")] = ""
    model: Annotated[str, typer.Option(help="With --url: the model's name there.")] = ""
    output: Annotated[str, typer.Option("--output", "-o", help="Write the result to a file, as --json prints it.")] = ""
    plot: Annotated[str, typer.Option(help="Draw it: a file, SVG.")] = ""
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Measure nothing: compare two files that -o wrote.")
    ] = None


def bench(run: Run, options: Options) -> None:
    """Measure how fast a model answers under load.

    Time to the first token, time between tokens, whole answers, tokens a second, and how many requests a second keep
    the limits of --slo. Prompts are of chance words and exact lengths, so that no cache helps.
    """
    if options.compare is not None:
        _compare(run.output, *options.compare)
        return
    from gpuserve.serving import bench as core

    wanted = _wanted(options)
    for target in filter(None, (options.output, options.plot)):
        _check_writable(Path(target))
    screen = Screen(run.output)
    try:
        with terminable():
            if options.url:
                found = core.bench_at(_endpoint(options), wanted, emit=screen.draw)
            else:
                found = core.bench(run.context, options.which, wanted, emit=screen.draw)
    finally:
        screen.close()
    _report(run.output, found)  # first: minutes of measuring aren't lost to a file that can't be written
    if options.output:
        _write(Path(options.output), json.dumps({"data": found}, indent=1) + "\n")
    if options.plot:
        from gpuserve.bench.svg import picture

        _write(Path(options.plot), picture(found))


def _wanted(options: Options) -> Wanted:
    from gpuserve.bench import wanted

    concurrency = options.concurrency or ("" if options.rate else CONCURRENCY)
    return wanted.Wanted(
        loads=wanted.loads(concurrency, options.rate),
        prompts=wanted.whole_numbers("--prompt-tokens", options.prompt_tokens, wanted.MOST_TOKENS),
        outputs=wanted.whole_numbers("--output-tokens", options.output_tokens, wanted.MOST_TOKENS),
        shared=options.shared_prefix,
        requests=options.requests,
        duration=parse_duration(options.duration) if options.duration else 0.0,
        slo=wanted.slo(options.slo),
    )


def _endpoint(options: Options) -> Endpoint:
    import os

    from gpuserve.records import Endpoint

    if options.which:
        raise UsageError("--url doesn't go with a deployment")
    if not options.model:
        raise UsageError("--url needs the model's name there", hint="add --model NAME; GET /v1/models lists them")
    url = options.url.rstrip("/").removesuffix("/v1")
    return Endpoint(url=url, served_model=options.model, api_key=os.environ.get("OPENAI_API_KEY") or "EMPTY")


def _check_writable(path: Path) -> None:
    """Told before minutes of measuring, not after."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{path} can't be written", hint="name a file in a directory that exists")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}") from error


def _report(output: Output, found: Mapping[str, Any]) -> None:
    output.data(found)
    if output.as_json:
        return
    output.table(_COLUMNS, [_row(point) for point in found["points"]])
    for line in remarks(found):
        output.say("bench", line)
    output.say("verdict", found["verdict"])


def _row(point: Mapping[str, Any]) -> list[str]:
    from gpuserve.bench.verdict import load_words, seconds

    asked = point["asked"]
    shared = f" ({asked['shared_prefix']:.0%} shared)" if asked["shared_prefix"] else ""
    rates = [f"{point[f'{name}_per_second']:.4g}" for name in ("requests", "input_tokens", "output_tokens")]
    times = [seconds(point[name][part]) for name in ("ttft", "itl", "latency") for part in ("p50", "p90", "p99")]
    return [load_words(point), f"{asked['prompt_tokens']} + {asked['output_tokens']}{shared}", *rates, *times]


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What is to be said of the points beside their figures."""
    from gpuserve.bench.verdict import point_words

    said = []
    for point in found["points"]:
        where, goodput, cost = point_words(point), point["goodput"], point["cost_per_million_output_tokens"]
        if goodput is not None:
            rate = goodput["requests_per_second"]
            said.append(
                f"{where}: goodput {rate:.4g} requests/s, {goodput['share']:.0%} of the requests keep the limits"
            )
        if cost is not None:
            both = point["cost_per_million_tokens"]
            said.append(f"{where}: {cost:.4g} for a million output tokens, {both:.4g} counting the prompts' too")
    for gain in found["gains"]:
        cached = "" if gain["cached_share"] is None else f", {gain['cached_share']:.0%} of the prompts from the cache"
        said.append(
            f"{point_words(gain)}: first token {_times(gain['ttft_times_sooner'])} sooner,"
            f" {_times(gain['output_times_more'])} the output{cached}"
        )
    worst = max((point["client"]["cpu_share"] for point in found["points"]), default=0.0)
    late = max((point["client"]["lag"]["p99"] for point in found["points"]), default=0.0)
    return [*said, f"this side took {worst:.0%} of a core at most, and was {late * 1000:.2g} ms late (p99)"]


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} times"


def _compare(output: Output, first: str, second: str) -> None:
    from gpuserve.bench.verdict import compare, point_words

    runs = [_read(Path(name)) for name in (first, second)]
    points = compare(*runs)
    output.data({"first": _named(runs[0]), "second": _named(runs[1]), "points": points})
    if output.as_json:
        return
    rows = []
    for point in points:
        for row in point["figures"]:
            values = [f"{row['first']:.4g}", f"{row['second']:.4g}", _ratio(row["ratio"])]
            rows.append([point_words(point), row["figure"], *values, row["better"] or "-"])
    output.table(("point", "figure", "first", "second", "second/first", "better"), rows)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _named(found: Mapping[str, Any]) -> dict[str, object]:
    return {name: found[name] for name in ("name", "engine", "model", "gpu", "measured_at")}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found: Mapping[str, Any] = content["data"]
        if _is_result(found):
            return found
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError, KeyError, TypeError):
        pass  # told below, as every other file that is something else
    raise UsageError(f"{path} is no result of a benchmark", hint="gpuserve bench -o FILE writes one")


def _is_result(found: object) -> bool:
    wanted = ("name", "engine", "model", "gpu", "measured_at", "points")
    points = found.get("points") if isinstance(found, Mapping) and set(wanted) <= set(found) else None
    return isinstance(points, Sequence) and all(isinstance(point, Mapping) and "asked" in point for point in points)


class Screen:
    """Draws how far it is: one line that moves on a terminal, a line every ten seconds off it, JSON lines else."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said_at = time.monotonic()
        self._drawn_at = 0.0
        self._open = False

    def draw(self, event: BenchEvent) -> None:
        """Shows one event."""
        from gpuserve.bench.events import Measured, Measuring

        if isinstance(event, Measuring):
            self._progress(event)
            return
        if self._output.as_json:
            self._output.line({"event": {"kind": type(event).__name__.lower(), **asdict(event)}})
        elif isinstance(event, Measured):
            self.close()
            if self._output.lively or self._output.verbose:
                self._output.say("bench", f"{event.point.load.words}: {told(event.figures)}")
        else:
            self.close()
            self._output.say("bench", event.text)

    def _progress(self, event: Measuring) -> None:
        now = time.monotonic()
        if self._output.lively:
            if now - self._drawn_at > 0.1:
                self._drawn_at, self._open = now, True
                self._output.raw(f"\r\x1b[2K{'bench':<10}{progress_line(event)}")
        elif now - self._said_at >= _LINE_EVERY:
            self._said_at = now
            if self._output.as_json:
                self._output.line({"event": {"kind": "measuring", **asdict(event)}})
            else:
                self._output.say("bench", progress_line(event))

    def close(self) -> None:
        """Ends the line that moves."""
        if self._open:
            self._output.raw("\r\x1b[2K")
            self._open = False


def told(figures: Mapping[str, Any]) -> str:
    """One point's figures in a line."""
    from gpuserve.bench.verdict import seconds

    rate = figures["output_tokens_per_second"]
    return (
        f"{rate:.4g} tokens/s, TTFT {seconds(figures['ttft']['p50'])}, ITL {seconds(figures['itl']['p50'])} (medians)"
    )


def progress_line(event: Measuring) -> str:
    """How far it is, in one line."""
    point, of = event.point, f" of {event.requests}" if event.requests else ""
    lengths = f"{point.prompt} + {point.output} tokens"
    return f"point {event.number} of {event.points}, {point.load.words}, {lengths}: {event.answered}{of} answered"
