"""Grammars in GBNF: read, refused with the line, and answers checked against them."""

from __future__ import annotations

import json

import pytest

from gpuserve.client import gbnf, grammar
from gpuserve.client.grammar import Language
from gpuserve.errors import UsageError

JSON_LIKE = r"""
# numbers and lists of them
root  ::= value
value ::= number | list   # both
list  ::= "[" ws ( value ( "," ws value )* )? "]"
number ::= "-"? ("0" | [1-9] [0-9]{0,5})
  | "\"" [^"\\\n]* "\""
ws ::= [ \t\n]*
"""


def language(text: str) -> Language:
    return Language(gbnf.parse(text, "it"))


@pytest.mark.parametrize("value", ["0", "-17", "[]", "[1]", "[1, [2, []], 3]", '"a b"', '["é"]'])
def test_what_it_allows_holds(value: str) -> None:
    assert language(JSON_LIKE).holds(value) is True


@pytest.mark.parametrize("value", ["", "01", "[1,]", "[1", "1]", '"a', "[1 2]", "1234567"])
def test_what_it_does_not_allow_does_not(value: str) -> None:
    assert language(JSON_LIKE).holds(value) is False


def test_rules_may_call_themselves_from_either_side_and_be_empty() -> None:
    assert language('root ::= root "a" | ""').holds("a" * 500)
    assert language('root ::= "a" root | ""').holds("a" * 500)
    balanced = language('root ::= ("(" root ")")*')
    assert balanced.holds("(()())()")
    assert not balanced.holds("(()")
    hidden = language('root ::= x root x | "b"\nx ::= "a"?')
    assert hidden.holds("aab")
    assert hidden.holds("baa")
    assert not hidden.holds("c")


def test_escapes_and_the_dot() -> None:
    one = language(r'root ::= "\x41\u00e9\n" . [\]\-]')
    assert one.holds("Aé\nz]")
    assert one.holds("Aé\n\n-")
    assert not one.holds("Aé\nz}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('start ::= "a"', "no rule called root"),
        ('root ::= "a\n', "line 1"),
        ('root ::= "a"\nx ::= y\n', "line 2: the rule y is used and nowhere given"),
        ('root ::= ("a"\n', "line 1: a ( that nothing closes"),
        ('root ::= "a"\nroot ::= "b"', "line 2: the rule root stands there twice"),
        ('root = "a"', "line 1: expected ::="),
        ('root ::= "a" )', "unexpected ')'"),
        ("root ::= [b-a]", "ends before it begins"),
        ('root ::= "a"{x}', "counts nothing"),
        (r'root ::= "\q"', r"unknown escape \q"),
        ("root ::= <tok>", "expected a rule"),
        ("hello there", "expected ::="),
    ],
)
def test_a_bad_grammar_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        language(text)
    assert words in caught.value.message


def test_larks_notation_is_told_apart() -> None:
    assert gbnf.is_lark('%llguidance {}\nstart: "a"')
    assert gbnf.is_lark('start: "a" | "b"')
    assert not gbnf.is_lark(JSON_LIKE)


def test_a_check_gives_up_rather_than_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    ambiguous = language('root ::= root root | "a"')
    assert ambiguous.holds("a" * 20)
    monkeypatch.setattr(grammar, "STEPS", 10_000)
    assert ambiguous.holds("a" * 200) is None


def test_a_long_answer_is_checked() -> None:
    text = json.dumps([list(range(40))] * 20)
    assert language(JSON_LIKE).holds(text)
    assert not language(JSON_LIKE).holds(text[:-1])
