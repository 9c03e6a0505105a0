"""Regular expressions for answers: read as Python reads them, written as the same grammar, matched without hanging."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuserve.client import gbnf, regexes
from gpuserve.client.automaton import Automaton
from gpuserve.client.grammar import Language, to_gbnf
from gpuserve.errors import UsageError

_ATOMS = st.sampled_from(
    ["a", "b", r"\.", ".", "[ab]", "[^a]", r"\d", r"\D", r"\w", r"\s", "[a-c.]", r"[\d-]", "-", r"\x62"]
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    counts = st.sampled_from(["*", "+", "?", "{2}", "{0}", "{1,2}", "{0,3}", "{1,}", "*?", "{1,2}?"])
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, counts).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    )


PATTERNS = st.recursive(_ATOMS, _grow, max_leaves=6)
TEXTS = st.text(alphabet="ab1. -\n_é", max_size=6)


@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=8))
def test_it_matches_what_python_matches(pattern: str, texts: list[str]) -> None:
    automaton = Automaton(regexes.parse(pattern).node)
    for text in texts:
        assert automaton.holds(text) == (re.fullmatch(pattern, text) is not None)


@given(PATTERNS, st.lists(TEXTS.filter(str.isascii), min_size=1, max_size=8))
def test_as_gbnf_it_says_the_same(pattern: str, texts: list[str]) -> None:
    read = regexes.parse(pattern)
    language = Language(gbnf.parse(to_gbnf(read.node), "it"))
    for text in texts:
        assert language.holds(text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "sent"),
    [
        (r"^[A-Z]{3}-\d+$", r"[A-Z]{3}-\d+"),
        ("^a$|^b$", "a|b"),
        ("(?P<word>a+?)b", "(?:a+)b"),
        (" (red|green)", " (red|green)"),
    ],
)
def test_what_changes_nothing_is_left_out(pattern: str, sent: str) -> None:
    assert regexes.parse(pattern).pattern == sent


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "empty"),
        ("(a", "nothing closes, at character 1"),
        ("a)", "closes nothing, at character 2"),
        ("[a", "[ that nothing closes"),
        ("a**", "a repetition of a repetition, at character 3"),
        ("*a", "repeats nothing"),
        ("a{2,1}", "a count from 2 to 1"),
        ("a{x}", r"write \{"),
        ("a++", "possessive"),
        ("x(?=b)", "a look-around, at character 2"),
        ("(?<!a)b", "a look-around"),
        ("(?i)a", "a (? group"),
        (r"(a)\1", "a reference back to a group, at character 4"),
        (r"\bx", r"a word boundary (\b)"),
        (r"\p{L}", r"a Unicode property (\p)"),
        (r"\q", r"the unknown escape \q"),
        (r"\xZZ", "hexadecimal"),
        ("[b-a]", "ends before it begins"),
        ("a^b", "a ^ in the middle"),
        ("(^a)", "a ^ in the middle"),
        ("a\\", "the unknown escape"),
    ],
)
def test_what_engines_do_not_take_is_refused_by_name_and_place(pattern: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        regexes.parse(pattern)
    assert words in caught.value.message


def test_an_expression_that_hangs_a_backtracking_matcher_does_not_hang_this_one() -> None:
    automaton = Automaton(regexes.parse("(?:x+x+)+y").node)

    def seconds(count: int) -> float:
        began = time.process_time()
        assert not automaton.holds("x" * count)
        return time.process_time() - began

    short = min(seconds(4000) for _ in range(3))
    assert min(seconds(16000) for _ in range(3)) < 40 * max(
        short, 1e-3
    )  # four times the text; doubling each would be no number


def test_counts_that_grow_without_measure_are_refused() -> None:
    for pattern in ("a{999999}", "(a{300}){300}", "(a{0,300}){0,300}"):
        with pytest.raises(UsageError, match="grows beyond"):
            Automaton(regexes.parse(pattern).node)


def test_any_text_stands_for_itself_once_escaped() -> None:
    text = "a.b*c[d](e){2}|^$\\ é-\n"
    assert Automaton(regexes.parse(regexes.escape(text)).node).holds(text)
    assert re.fullmatch(regexes.escape(text), text)
