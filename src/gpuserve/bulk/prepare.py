"""Before the first request: every row checked, every answer of earlier runs found, nothing of it kept in memory."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from gpuserve.bulk.events import Checked, Emit, Reading, Said
from gpuserve.bulk.index import Index, prefix_key
from gpuserve.bulk.job import Job
from gpuserve.bulk.output import OutputFile
from gpuserve.bulk.rows import BadRow, Place, Source, id_digest
from gpuserve.bulk.tally import Tally
from gpuserve.errors import Conflict, UsageError

#: Rows that aren't valid are named, at most so many.
NAMED = 20
_SAY_EVERY = 1.0


def read_input(source: Source, index: Index, *, by_prefix: bool, emit: Emit) -> int:
    """Checks every row and takes it into the index; returns how many there are.

    Raises:
        UsageError: rows that are no requests, or share a custom_id; each is named by its line.
    """
    problems: list[str] = []
    found = index.add_input(_indexed(source, problems, by_prefix=by_prefix, emit=emit))
    if not problems:
        problems = [f"line {last} has the custom_id of line {first}" for first, last in index.twice(most=NAMED + 1)]
    if problems:
        more = ["and more of them"] if len(problems) > NAMED else []
        raise UsageError(
            "the input isn't valid; nothing was sent\n" + "\n".join(problems[:NAMED] + more),
            hint="correct these lines and run the same command again",
        )
    if not found:
        raise UsageError("the input holds no rows; nothing was sent")
    return found


def _indexed(
    source: Source, problems: list[str], *, by_prefix: bool, emit: Emit
) -> Iterator[tuple[bytes, Place, bytes, bytes]]:
    said = time.monotonic()
    for number, (place, data) in enumerate(source.places()):
        try:
            request = source.request(place, data)
        except BadRow as error:
            problems.append(f"line {place.line}: {error}")
            if len(problems) > NAMED:
                return
            continue
        if number % 1000 == 0 and time.monotonic() - said > _SAY_EVERY:
            said = time.monotonic()
            emit(Reading(number))
        prefix = prefix_key(_conversation(request.body)) if by_prefix else b""
        yield id_digest(request.custom_id), place, request.ask, prefix


def _conversation(body: bytes) -> bytes:
    """The part of a body that a model reads first: the settings before it would hide what is common."""
    at = body.find(b'"messages":')
    return body[max(at, 0) :]


def read_output(output: OutputFile, index: Index) -> int:
    """Takes the answers of earlier runs into the index; returns how many there are.

    Raises:
        Conflict: they are of another batch, or another question was asked.
    """
    before = index.add_output(output.answers())
    if not before:
        return 0
    if index.twice("output", 1):
        raise Conflict(f"{output.path} holds more than one answer to a row", hint="name another file with -o")
    if strangers := index.strangers():
        raise Conflict(
            f"{output.path} holds {strangers} answers to rows that the input doesn't have",
            hint="it belongs to another input: name another file with -o",
        )
    if changed := index.changed():
        lines = ", ".join(map(str, changed))
        raise Conflict(
            f"{output.path} holds answers to other questions than the input now asks (line {lines}, …)",
            hint="input, model or settings were changed since: name another file with -o",
        )
    return before


def prepare(job: Job, source: Source, output: OutputFile, index: Index, emit: Emit) -> Tally:
    """Checks everything; drops the failures that are to be asked again.

    Raises:
        UsageError: the input isn't valid.
        Conflict: the output is of another batch.
    """
    try:
        rows = read_input(source, index, by_prefix=job.order == "prefix", emit=emit)
        before, again = read_output(output, index), 0
        failed = index.failures()
        if failed and job.retry_failed:
            output.replace(output.lines(index.kept(in_order=False, failed=False)))
            index.drop_failures()
            before, failed, again = before - failed, 0, failed
    except sqlite3.OperationalError as error:
        raise Conflict(f"no room for temporary files: {error}", hint="free some space and run it again") from error
    emit(Checked(rows, before, failed, output.mended, again))
    return Tally(rows=rows, before=before, before_failed=failed)


def put_in_order(job: Job, source: Source, emit: Emit) -> None:
    """Rewrites a whole output in the order of the input, unless it has it already.

    Raises:
        Conflict: the disk is full; the output is as it was.
    """
    with closing(OutputFile(Path(job.output))) as output, closing(Index()) as index:
        read_input(source, index, by_prefix=False, emit=lambda _: None)
        read_output(output, index)
        if not index.in_order():
            output.replace(output.lines(index.kept(in_order=True, failed=True)))
            emit(Said("the answers now stand in the order of the input"))
