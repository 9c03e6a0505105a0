"""``gpuserve cp``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from gpuserve.cli.command import Run, command
from gpuserve.cli.output import plain

EPILOG = (
    "Examples: gpuserve cp data.jsonl gpt-oss-20b-7f3c:data.jsonl · gpuserve cp ID:results.jsonl . · "
    "gpuserve cp batch.py :work/ (the only live deployment). "
    "With --json: {data: {source, target, bytes, seconds}}."
)
#: Bytes from which on a bar is drawn.
_LARGE = 1 << 20


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="cp", epilog=EPILOG)(cp)


def cp(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="FROM", help="FILE here, or ID:FILE in a sandbox.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The other side: a file, or a directory for it.")],
) -> None:
    """Copy a file into a deployment's sandbox, or out of it.

    The target is written whole or not at all. Directories aren't copied.
    """
    from gpuserve.serving import inside

    ends = inside.spot(source), inside.spot(target)
    with _bar(run, source) as progress:
        done = inside.copy(run.context, *ends, progress)
    shown = {"source": source, "target": done.target, "bytes": done.size, "seconds": round(done.seconds, 3)}
    run.output.data(shown)
    run.output.say("copied", f"{done.size} bytes to {done.target} in {done.seconds:.1f} s")


@contextmanager
def _bar(run: Run, name: str) -> Iterator[Callable[[int, int], None]]:
    """Draws how far it is, for a large file and a person."""
    if not run.output.lively:
        yield lambda _done, _whole: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("copying   {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=run.output.console(), transient=True) as bars:
        tasks: list[Any] = []

        def show(done: int, whole: int) -> None:
            if whole >= _LARGE and not tasks:
                tasks.append(bars.add_task(plain(name), total=whole))
            for task in tasks:
                bars.update(task, completed=done)

        yield show
