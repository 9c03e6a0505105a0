"""What is a row, in each format, and what is told of one that isn't."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from gpuserve.bulk.index import Index, prefix_key
from gpuserve.bulk.job import Job, from_dict
from gpuserve.bulk.prepare import read_input
from gpuserve.bulk.rows import BadRow, Source, rendered
from gpuserve.errors import UsageError


def make_source(tmp_path: Path, name: str, content: str | bytes, **more: Any) -> Source:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Source(Job(source=str(path), output="o", url="http://x", model="m", **more))


def bodies(source: Source) -> list[tuple[str, dict[str, Any]]]:
    """Custom ID and body of every row, read a second time by its place."""
    try:
        places = [place for place, _ in source.places()]
        return [(one.custom_id, json.loads(one.body)) for one in map(source.read, places)]
    finally:
        source.close()


def prompts(source: Source) -> list[tuple[str, Any]]:
    return [(custom_id, body["messages"][-1]["content"]) for custom_id, body in bodies(source)]


def problems(source: Source) -> str:
    index = Index()
    try:
        with pytest.raises(UsageError) as caught:
            read_input(source, index, by_prefix=False, emit=lambda _: None)
    finally:
        index.close()
        source.close()
    return caught.value.message


def openai_row(custom_id: object = "a", **more: object) -> str:
    body = {"model": "theirs", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **more})


def test_an_openai_row_keeps_its_settings_and_gets_the_model_that_is_served(tmp_path: Path) -> None:
    source = make_source(tmp_path, "in.jsonl", openai_row(), defaults={"max_tokens": 99, "temperature": 0})
    assert source.form == "openai"
    [(custom_id, body)] = bodies(source)
    assert (custom_id, body["model"], body["max_tokens"], body["temperature"]) == ("a", "m", 7, 0)
    [(_, kept)] = bodies(make_source(tmp_path, "in.jsonl", openai_row(), keep_model=True))
    assert kept["model"] == "theirs"


def test_simple_rows_in_every_format_say_the_same(tmp_path: Path) -> None:
    template = {"template": "{title}: {text}?"}
    jsonl = '{"id": 1, "title": "T", "text": "line one\\nline \\"two\\""}\n\n{"title": "U", "text": "b", "id": "z"}\n'
    table = 'id,title,text\n1,T,"line one\nline ""two"""\n\nz,U,b\n'
    wanted = [("1", 'T: line one\nline "two"?'), ("z", "U: b?")]
    assert prompts(make_source(tmp_path, "in.jsonl", jsonl, **template)) == wanted
    assert prompts(make_source(tmp_path, "in.csv", table, **template)) == wanted
    assert prompts(make_source(tmp_path, "in.csv", "\ufeff" + table.replace("\n", "\r\n"), **template)) == [
        ("1", 'T: line one\r\nline "two"?'),
        wanted[1],
    ]
    tabs = "id\ttitle\ttext\n1\tT\ta, b\n"
    assert prompts(make_source(tmp_path, "in.tsv", tabs, **template)) == [("1", "T: a, b?")]


def test_text_is_a_row_a_line_named_by_its_line(tmp_path: Path) -> None:
    source = make_source(tmp_path, "in.txt", "one\n\n  \ntwo \u2028 x\r\n", template="Say {text}", system="Be brief")
    assert prompts(source) == [("line-1", "Say one"), ("line-4", "Say two \u2028 x")]
    assert prompts(make_source(tmp_path, "in.txt", "one")) == [("line-1", "one")]


def test_a_template_fills_names_only() -> None:
    row = {"text": "T", "n": 3, "list": ["ä"]}
    assert rendered('{text} {n} {list} {{text}} as {"a": 1} { } {}', row) == 'T 3 ["ä"] {text} as {"a": 1} { } {}'
    with pytest.raises(BadRow, match="no field 'txt'"):
        rendered("{txt}", row)
    assert rendered("{text}", {"text": "{n}"}) == "{n}"  # what a row holds is never a template


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        (openai_row(None), "no custom_id"),
        (openai_row(7), "custom_id is no text"),
        (openai_row(""), "custom_id"),
        (openai_row(method="GET"), "method"),
        (openai_row(url="https://elsewhere/v1/x"), "url"),
        (openai_row(url="/v1/../toolbox/x"), "url"),
        (openai_row(url="/v1/%2e%2e/x"), "url"),
        (openai_row(url="/v1/chat/completions?x=1"), "url"),
        (openai_row(body=None), "no body"),
        (openai_row(body={"messages": "hi"}), "no messages"),
        (openai_row(body={"messages": [], "stream": True}), "streamed"),
        ('{"custom_id": "q", "body": {"messages": [], "temperature": NaN}}', "JSON"),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(tmp_path: Path, row: str, why: str) -> None:
    told = problems(make_source(tmp_path, "in.jsonl", f"{openai_row()}\n{row}\n"))
    assert "\nline 2: " in told
    assert why in told
    assert "nothing was sent" in told


