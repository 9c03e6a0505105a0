"""The form of a batch's answers: how it is asked for, and what becomes of an answer that hasn't got it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.scripted import Reply, Scripted, as_json
from gpuserve import Endpoint
from gpuserve.bulk.answers import Batch
from gpuserve.bulk.output import answer_line, error_line
from gpuserve.client import constraints
from gpuserve.errors import UsageError
from gpuserve.serving.batch import BatchRequest, batch_at
from gpuserve.serving.batch_form import checked_lines, form_body

SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'


def said(text: str, reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": reason}]}


def asked(folder: Path, rows: str, *answers: dict[str, Any], **options: Any) -> tuple[Batch, list[dict[str, object]]]:
    """One run over ``rows``, against a server that gives these answers; also what it was asked."""
    (folder / "in.jsonl").write_text(rows)
    request = BatchRequest(source=str(folder / "in.jsonl"), concurrency=1, **options)
    replies: list[Reply] = [as_json(answer) for answer in answers]
    with Scripted(*replies) as server:
        summary = batch_at(Endpoint(url=server.url, served_model="m"), request, emit=lambda _: None)
        bodies = [seen.json() for seen in server.requests]
    return Batch(Path(summary["output"]), summary), bodies


def test_an_answer_without_the_form_is_a_failed_row_that_keeps_it_and_is_asked_again(tmp_path: Path) -> None:
    rows = '{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n'
    done, bodies = asked(tmp_path, rows, said('{"n": 1}'), said('{"n": "x"}'), said('{"n"', "length"), schema=SCHEMA)
    assert all(body["response_format"] for body in bodies)
    assert (done.summary["answered"], done.summary["failed"]) == (1, 2)
    first, second, third = done
    assert first.json == {"n": 1}
    assert not second.ok
    assert "JSON of the schema" in second.error
    assert "HTTP" not in second.error
    assert second.body["choices"][0]["message"]["content"] == '{"n": "x"}'
    assert "cut at the limit" in third.error
    again, _ = asked(tmp_path, rows, said('{"n": 2}'), said('{"n": 3}'), schema=SCHEMA, retry_failed=True)
    assert sorted(answer.json["n"] for answer in again) == [1, 2, 3]


def test_a_row_with_a_form_of_its_own_is_left_alone(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    own = {**body, "response_format": {"type": "json_object"}}
    rows = "".join(json.dumps({"custom_id": name, "body": one}) + "\n" for name, one in (("own", own), ("ours", body)))
    done, bodies = asked(tmp_path, rows, said('{"m": 1}'), said('{"m": 1}'), schema=SCHEMA)
    assert bodies[0]["response_format"] == {"type": "json_object"}
    assert [(answer.custom_id, answer.ok) for answer in done] == [("own", True), ("ours", False)]


def test_an_endpoint_of_which_nothing_is_known_takes_what_the_openai_api_has(tmp_path: Path) -> None:
    assert form_body("", None) == {}
    with pytest.raises(UsageError, match="--choice"):
        form_body("", constraints.read(choice="yes,no"))
    with pytest.raises(UsageError, match="effort"):
        asked(tmp_path, '{"text": "a"}', reasoning_effort="much")


def lines() -> list[bytes]:
    bodies = [said("yes"), said("perhaps"), said("no")]
    good = [answer_line("0" * 16, f"r{at}", 200, "q", json.dumps(body).encode()) for at, body in enumerate(bodies)]
    return [*good, error_line("0" * 16, "r3", "timed_out", "no byte")]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_what_comes_from_a_sandbox_is_checked_line_by_line(size: int) -> None:
    whole = b"".join(lines())
    chunks: Iterator[bytes] = (whole[at : at + size] for at in range(0, len(whole), size))
    wrong: list[str] = []
    constraint = constraints.read(choice="yes,no")
    assert constraint is not None
    found = b"".join(checked_lines(chunks, constraint, wrong)).splitlines(keepends=True)
    assert wrong == ["r1"]
    assert [found[0], *found[2:]] == [lines()[0], *lines()[2:]]
    row = json.loads(found[1])
    assert row["error"]["code"] == "bad_reply"
    assert row["response"]["body"] == said("perhaps")
