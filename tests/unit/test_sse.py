"""The decoder of server-sent events, against the HTML standard's rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuserve.client.sse import Decoder


def decoded(*chunks: bytes) -> list[str]:
    decoder = Decoder()
    events = [data for chunk in chunks for data in decoder.feed(chunk)]
    return events + decoder.finish()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\ndata: two\n\n", ["one", "two"]),
        (b"data: one\r\n\r\ndata: two\r\rdata: three\n\n", ["one", "two", "three"]),
        (b"data:tight\n\ndata:  two blanks\n\n", ["tight", " two blanks"]),
        (b"data: a\ndata: b\ndata:\ndata: c\n\n", ["a\nb\n\nc"]),
        (b"data\n\n", [""]),
        (b": a comment\n\n: another\ndata: x\n\n", ["x"]),
        (b"event: message\nid: 7\nretry: 10\ndata: x\nunknown: y\n\n", ["x"]),
        (b"event: only\n\n\n\n", []),
        (b"database: no\n data: no\nDATA: no\n\n", []),
        (b'data: {"a": "b: c"}\n\n', ['{"a": "b: c"}']),
        (b"\xef\xbb\xbfdata: after a mark\n\ndata: \xef\xbb\xbfkept\n\n", ["after a mark", "\ufeffkept"]),
        (b"data: \xff\xfe\n\n", ["\ufffd\ufffd"]),
        (b"data: unfinished\n", ["unfinished"]),
        (b"data: half a li", ["half a li"]),
        (b"", []),
    ],
)
def test_streams(stream: bytes, events: list[str]) -> None:
    assert decoded(stream) == events


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_only_the_three_line_ends_end_a_line(letter: str) -> None:
    assert decoded(f"data: a{letter}b\n\n".encode()) == [f"a{letter}b"]


def test_an_event_is_given_as_soon_as_it_is_whole() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == ["a"]
    assert decoder.feed(b"\ndata: b\n") == []
    assert decoder.feed(b"\n") == ["b"]
    assert decoder.finish() == []


def test_a_letter_cut_in_two_is_put_together() -> None:
    whole = "data: ä€😀\n\n".encode()
    assert decoded(*(whole[at : at + 1] for at in range(len(whole)))) == ["ä€😀"]


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream of odd bytes, and the same cut somewhere."""
    pieces = [
        b"data",
        b"data: ",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"event: x",
        b"\xef\xbb\xbf",
        "€\u2028".encode(),
    ]
    parts = st.one_of(st.sampled_from(pieces), st.binary(max_size=4))
    stream = b"".join(draw(st.lists(parts, max_size=30)))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return stream, [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(cut_streams())
def test_any_chunking_gives_the_same_events(case: tuple[bytes, list[bytes]]) -> None:
    stream, chunks = case
    assert decoded(*chunks) == decoded(stream)


@given(st.lists(st.text(max_size=20), max_size=10), st.sampled_from(["\n", "\r", "\r\n"]))
def test_json_payloads_come_back_unchanged(texts: list[str], end: str) -> None:
    stream = "".join(f"data: {json.dumps(text, ensure_ascii=False)}{end}{end}" for text in texts)
    assert [json.loads(data) for data in decoded(stream.encode("utf-8", errors="surrogatepass"))] == texts
