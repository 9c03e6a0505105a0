"""A run against a scripted server: what is asked again, what isn't, what is written, what is found by the next run."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from e2e.usershell import eventually
from fakes.desk import Desk, good
from fakes.scripted import CUT, RESET, Reply, Scripted, as_json, sse, stream
from gpuserve.bulk import pace, process
from gpuserve.bulk import run as running
from gpuserve.bulk.output import OutputFile
from gpuserve.bulk.run import run
from gpuserve.errors import (
    Conflict,
    NetworkError,
    NotAuthenticated,
    NotFound,
    TimedOut,
    UsageError,
)
from gpuserve.records import Endpoint
from gpuserve.serving.batch import judge_of

TOKEN = "q" * 16


pytestmark = pytest.mark.usefixtures("no_pauses")


def test_an_answer_is_a_line_of_an_openai_batch(desk: Desk) -> None:
    pretty = Reply(body=json.dumps({"id": "c2", "choices": []}, indent=1).encode(), headers={"x-request-id": "r7"})
    summary = desk.run(good(prompt_tokens_details={"cached_tokens": 4}), pretty)
    first, second = desk.rows
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("line-1", None, 200)
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "yes"
    assert (first["response"]["request_id"], second["response"]["request_id"]) == ("c1", "r7")
    told = {name: summary[name] for name in ("rows", "answered", "failed", "prompt_tokens", "cached_tokens", "left")}
    assert told == {"rows": 2, "answered": 2, "failed": 0, "prompt_tokens": 5, "cached_tokens": 4, "left": 0}
    assert 0 < summary["server"]["p50"] <= summary["latency"]["p99"] * 1.03
    assert desk.requests[0].json() == {"messages": [{"role": "user", "content": "a"}], "model": "m"}


@pytest.mark.parametrize(
    "bad",
    [
        as_json({"error": {"message": "busy"}}, 429),
        as_json({"error": {"message": "oops"}}, 500),
        as_json({"error": {"message": "gate"}}, 503),
        Reply(status=0, chunks=[RESET]),
        Reply(status=0, chunks=[CUT]),
        Reply(chunks=[b'{"id":', CUT]),
        Reply(body=b"<html>hello</html>"),
        stream({"choices": [{"index": 0, "delta": {"content": "ha"}}]}, done=False),
        stream({"error": {"code": 503, "message": "died"}}),
    ],
    ids=["429", "500", "503", "reset", "closed", "cut", "page", "cut stream", "error in a stream"],
)
def test_what_may_pass_is_asked_again(desk: Desk, bad: Reply) -> None:
    summary = desk.run(good(), bad, bad, good())
    assert [row["response"]["status_code"] for row in desk.rows] == [200, 200]
    assert (summary["retries"], summary["failed"]) == (2, 0)
    assert [json.loads(seen.body)["messages"][0]["content"] for seen in desk.requests] == ["a", "b", "b", "b"]


def test_silence_is_given_up_and_asked_again(desk: Desk) -> None:
    never = threading.Event()
    with Scripted(good(), Reply(chunks=[never]), good()) as server:
        summary = run(desk.job(server.url, timeout=0.2))
        never.set()
    assert (summary["answered"], summary["retries"]) == (2, 1)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_server_refuses_is_never_asked_again(desk: Desk, status: int) -> None:
    summary = desk.run(as_json({"error": {"message": "too long"}}, status), good())
    failed, answered = desk.rows
    assert (failed["response"]["status_code"], failed["error"]) == (status, None)
    assert failed["response"]["body"] == {"error": {"message": "too long"}}
    assert answered["custom_id"] == "line-2"
    assert (summary["failed"], summary["retries"]) == (1, 0)


def test_a_row_that_stays_broken_gets_a_line_of_its_own(desk: Desk) -> None:
    broken = Reply(body=b"no json")
    summary = desk.run(good(), broken, broken, retries=1)
    assert desk.rows[1]["response"] is None
    assert desk.rows[1]["error"] == {"code": "no_json", "message": "the server answered with something that is no JSON"}
    assert (summary["failed"], summary["retries"]) == (1, 1)


def test_retry_after_is_waited_for() -> None:
    assert pace.pause(1, 7.0) == 7.0
    assert pace.pause(1, 9999.0) == pace.LONGEST_WAIT
    assert 0 < pace.pause(1, None) <= pace.FIRST_PAUSE
    assert pace.pause(50, None) <= pace.LONGEST_PAUSE
    assert pace.retry_after("12") == 12.0
    assert pace.retry_after("soon") is None
    from datetime import UTC, datetime

    now = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
    assert pace.retry_after("Sun, 22 Nov 2026 08:01:00 GMT", now) == 60.0


def test_failed_rows_stay_until_they_are_asked_for(desk: Desk) -> None:
    refusal = as_json({"error": {"message": "no"}}, 400)
    desk.run(refusal, good())
    again = desk.run()
    assert (again["requests"], again["failed_before"], again["answered_before"]) == (0, 1, 1)
    summary = desk.run(good("late"), retry_failed=True)
    assert (summary["answered"], summary["answered_before"], summary["failed_before"]) == (1, 1, 0)
    assert sorted(row["custom_id"] for row in desk.rows) == ["line-1", "line-2"]
    assert all(row["response"]["status_code"] == 200 for row in desk.rows)


@pytest.mark.parametrize("cut", [1, 10, 60, 200])
def test_half_a_line_is_cut_off_and_asked_again(desk: Desk, cut: int) -> None:
    desk.run(good("first"), good("second"))
    whole = desk.output.read_bytes()
    first, second = whole.splitlines(keepends=True)
    desk.output.write_bytes(first + second[:-cut])
    summary = desk.run(good("again"))
    assert (summary["answered"], summary["answered_before"]) == (1, 1)
    assert desk.checked.mended == len(second) - cut
    assert desk.output.read_bytes().startswith(first)
    assert [row["custom_id"] for row in desk.rows] == ["line-1", "line-2"]


def test_the_zeros_of_a_lost_block_are_cut_off(desk: Desk) -> None:
    desk.run(good(), good())
    first = desk.output.read_bytes().splitlines(keepends=True)[0]
    desk.output.write_bytes(first + b"\0" * 700)
    desk.run(good())
    assert len(desk.rows) == 2


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b'{"some": "json"}\n', b"\x89PNG"])
def test_a_file_that_is_something_else_is_left_alone(desk: Desk, content: bytes) -> None:
    desk.output.write_bytes(content)
    error = desk.fails(UsageError)
    assert "line 1, is no answer of a batch" in error.message
    assert desk.output.read_bytes() == content


def test_a_broken_line_in_the_middle_is_not_cut(desk: Desk) -> None:
    desk.run(good(), good())
    first, second = desk.output.read_bytes().splitlines(keepends=True)
    broken = first[:30] + b"\n" + second
    desk.output.write_bytes(broken)
    desk.fails(UsageError)
    assert desk.output.read_bytes() == broken


def test_another_batch_is_not_mixed_in(desk: Desk) -> None:
    desk.run(good(), good())
    before = desk.output.read_bytes()
    assert "other questions" in desk.fails(Conflict, template="Now {text}").message
    desk.input.write_text("a\nc")
    assert "line 2" in desk.fails(Conflict).message
    desk.input.write_text("a")
    assert "1 answers to rows" in desk.fails(Conflict).message
    assert desk.output.read_bytes() == before


def test_the_output_can_be_put_in_order(tmp_path: Path) -> None:
    passages = [f"{letter * 150} is what this passage says" for letter in "xyz"]
    desk = Desk(tmp_path, [f"{passage}. {question}?" for question in ("Who", "Why") for passage in passages])
    replies = [good(str(number)) for number in range(6)]
    desk.run(*replies, order="prefix")
    sent = [json.loads(seen.body)["messages"][0]["content"] for seen in desk.requests]
    assert sorted(sent) == sorted(desk.input.read_text().splitlines())
    assert all(one[:1] == other[:1] for one, other in zip(sent[::2], sent[1::2], strict=True))  # the cache has it still
    desk.output.write_bytes(b"".join(reversed(desk.output.read_bytes().splitlines(keepends=True))))
    before = sorted(desk.output.read_bytes().splitlines())
    summary = desk.run(output_order="input")
    assert summary["requests"] == 0
    assert [row["custom_id"] for row in desk.rows] == [f"line-{number}" for number in range(1, 7)]
    assert sorted(desk.output.read_bytes().splitlines()) == before


def test_a_refused_credential_ends_it_without_a_line_and_without_the_credential(desk: Desk) -> None:
    refusal = as_json({"error": {"message": f"bad token {TOKEN}"}}, 401)
    with Scripted(refusal) as server:
        endpoint = Endpoint(url=server.url, served_model="m", headers={"x-daytona-preview-token": TOKEN})
        with pytest.raises(NotAuthenticated) as caught:
            run(desk.job(server.url, headers=dict(endpoint.headers)), judge=judge_of(endpoint))
    assert server.requests[0].headers["x-daytona-preview-token"] == TOKEN
    assert TOKEN not in caught.value.message + caught.value.hint
    assert desk.output.read_bytes() == b""
    gone = as_json({"statusCode": 400, "message": "bad request: no IP address found. Is the Sandbox started?"}, 400)
    with Scripted(good(), gone) as server, pytest.raises(NotFound):
        run(desk.job(server.url), judge=judge_of(Endpoint(url=server.url, served_model="m")))
    assert len(desk.rows) == 1


def test_an_endpoint_that_is_gone_leaves_the_rows_unanswered(desk: Desk) -> None:
    with Scripted() as server:
        nobody = server.url
    with pytest.raises(NetworkError, match="2 rows are left"):
        run(desk.job(nobody, retries=1))
    assert desk.output.read_bytes() == b""
    never = threading.Event()
    with Scripted(good(), *[Reply(chunks=[never])] * 3) as server:
        with pytest.raises(TimedOut, match="1 rows are left"):
            run(desk.job(server.url, timeout=0.2, retries=1))
        never.set()
    assert len(desk.rows) == 1


GATE = as_json({"error": {"message": "gate"}}, 504)


def asked(desk: Desk) -> str:
    """The rows of the last run as they were asked, one letter each."""
    return "".join(json.loads(seen.body)["messages"][0]["content"] for seen in desk.requests)


@pytest.mark.parametrize("bad", [GATE, Reply(status=0, chunks=[RESET])], ids=["504", "reset"])
def test_a_row_that_alone_gets_no_answer_fails_and_the_run_goes_on(desk: Desk, bad: Reply) -> None:
    desk.input.write_text("a\nb\nc")
    summary = desk.run(good(), bad, bad, good(), bad, good(), retries=1)
    assert asked(desk) == "abbabc"  # "a" is asked again to see whether anybody is answered
    assert [row["custom_id"] for row in desk.rows] == ["line-1", "line-2", "line-3"]
    assert (summary["answered"], summary["failed"], summary["left"], summary["requests"]) == (2, 1, 0, 3)
    failed = desk.rows[1]["response"] or desk.rows[1]["error"]
    assert (failed.get("status_code"), failed.get("code")) in [(504, None), (None, "connection_lost")]


def test_the_last_row_of_a_batch_can_fail_too(desk: Desk) -> None:
    desk.fails(NetworkError, good(), GATE, GATE, GATE, retries=1)
    assert asked(desk) == "abba"
    assert len(desk.rows) == 1
    summary = desk.run(GATE, GATE, good(), GATE, retries=1)
    assert asked(desk) == "bbab"  # the witness is a row that the first run got an answer to
    assert (summary["answered_before"], summary["failed"], summary["left"]) == (1, 1, 0)


def test_a_row_in_doubt_is_asked_once_more_when_the_endpoint_is_back(desk: Desk) -> None:
    summary = desk.run(good(), GATE, GATE, good(), good("late"), retries=1)
    assert (summary["answered"], summary["failed"], summary["left"]) == (2, 0, 0)


def test_a_refusal_ends_the_run_whenever_it_comes(desk: Desk) -> None:
    desk.fails(NotAuthenticated, good(), GATE, GATE, good(), as_json({}, 401), retries=1)
    assert len(desk.rows) == 1


def test_a_first_row_without_an_answer_waits_for_the_others(desk: Desk) -> None:
    summary = desk.run(GATE, GATE, good(), GATE, GATE, good(), GATE, retries=1)
    assert asked(desk) == "aabaaba"
    assert (summary["answered"], summary["failed"], summary["left"]) == (1, 1, 0)


def test_an_endpoint_that_answers_nobody_makes_no_failed_rows(desk: Desk) -> None:
    desk.input.write_text("\n".join("abcdefgh"))
    error = desk.fails(NetworkError, *[GATE] * (running.ASIDE + 1), retries=0)
    assert "8 rows are left" in error.message
    assert desk.output.read_bytes() == b""
    desk.input.write_text("a\nb")
    desk.fails(NetworkError, *[GATE] * 3, retries=0)  # both, and the first once more
    assert desk.output.read_bytes() == b""


def test_an_endpoint_that_goes_down_makes_no_failed_rows_of_those_in_flight(desk: Desk) -> None:
    """One row is answered while another is asked again and again, and then nobody is."""
    held, answer = threading.Event(), good()
    held_back = Reply(headers={"Content-Type": "application/json"}, chunks=[held, answer.body])
    with Scripted(GATE, held_back, *[GATE] * 8) as server:  # eight attempts, and one at the row that was answered

        def let_go() -> None:
            eventually(lambda: len(server.requests) == 5, every=0.005)
            held.set()

        helper = threading.Thread(target=let_go)
        helper.start()
        with pytest.raises(NetworkError, match="1 rows are left"):
            run(desk.job(server.url, concurrency=2, retries=7))
        helper.join()
    assert [row["response"]["status_code"] for row in desk.rows] == [200]


def test_an_answer_may_be_streamed(desk: Desk) -> None:
    def delta(**more: Any) -> dict[str, Any]:
        return {"id": "c3", "choices": [{"index": 0, "delta": more, "finish_reason": None}]}

    call = {"index": 0, "id": "t1", "function": {"name": "look", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ":1}"}}
    end = {"id": "c3", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    usage = {"id": "c3", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
    events = (delta(role="assistant", content="ha"), delta(content="llo"), delta(reasoning="hm"))
    chunks = [sse(one) for one in (*events, delta(tool_calls=[call]), delta(tool_calls=[rest]), end, usage, "[DONE]")]
    summary = desk.run(
        Reply(headers={"Content-Type": "text/event-stream; charset=utf-8"}, chunks=chunks), good(), stream=True
    )
    assert desk.requests[0].json()["stream_options"] == {"include_usage": True}
    body = desk.rows[0]["response"]["body"]
    (choice,) = body["choices"]
    assert body["object"] == "chat.completion"
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["content"], choice["message"]["reasoning"]) == ("hallo", "hm")
    assert choice["message"]["tool_calls"] == [
        {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    ]
    assert (summary["prompt_tokens"], summary["completion_tokens"]) == (14, 5)


def test_the_lock_outlives_a_rewrite(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    one = OutputFile(path)
    try:
        one.replace([b""])
        with pytest.raises(Conflict, match="another run"):
            OutputFile(path)
    finally:
        one.close()
    OutputFile(path).close()


def test_no_more_connections_than_the_system_allows() -> None:
    assert process.most_connections(10) == 10


def test_the_limit_grows_while_that_helps_and_shrinks_once_for_what_failed_together() -> None:
    limiter = pace.Limiter(start=4, most=64)
    now = 0.0
    for _ in range(2000):  # a server that answers 100 a second for each in flight, at most 1,600
        now += 1 / min(100 * limiter.limit, 1600)
        limiter.answered(now)
    assert 16 <= limiter.limit <= 64
    before = limiter.limit
    for sent in (now - 0.2, now - 0.1, now):
        limiter.refused(sent, now + 1)
    assert before * 0.6 <= limiter.limit < before
    fixed = pace.Limiter(start=4, most=64, fixed=9)
    fixed.refused(1.0, 2.0)
    assert fixed.limit == 9
