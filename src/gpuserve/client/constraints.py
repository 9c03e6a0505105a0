"""What an answer must be: JSON of a schema, a match of a regular expression, a text of a grammar, one of some choices.

A constraint is read and checked before anything is asked. The engine holds the model to it (``engines.base.Constrains``
writes the request); the answer is checked here all the same: an engine with a reasoning parser may not hold it, and a
gateway may drop the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal as Word

from gpuserve.client import gbnf, regexes
from gpuserve.client import schema as schemas
from gpuserve.client.automaton import Automaton
from gpuserve.client.grammar import Alt, Language, Literal, to_gbnf
from gpuserve.client.reply import ChatReply
from gpuserve.errors import BadReply, UsageError

Kind = Word["schema", "regex", "grammar", "choice"]
_WHOLE = ("stop", "tool_calls", "eos", "")


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint. Which fields hold something depends on ``kind``; engines take what they know.

    ``schema`` is a JSON schema; ``regex`` a pattern for the whole answer (of a choice, too); ``grammar`` the user's
    grammar, ``lark`` if it isn't GBNF; ``choices`` what may be chosen from; ``gbnf`` a regex or a choice as a grammar.
    """

    kind: Kind
    schema: schemas.Schema | None = None
    regex: str = ""
    grammar: str = ""
    lark: bool = False
    choices: tuple[str, ...] = ()
    gbnf: str = ""
    automaton: Automaton | None = None
    language: Language | None = None

    @property
    def document(self) -> Mapping[str, object]:
        """The JSON schema that is sent; empty where there is none."""
        return self.schema.document if self.schema else {}

    def check(self, reply: ChatReply) -> None:
        """Whether ``reply`` is a whole answer of the kind.

        Raises:
            BadReply: it is cut, a refusal, empty, or something else; each with its own words.
        """
        if not self._whole_all_the_same(reply):
            check_whole(reply)
        if reply.refusal:
            raise BadReply(f"the model refused: {_short(reply.refusal)}", hint="ask otherwise", reply=reply.refusal)
        if not reply.content:
            raise BadReply("the model gave no answer", hint=_LOOK, reply=reply.content)
        if why := self._fault(reply.content):
            raise BadReply(f"the answer is not {why}", hint=_LOOK, reply=reply.content)

    def _whole_all_the_same(self, reply: ChatReply) -> bool:
        """Whether the limit of tokens fell behind the answer's last one: it has the form, and nothing could follow."""
        if reply.finish_reason != "length" or not reply.content or self._fault(reply.content):
            return False
        if self.kind == "choice":
            return not any(other.startswith(reply.content) for other in self.choices if other != reply.content)
        return self.kind == "schema" and not reply.content[-1].isdigit()  # of all JSON only a number might go on

    def _fault(self, text: str) -> str:
        if self.kind == "schema":
            assert self.schema is not None
            why = self.schema.faults(text)
            return f"JSON of the schema: {why}" if why else ""
        if self.kind == "choice":
            return "" if text in self.choices else f"one of the choices: {_short(text)!r}"
        if self.kind == "regex":
            assert self.automaton is not None
            return "" if self.automaton.holds(text) else f"a match of the regular expression: {_short(text)!r}"
        return self._grammar_fault(text)

    def _grammar_fault(self, text: str) -> str:
        if self.language is None:
            return ""  # Lark's notation is the engine's to hold
        held = self.language.holds(text)
        if held is None:
            return "short enough to be checked against the grammar"
        return "" if held else f"a text of the grammar: {_short(text)!r}"


_LOOK = "the engine may not hold to it with this model: ask for it in the prompt too, or try --reasoning-effort none"


def check_whole(reply: ChatReply) -> None:
    """Whether ``reply`` came to its end.

    Raises:
        BadReply: it was cut at the limit of tokens, in the thinking or in the answer, or broken off by the engine.
    """
    if reply.finish_reason in _WHOLE:
        return
    if reply.finish_reason == "length":
        if not reply.answered:
            raise no_answer(reply)
        raise BadReply(
            "the answer was cut at the limit of tokens",
            hint="raise --max-tokens, or shorten the prompt",
            reply=reply.content,
        )
    if reply.finish_reason == "content_filter":
        raise BadReply("the engine's filter held the answer back", hint="ask otherwise", reply=reply.content)
    raise BadReply(
        f"the engine broke the answer off ({_short(reply.finish_reason)})", hint="gpuserve logs", reply=reply.content
    )


