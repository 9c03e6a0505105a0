"""What a model writes can't drive a terminal, wherever it is shown; as JSON it stays exact."""

from __future__ import annotations

import io
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fakes.scripted import Reply, Scripted, sse
from gpuserve.cli.markdown import LONGEST, Drawn, MarkdownView, split
from gpuserve.cli.output import Output, json_text, plain
from gpuserve.client.chat import ChatRequest, ask
from gpuserve.records import Endpoint

HOSTILE = [
    "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b31m", "\x1bP$q\x1b\\", "\x1b]8;;http://evil\x1b\\x",
    "\x1b]52;c;cGF5bG9hZA==\x07",
    "\r overwritten", "a\b\b\bb", "\x00\x7f\x85", "\u202etxt.exe", "\u2066\u2069", "\u061c", "\ufeff", "\U000e0041",
    "\ud83d lone", "\x0c\x0b", "\u2028",
]  # fmt: skip
ORDINARY = "naïve Ünïcode\u00a0\u202f… 👩\u200d👩\u200d👧 🏴 می\u200cخواهم 漢字\u3000e\u0301 ☎\ufe0f\tx\n"
#: What no terminal may be sent, whatever it does with it: categories, but for the harmless.
FORBIDDEN = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")


def harmless(text: str) -> bool:
    drives = [one for one in text if unicodedata.category(one) in FORBIDDEN and one not in "\n\t"]
    turns = re.findall("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]", text)
    return not drives and not turns


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_plain_text_is_harmless(text: str) -> None:
    assert not harmless(text)
    assert harmless(plain(text))


def test_ordinary_writing_is_left_alone() -> None:
    assert plain(ORDINARY) == ORDINARY
    assert plain("a\r\nb") == "a\nb"


@given(st.text(st.characters(), max_size=40))
def test_plain_and_json_are_harmless_for_every_text(text: str) -> None:
    assert harmless(plain(text))
    shown = json_text({"content": text})
    assert json.loads(shown) == {"content": text}
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode()


def render(text: str, pieces: int = 7) -> str:
    file = io.StringIO()
    view = MarkdownView(Console(file=file, force_terminal=True, width=60, height=20, color_system=None))
    for at in range(0, len(text), pieces):
        view.add(text[at : at + pieces])
    view.close()
    return file.getvalue()


@pytest.mark.parametrize(
    "text", [*HOSTILE, "&#x202e;evil", "[bank](http://evil.example)", "&#27;[2J", "`\x1b[2J`"], ids=ascii
)
def test_drawn_markdown_is_harmless(text: str) -> None:
    written = re.sub(r"\x1b\[\??[\d;]*[AKhlm]|\r", "", render(f"Look: {text}\n\n```\n{text}\n```\n\n- {text}\n"))
    assert harmless(written)
    assert "\x1b" not in written


DOCUMENT = """# Title one

A paragraph with **bold**, `code` and <b>tags</b> and List<String>.

1. first item

2. second item

   belongs to two

```python
def f(x):

    return "# no title"
```

| a | b |
|---|---|
| cell1 | cell2 |

[ref]: http://reference.example "kept"

![picture](http://picture.example/a.png) and [link](http://link.example/)

> quoted

last words"""


@pytest.mark.parametrize("pieces", [1, 5, 1000])
def test_drawing_loses_no_word(pieces: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=False, width=70)
    at = 0
    text = DOCUMENT
    while end := split(text[at:]):
        console.print(Drawn(text[at : at + end]))
        at += end
    console.print(Drawn(text[at:]))
    whole = file.getvalue()
    for word in set(re.findall(r"[A-Za-z][\w./:]+", DOCUMENT)) - {"python"}:
        assert word in whole, word
    assert "<b>tags</b>" in whole
    assert render(DOCUMENT, pieces)


def test_blocks_are_split_where_nothing_can_change_them() -> None:
    assert split("one\n\ntwo") == len("one\n\n")
    assert split("one\n\n") == 0
    assert split("one\n\n ") == 0
    assert split("- a\n\n- b") == 0
    assert split("1. a\n\n2") == 0
    assert split("```\na\n\nb\n") == 0
    assert split("```\na\n\nb\n```\n\nrest") == len("```\na\n\nb\n```\n\n")


@given(st.lists(st.sampled_from(["word ", "\n", "\n\n", "- x\n", "```\n", "  y\n", "# h\n", "1. z\n"]), max_size=25))
def test_what_is_settled_never_changes(parts: list[str]) -> None:
    text = "".join(parts)
    settled = 0
    for at in range(len(text) + 1):
        end = split(text[:at])
        assert end >= settled or end == 0
        settled = max(settled, end)
        assert text[:end].strip() == "" or text[:end].endswith("\n")


def test_a_huge_line_is_written_once_as_it_comes() -> None:
    line = "x" * (LONGEST * 5)
    written = render(line, 500)
    assert written.count("x") < len(line) + 20 * 60 * 20
    assert "x" * LONGEST in written


def test_half_a_pair_and_foreign_encodings_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    Output().write("é \ud83d 漢")
    assert raw.getvalue() == "é ? ?".encode("latin-1")


def test_invalid_utf8_and_pairs_in_two_pieces_from_the_wire() -> None:
    events = [
        b'data: {"choices": [{"index": 0, "delta": {"content": "a\xff\xc3"}}]}\n\n',
        sse({"choices": [{"index": 0, "delta": {"content": "\ud83d"}}]}),
        sse({"choices": [{"index": 0, "delta": {"content": "\ude00\x1b[2J"}, "finish_reason": "stop"}]}),
        sse("[DONE]"),
    ]
    with Scripted(Reply(headers={"Content-Type": "text/event-stream"}, chunks=events)) as server:
        reply = ask(Endpoint(url=server.url, served_model="m"), ChatRequest(prompt="x"))
    assert reply.content == "a\ufffd\ufffd😀\x1b[2J"