def test_rows_in_simple_formats_are_named_too(tmp_path: Path) -> None:
    assert "line 2: it has no field 'text'" in problems(
        make_source(tmp_path, "in.jsonl", '{"text": "a"}\n{"txt": "a"}\n', template="{text}")
    )
    assert "line 3: it has 1 fields" in problems(make_source(tmp_path, "in.csv", "id,text\na,b\nc\n"))
    assert "line 2: it is no UTF-8" in problems(make_source(tmp_path, "in.txt", b"a\n\xff\n"))
    assert "line 2: it is no UTF-8" in problems(make_source(tmp_path, "in.csv", b"text\n\xff\n"))
    assert "line 1: it has no prompt" in problems(make_source(tmp_path, "in.jsonl", '{"question": "a"}\n'))
    assert "two columns named 'text'" in problems(make_source(tmp_path, "in.csv", "text,id,text\na,b,c\n"))
    assert "line 2: no valid CSV" in problems(make_source(tmp_path, "in.csv", 'text\n"a\n'))
    assert "holds no rows" in problems(make_source(tmp_path, "in.txt", "\n"))


def test_one_custom_id_twice_names_both_lines(tmp_path: Path) -> None:
    rows = "\n".join(openai_row(one) for one in ("a", "b", "c", "b", "a"))
    told = problems(make_source(tmp_path, "in.jsonl", rows))
    assert "line 4 has the custom_id of line 2" in told
    assert "line 5 has the custom_id of line 1" in told


def test_a_hundred_bad_rows_are_not_all_named(tmp_path: Path) -> None:
    told = problems(make_source(tmp_path, "in.jsonl", "{\n" * 100))
    assert told.count("\nline ") == 20
    assert told.endswith("and more of them")


def test_an_openai_batch_takes_no_template(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="template"):
        make_source(tmp_path, "in.jsonl", openai_row(), template="{text}")
    with pytest.raises(UsageError, match="can't read"):
        Source(Job(source=str(tmp_path / "none"), output="o", url="http://x", model="m"))


def test_a_question_is_told_from_every_other(tmp_path: Path) -> None:
    def ask(**more: Any) -> str:
        source = make_source(tmp_path, "in.txt", "a", **more)
        (place,) = [place for place, _ in source.places()]
        found = source.read(place).ask.hex()
        source.close()
        return found

    assert ask() == ask()
    assert len({ask(), ask(system="s"), ask(template="x {text}"), ask(defaults={"temperature": 1})}) == 4
    assert ask(defaults={"max_tokens": 1}) == ask()  # a higher limit asks the same


def test_what_begins_alike_is_sorted_together() -> None:
    shared, other = b"a" * 3000, b"b" * 3000
    bodies = [shared + b"1", other + b"1", shared + b"2" * 600, other + b"2" * 600, b"c"]
    runs = [first for first, _ in groupby(body[:1] for body in sorted(bodies, key=prefix_key))]
    assert len(runs) == len(set(runs)) == 3
    short = [b"x" * 300 + tail * 9 for tail in (b"1", b"2")]
    assert prefix_key(short[0])[:16] == prefix_key(short[1])[:16] != prefix_key(other)[:16]
    assert prefix_key(shared) != prefix_key(shared + b"1")  # what is longer than a block is told apart, too


def test_a_job_survives_json() -> None:
    job = Job(source="i", output="o", url="http://x", model="m", defaults={"a": [1]}, headers={"k": "v"})
    assert from_dict({**json.loads(json.dumps(job.as_dict())), "later": 1}) == job
    assert "'v'" not in repr(job)
    with pytest.raises(UsageError, match="order"):
        Job(source="i", output="o", url="http://x", model="m", order="random")