def no_answer(reply: ChatReply) -> BadReply:
    """The error for a reply that has nothing but thinking in it, or not even that."""
    spent = f" ({reply.usage.completion_tokens} of them)" if reply.usage else ""
    if reply.finish_reason == "length":
        what = "on reasoning" if reply.reasoning else "before it wrote a word"
        return BadReply(
            f"the model used up its tokens{spent} {what} and gave no answer",
            hint="raise --max-tokens, or think less: --reasoning-effort low or none",
        )
    return BadReply(
        "the model thought and gave no answer", hint="ask again, or think less: --reasoning-effort low or none"
    )


def read(
    *, schema: str | None = None, regex: str | None = None, grammar: str | None = None, choice: str | None = None
) -> Constraint | None:
    """The constraint that the options ask for; None if they ask for none.

    Raises:
        UsageError: more than one of them, or one that can't be used; says why.
    """
    given = [name for name, value in _options(schema, regex, grammar, choice) if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} can't be used together", hint="an answer has one form: give one")
    if schema is not None:
        return Constraint("schema", schema=schemas.read(schema))
    if regex is not None:
        return from_regex(regex)
    if grammar is not None:
        return from_grammar(_text(grammar), grammar)
    return None if choice is None else from_choices(split_choices(choice))


def _options(
    schema: str | None, regex: str | None, grammar: str | None, choice: str | None
) -> list[tuple[str, str | None]]:
    """The four options by the names that they have on the command line."""
    return [("--schema", schema), ("--regex", regex), ("--grammar", grammar), ("--choice", choice)]


def from_regex(pattern: str) -> Constraint:
    """A constraint by a regular expression, which the whole answer must match.

    Raises:
        UsageError: as ``regexes.parse``.
    """
    read_one = regexes.parse(pattern)
    automaton = Automaton(read_one.node)
    return Constraint("regex", regex=read_one.pattern, gbnf=to_gbnf(read_one.node), automaton=automaton)


def from_grammar(text: str, where: str) -> Constraint:
    """A constraint by a grammar in GBNF, or in Lark's notation for engines that read it.

    Raises:
        UsageError: what is wrong with it, and in which line.
    """
    if not text.strip():
        raise UsageError(f"the grammar {where} is empty", hint='for example: root ::= "yes" | "no"')
    if gbnf.is_lark(text):
        return Constraint("grammar", grammar=text, lark=True)
    return Constraint("grammar", grammar=text, language=Language(gbnf.parse(text, f"the grammar {where}")))


def from_choices(choices: Sequence[str]) -> Constraint:
    """A constraint to one of ``choices``, to the letter.

    Raises:
        UsageError: there are fewer than two, or one is empty or stands there twice.
    """
    if len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices):
        raise UsageError(
            "--choice needs at least two different answers, none of them empty",
            hint="for example --choice red,green,blue",
        )
    return Constraint(
        "choice",
        choices=tuple(choices),
        regex="(" + "|".join(map(regexes.escape, choices)) + ")",
        gbnf=to_gbnf(Alt(tuple(map(Literal, choices)))),
    )


def split_choices(text: str) -> list[str]:
    """``a,b,c`` without the blanks around; a JSON list of texts where an answer holds a comma.

    Raises:
        UsageError: a list that is none.
    """
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",")]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--choice {text} is no JSON list: {error}", hint='write --choice \'["yes", "no"]\''
        ) from error
    if not all(isinstance(one, str) for one in found):
        raise UsageError("--choice takes a JSON list of texts only", hint='write --choice \'["yes", "no"]\'')
    return [str(one) for one in found]


def _text(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the grammar {file} is not UTF-8 text", hint="write it in GBNF") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the grammar {file} can't be read: {why}", hint="--grammar takes a file") from error


def _short(text: str, limit: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit] + " …"
