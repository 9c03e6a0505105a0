"""The form that a batch's answers must have: what its requests say of it, and whether an answer has it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpuserve.bulk.output import succeeded, with_fault
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

    def check(request: bytes, content: Mapping[str, Any]) -> str:
        return _fault(constraint, content) if all(part in request for part in said) else ""

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


def checked_lines(chunks: Iterable[bytes], constraint: Constraint, found: list[str]) -> Iterator[bytes]:
    """An output's lines as they come from elsewhere; an answer without the form becomes a failed row.

    ``found`` takes the ``custom_id`` of each such row.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _checked(line + b"\n", constraint, found)
    if rest:
        yield rest


def _checked(line: bytes, constraint: Constraint, found: list[str]) -> bytes:
    row = json.loads(line)
    if not succeeded(row) or not (fault := _fault(constraint, row["response"]["body"])):
        return line
    found.append(row["custom_id"])
    return with_fault(line, fault)
