"""Thinking that an engine left in the answer is told apart, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuserve.client.thinking import Splitter, split_late


def split(pieces: list[str], *, inside: bool = False, stopped: bool = True) -> tuple[str, str]:
    """Content and reasoning."""
    splitter = Splitter(inside=inside)
    content, reasoning = "", ""
    for part in [*(splitter.feed(piece) for piece in pieces), splitter.finish(stopped=stopped)]:
        reasoning = "" if part.undo else reasoning + part.reasoning
        content += part.content
    return content, reasoning


CASES = [
    ("<think>\nhm, hm\n</think>\n\nIt is 7.", False, True, ("It is 7.", "\nhm, hm\n")),
    ("\n<think></think>7", False, True, ("7", "")),
    ("<seed:think>so</seed:think>7", False, True, ("7", "so")),
    ("[THINK]so[/THINK]7", False, True, ("7", "so")),
    ("<think>cut", False, False, ("", "cut")),
    ("plain <think>", False, True, ("plain <think>", "")),
    ("<thin ice", False, True, ("<thin ice", "")),
    ("  two blanks", False, True, ("  two blanks", "")),
    ("<th", False, True, ("<th", "")),
    ("so\n</think>\n7 </think>", True, True, ("7 </think>", "so\n")),
    ("<think>so</think>7", True, True, ("7", "so")),
    ("no thinking at all", True, True, ("no thinking at all", "")),
    ("still at it", True, False, ("", "still at it")),
    ("", True, True, ("", "")),
]


@pytest.mark.parametrize(("text", "inside", "stopped", "expected"), CASES)
def test_a_text_is_split(text: str, inside: bool, stopped: bool, expected: tuple[str, str]) -> None:
    assert split([text], inside=inside, stopped=stopped) == expected
    assert split(list(text), inside=inside, stopped=stopped) == expected


@given(st.sampled_from(CASES), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_the_cuts_make_no_difference(case: tuple[str, bool, bool, tuple[str, str]], sizes: list[int]) -> None:
    text, inside, stopped, expected = case
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    assert split([*pieces, text[at:]], inside=inside, stopped=stopped) == expected


def test_what_is_certain_is_not_held_back() -> None:
    splitter = Splitter()
    assert splitter.feed("Hello").content == "Hello"
    splitter = Splitter()
    assert splitter.feed("<think>I see").reasoning == "I see"
    assert splitter.feed(" a </th").reasoning == " a "


def test_an_engine_that_tells_them_apart_is_believed() -> None:
    splitter = Splitter(inside=True)
    splitter.parsed()
    assert splitter.feed("<think> is a mark").content == "<think> is a mark"


def test_a_thinking_that_was_opened_by_the_template_is_found_at_the_end() -> None:
    assert split_late("so\n</think>\n\n7", "") == ("7", "so\n")
    assert split_late("the mark </think> ends it", "") == ("the mark </think> ends it", "")
    assert split_late("```\n</think>\n```", "") == ("```\n</think>\n```", "")
    assert split_late("so\n</think>\n\n7", "told") == ("so\n</think>\n\n7", "told")
