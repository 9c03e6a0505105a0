"""Every line once and in order, whichever mixture of streams and snapshots brings it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuserve.serving.loglines import Contradiction, Cursor, Replay, same

LOGS = st.text(alphabet="ab\r\ufffd\n", max_size=60)
#: Sources one after another: a stream that is cut after so many characters and comes in pieces of so many, or a
#: snapshot (0) of so many characters.
SOURCES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 7)), max_size=8)


@given(LOGS, SOURCES)
def test_streams_and_snapshots_in_any_mixture(log: str, sources: list[tuple[int, int]]) -> None:
    cursor, shown = Cursor(), ""
    for length, piece in sources:
        text = log[:length]
        if not piece:
            shown += cursor.advance(text)
            continue
        replay = Replay(cursor)
        for start in range(0, len(text), piece):
            shown += replay.feed(text[start : start + piece])
    assert shown == log[: len(shown)]
    assert shown.endswith("\n") or not shown
    shown += cursor.advance(log, to_the_end=True)
    assert shown == log == cursor.text()


@given(LOGS, LOGS)
def test_a_snapshot_has_the_last_word(first: str, truth: str) -> None:
    """Whatever was shown before, the copy has the snapshot's lines in the end. One that came back short takes none."""
    cursor = Cursor()
    Replay(cursor).feed(first)
    cursor.correct(truth)
    cursor.advance(truth, to_the_end=True)
    whole = truth.split("\n")[:-1]
    held = cursor.text().split("\n")
    assert all(same(one, real) for one, real in zip(held, whole, strict=False))
    assert len(held) >= len(whole)


def test_what_a_replay_says_anew_must_be_what_it_said() -> None:
    cursor = Cursor()
    assert Replay(cursor).feed("one\ntwo\nthr") == "one\ntwo\n"
    assert Replay(cursor).feed("one\ntwo\nthree\n") == "three\n"
    with pytest.raises(Contradiction):
        Replay(cursor).feed("one\nother\n")
    assert cursor.text() == "one\ntwo\nthree\n"


def test_a_correction_shows_only_what_was_missing() -> None:
    cursor = Cursor()
    Replay(cursor).feed("one\nthree\n")
    assert cursor.correct("one\ntwo\nthree\n") == "two\n"
    assert cursor.text() == "one\ntwo\nthree\n"
    assert cursor.correct("one\ntwo\nthree\nfour\n") is None
    assert cursor.correct("one\n") is None  # it came back short


def test_invalid_bytes_may_be_replaced_one_by_one_or_together() -> None:
    assert same("a\ufffd\ufffdb\n", "a\ufffdb\n")
    assert not same("a\ufffdb\n", "ab\n")
    assert not same("a\n", "b\n")
