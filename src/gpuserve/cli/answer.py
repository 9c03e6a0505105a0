"""The form that an answer shall have, and what is printed once it is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.output import Output, plain
from gpuserve.errors import BadReply

if TYPE_CHECKING:
    from gpuserve.client.constraints import Constraint
    from gpuserve.client.reply import ChatReply

_PANEL = "Form of the answer (one of them)"
#: Characters of an answer of the wrong form that are shown to a person.
_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """The form of the answer, as it is asked for on the command line."""

    schema: Annotated[
        str | None,
        typer.Option(help="JSON of this schema: a file, JSON, or pydantic:module.Class.", rich_help_panel=_PANEL),
    ] = None
    regex: Annotated[
        str | None, typer.Option(help="A whole match of this regular expression.", rich_help_panel=_PANEL)
    ] = None
    grammar: Annotated[
        str | None, typer.Option(help="A text of the grammar (GBNF) in this file.", rich_help_panel=_PANEL)
    ] = None
    choice: Annotated[
        str | None, typer.Option(help="One of these, such as red,green; or a JSON list.", rich_help_panel=_PANEL)
    ] = None

    def constraint(self) -> Constraint | None:
        """What they mean, read and checked; None if none is given.

        Raises:
            UsageError: it can't be used; says why.
        """
        if self.schema is self.regex is self.grammar is self.choice is None:
            return None
        from gpuserve.client.constraints import read

        return read(schema=self.schema, regex=self.regex, grammar=self.grammar, choice=self.choice)


def read_images(given: Sequence[str] | None) -> tuple[str, ...]:
    """The addresses to send for what ``--image`` names.

    Raises:
        UsageError: one of them is no image.
    """
    if not given:
        return ()
    from gpuserve.client.images import image_url

    return tuple(map(image_url, given))


def finish(
    output: Output,
    reply: ChatReply,
    constraint: Constraint | None,
    *,
    stats: bool,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Prints what is left to print of ``reply``, once it has the form that it shall have; ``more`` in JSON only.

    Raises:
        BadReply: it has not, or there is no answer in it.
    """
    if stats:
        from gpuserve.client.stats import stats_line

        output.say("stats", stats_line(reply))
    if constraint is not None:
        _check(output, reply, constraint)
        output.result((plain if sys.stdout.isatty() else str)(reply.content))
    parsed = json.loads(reply.content) if constraint is not None and constraint.kind == "schema" else None
    output.data({**reply_dict(reply, parsed), **more})
    if constraint is None:
        _judge(output, reply)


def _check(output: Output, reply: ChatReply, constraint: Constraint) -> None:
    try:
        constraint.check(reply)
    except BadReply as error:
        if error.reply:
            output.say("reply", error.reply[:_SHOWN])
        raise


def _judge(output: Output, reply: ChatReply) -> None:
    """What a person should know of an answer of no form."""
    from gpuserve.client.constraints import no_answer

    if reply.answered:
        if reply.finish_reason == "length":
            output.warn("the answer was cut at the limit of tokens: raise --max-tokens")
        return
    if reply.refusal:
        raise BadReply(f"the model refused: {reply.refusal[:_SHOWN]}", hint="ask otherwise", reply=reply.refusal)
    if reply.reasoning or (reply.finish_reason == "length" and not reply.content):
        raise no_answer(reply)
    output.warn("the answer is empty")


def reply_dict(reply: ChatReply, parsed: object = None) -> dict[str, object]:
    """An answer as ``--json`` prints it, in seconds; ``parsed`` is what its JSON says, where a schema was given."""
    from gpuserve.client.stats import timing_dict, usage_dict

    return {
        "content": reply.content,
        "parsed": parsed,
        "reasoning": reply.reasoning,
        "refusal": reply.refusal,
        "tool_calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in reply.tool_calls],
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "id": reply.id,
        "usage": usage_dict(reply),
        "timing": timing_dict(reply.timing),
    }
