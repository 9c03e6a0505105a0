"""The form of a batch's answers: how it is asked for, and what becomes of an answer that hasn't got it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import gpuserve
from fakes.scripted import Reply, Scripted, as_json
from gpuserve import Endpoint
from gpuserve.bulk.answers import Batch
from gpuserve.bulk.output import OutputFile, answer_line, error_line
from gpuserve.client import constraints
from gpuserve.errors import UsageError
from gpuserve.serving.batch import BatchRequest, batch_at
from gpuserve.serving.batch_form import Found, checked_lines, form_body, split_lines
from gpuserve.serving.batch_remote import with_ours

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
    assert done.summary["cut_short"] == 1
    again, _ = asked(tmp_path, rows, said('{"n": 2}'), said('{"n": 3}'), schema=SCHEMA, retry_failed=True)
    assert sorted(answer.json["n"] for answer in again) == [1, 2, 3]


def test_an_answer_of_the_form_is_whole_wherever_the_limit_fell(tmp_path: Path) -> None:
    done, _ = asked(tmp_path, '{"text": "a"}\n{"text": "b"}\n', said('{"n": 1}', "length"), said("1"), schema=SCHEMA)
    assert [answer.ok for answer in done] == [True, False]
    assert (done.summary["answered"], done.summary["cut_short"]) == (1, 0)


@pytest.mark.parametrize("rows", ['{"text": "a"}', '\ufeff{"custom_id": "x", "body": {"messages": []}}', "a\nb"])
def test_rows_from_a_pipe_are_told_apart_as_those_of_a_file(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[list[object]] = []
    for name in ("-", str(tmp_path / ("in.txt" if rows == "a\nb" else "in.jsonl"))):
        (tmp_path / name if name != "-" else tmp_path / "piped").write_text(rows)
        with (tmp_path / "piped").open() as pipe, Scripted(*[as_json(said("yes"))] * (rows.count("\n") + 1)) as server:
            monkeypatch.setattr("sys.stdin", pipe)
            request = BatchRequest(source=name, output=str(tmp_path / f"{len(bodies)}.jsonl"), concurrency=1)
            batch_at(Endpoint(url=server.url, served_model="m"), request, emit=lambda _: None)
            bodies.append([seen.json()["messages"] for seen in server.requests])
    assert bodies[0] == bodies[1]


def test_what_a_shell_gives_as_a_file_may_be_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "63")
    writer = threading.Thread(target=(tmp_path / "63").write_text, args=("a\nb\n",))
    writer.start()
    request = BatchRequest(source=str(tmp_path / "63"), output=str(tmp_path / "out.jsonl"), concurrency=1)
    with Scripted(as_json(said("yes")), as_json(said("no"))) as server:
        batch_at(Endpoint(url=server.url, served_model="m"), request, emit=lambda _: None)
    writer.join()
    with pytest.raises(UsageError, match="need a name"):
        _ = BatchRequest(source=str(tmp_path / "63")).target


def test_what_was_cut_is_asked_again_with_a_higher_limit(tmp_path: Path) -> None:
    rows = '{"text": "a"}\n{"text": "b"}\n'
    asked(tmp_path, rows, said('{"n": 1}'), said('{"n"', "length"), schema=SCHEMA, max_tokens=2)
    done, bodies = asked(tmp_path, rows, said('{"n": 2}'), schema=SCHEMA, max_tokens=9, retry_failed=True)
    assert [answer.json["n"] for answer in done] == [1, 2]
    assert [body["max_tokens"] for body in bodies] == [9]


def test_the_api_takes_texts(tmp_path: Path) -> None:
    with Scripted(as_json(said("yes")), as_json(said("no"))) as server:
        endpoint = Endpoint(url=server.url, served_model="m")
        done = gpuserve.batch(["a", "b\nc"], tmp_path / "out.jsonl", endpoint, concurrency=1)
        contents = [seen.json()["messages"][0]["content"] for seen in server.requests]  # type: ignore[index]
    assert contents == ["a", "b\nc"]
    assert [answer.custom_id for answer in done] == ["line-1", "line-2"]


def test_the_output_is_never_the_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be the input"):
        asked(tmp_path, "", output=f"{tmp_path}/../{tmp_path.name}/in.jsonl")


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
    bodies = [said("yes"), said("perhaps"), said("no", "length")]
    good = [answer_line("0" * 16, f"r{at}", 200, "q", json.dumps(body).encode()) for at, body in enumerate(bodies)]
    return [*good, error_line("0" * 16, "r3", "timed_out", "no byte")]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_what_comes_from_a_sandbox_is_checked_line_by_line(size: int) -> None:
    whole = b"".join(lines()) + lines()[0][:20]
    chunks: Iterator[bytes] = (whole[at : at + size] for at in range(0, len(whole), size))
    constraint = constraints.read(choice="yes,no")
    assert constraint is not None
    told = Found()
    found = list(checked_lines(split_lines(chunks), constraint, told))
    assert told == Found(wrong=1, whole=1)
    assert [found[0], *found[2:]] == [lines()[0], *lines()[2:]]
    row = json.loads(found[1])
    assert row["error"]["code"] == "bad_reply"
    assert row["response"]["body"] == said("perhaps")


def test_the_summary_of_a_sandbox_is_corrected_by_what_was_checked_here() -> None:
    summary = {"answered": 2, "failed": 1, "answered_before": 5, "failed_before": 0, "cut_short": 3, "rows": 8}
    assert Found(wrong=3, whole=1).correct(summary) == {
        "answered": 0, "failed": 3, "answered_before": 4, "failed_before": 1, "cut_short": 2, "rows": 8,
    }  # fmt: skip


def test_what_was_answered_here_meanwhile_stays(tmp_path: Path) -> None:
    """Rows r0 to r3 come from the sandbox, the last one failed; r3 and r9 were answered here."""
    ours = [answer_line("0" * 16, name, 200, "q", b"{}") for name in ("r1", "r3", "r9")]
    with closing(OutputFile(tmp_path / "out.jsonl")) as output:
        for line in ours:
            output.append(line)
        output.replace(with_ours(iter(lines()), output))
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join([*lines()[:3], *ours[1:]])
