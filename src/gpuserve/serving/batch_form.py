"""The form that a batch's answers must have: what its requests say of it, and whether an answer has it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuserve.bulk.output import succeeded, with_fault
from gpuserve.bulk.tally import was_cut_short
from gpuserve.client.constraints import Constraint
from gpuserve.client.reply import Assembler, ChatReply
from gpuserve.errors import BadReply, EngineError, UsageError
from gpuserve.redaction import Redactor
from gpuserve.serving.ask import constraint_body

if TYPE_CHECKING:
    from gpuserve.bulk.run import Check


def form_body(engine: str, constraint: Constraint | None) -> Mapping[str, object]:
    """What to add to a chat request so that its answer is as ``constraint`` says; ``engine`` is "" if not known.

    Raises:
        UsageError: the engine takes no such constraint, or isn't known, and the OpenAI API has no words for it.
    """
    if engine or constraint is None:
        return constraint_body(engine, constraint)
    if constraint.kind != "schema":
        raise UsageError(
            f"an endpoint of which nothing is known can't be given --{constraint.kind}", hint="use --schema"
        )
    schema = {"name": "answer", "schema": dict(constraint.document)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def check_of(constraint: Constraint, body: Mapping[str, object]) -> Check:
    """The check of answers to requests that say ``body``; a row that asked for a form of its own is left alone."""
    said = [json.dumps({name: value}, separators=(",", ":"))[1:-1].encode() for name, value in body.items()]

    def check(request: bytes, content: Mapping[str, Any]) -> str | None:
        return _fault(constraint, content) if all(part in request for part in said) else None

    return check


def _fault(constraint: Constraint, content: Mapping[str, Any]) -> str:
    try:
        constraint.check(_reply(content))
    except (BadReply, EngineError) as error:
        return error.message
    return ""


def _reply(content: Mapping[str, Any]) -> ChatReply:
    assembler = Assembler(lambda _: None, Redactor())
    assembler.add(content)
    return assembler.reply(streamed=False)


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """An output's lines as it comes from elsewhere; half a line at its end is none."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)


@dataclass(slots=True)
class Found:
    """What a check of lines found: answers without the form, and such as have it though the limit of tokens fell."""

    wrong: int = 0
    whole: int = 0

    def correct(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The summary of a run that checked nothing, as if it had."""
        now = min(self.wrong, summary["answered"])
        before = self.wrong - now
        changes = {"answered": -now, "failed": now, "answered_before": -before, "failed_before": before}
        told = {**summary, **{name: summary[name] + change for name, change in changes.items()}}
        return {**told, "cut_short": max(0, summary["cut_short"] - self.whole)}


def checked_lines(lines: Iterable[bytes], constraint: Constraint, found: Found) -> Iterator[bytes]:
    """The same lines, but that an answer without the form is a failed row."""
    for line in lines:
        row = json.loads(line)
        if not succeeded(row):
            yield line
        elif fault := _fault(constraint, row["response"]["body"]):
            found.wrong += 1
            yield with_fault(line, fault)
        else:
            found.whole += was_cut_short(row["response"]["body"])
            yield line
