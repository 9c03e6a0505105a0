"""What a run meets besides answers and errors: notebooks and signals, inputs that change, other routes, odd answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from e2e.usershell import eventually
from fakes.desk import Desk, good, rows_at
from fakes.scripted import Reply, Scripted, as_json
from gpuserve.bulk import process
from gpuserve.bulk.answers import Batch
from gpuserve.bulk.events import BatchEvent, Checked, Draining
from gpuserve.bulk.run import run
from gpuserve.errors import Conflict, EngineError, Interrupted, UsageError

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_a_run_gives_the_signals_back(desk: Desk) -> None:
    def own(_number: int, _frame: object) -> None:
        """A caller's handler."""

    before = {number: signal.signal(number, own) for number in process.STOPPING}
    try:
        desk.run(good(), good())
        assert [signal.getsignal(number) for number in process.STOPPING] == [own, own]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_in_a_notebook_it_runs_beside_the_loop_and_ctrl_c_drains_it(desk: Desk) -> None:
    """An event loop runs in the main thread, and its Ctrl-C is Python's own."""
    gate = threading.Event()

    async def cell(server: Scripted) -> dict[str, Any]:
        return run(desk.job(server.url), emit=lambda event: gate.set() if isinstance(event, Draining) else None)

    def interrupt(server: Scripted) -> None:
        eventually(lambda: server.requests)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.new_event_loop()
    try:
        with Scripted(Reply(chunks=[gate, good().body])) as server:
            user = threading.Thread(target=interrupt, args=(server,))
            user.start()
            with pytest.raises(Interrupted, match="1 rows are done, 1 are left"):
                loop.run_until_complete(cell(server))
            user.join()
        with Scripted(good()) as server:
            assert loop.run_until_complete(cell(server))["answered_before"] == 1
    finally:
        loop.close()
        signal.signal(signal.SIGINT, before)
    assert len(desk.rows) == 2


def test_an_input_that_changes_under_a_run_ends_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ["first", "second"])

    def change(event: BatchEvent) -> None:
        if isinstance(event, Checked):
            desk.input.write_text("first\nfourth")

    with Scripted(good()) as server, pytest.raises(Conflict, match=r"line 2 of .* was changed"):
        run(desk.job(server.url), emit=change)
    assert [row["custom_id"] for row in desk.rows] == ["line-1"]


def test_a_table_is_put_in_order_too(tmp_path: Path) -> None:
    """The input is read a second time for that: its first line names columns each time."""
    desk = Desk(tmp_path, ["text,custom_id", "a,1", "b,text"])
    desk.run(good(), good(), form="csv", output_order="input")
    assert [row["custom_id"] for row in desk.rows] == ["1", "text"]


def test_requests_of_other_routes_go_on_as_they_are(tmp_path: Path) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "Say", "max_tokens": 3},
        "/v1/embeddings": {"input": ["a", "b"]},
        "/v1/responses": {"input": "Say"},
    }
    rows = [json.dumps({"custom_id": url, "method": "POST", "url": url, "body": body}) for url, body in bodies.items()]
    desk = Desk(tmp_path, rows)
    usage = {"input_tokens": 7, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 6}}
    answers: tuple[dict[str, Any], ...] = (
        {
            "choices": [{"text": "hello", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        },
        {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}},
        {"status": "incomplete", "output": [], "error": None, "usage": usage},
    )
    more = {"form": "openai", "defaults": {"temperature": 0.0}, "stream": True}
    summary = desk.run(*map(as_json, answers), **more)
    assert [(seen.path, seen.json()) for seen in desk.requests] == [
        (url, {**body, "model": "m"}) for url, body in bodies.items()
    ]
    assert [row["response"]["body"] for row in desk.rows] == list(answers)
    told = [summary[name] for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cut_short", "failed")]
    assert told == [11, 6, 6, 1, 0]
    first, second, _ = Batch(desk.output, summary)
    assert first.text == "hello"
    with pytest.raises(EngineError, match="holds no text"):
        _ = second.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_an_answer_in_another_encoding_is_a_line_like_others(desk: Desk, encoding: str) -> None:
    odd = [Reply(status, body=json.dumps({"object": "ä"}).encode(encoding)) for status in (200, 400)]
    desk.run(*odd)
    assert [row["response"]["body"] for row in desk.rows] == [{"object": "ä"}] * 2
    assert desk.run()["answered_before"] == 1  # and the next run can read it


def test_an_error_that_comes_with_status_200_is_none_the_less_one(desk: Desk) -> None:
    busy, refused = ({"error": {"message": "no", "code": code}} for code in (429, 400))
    summary = desk.run(as_json(busy), good(), as_json(refused))
    assert (summary["retries"], summary["failed"]) == (1, 1)
    assert desk.rows[1]["response"]["status_code"] == 400


def test_what_stands_behind_a_lost_block_is_cut_off_with_it(desk: Desk) -> None:
    desk.run(good(), good())
    first, second = desk.output.read_bytes().splitlines(keepends=True)
    desk.output.write_bytes(first + b"\0" * 60 + second[60:])
    desk.run(good())
    assert len(desk.rows) == 2
    video = b"\0\0\0\x20ftypmp42\n"
    desk.output.write_bytes(video)
    desk.fails(UsageError)
    assert desk.output.read_bytes() == video


def test_an_output_behind_a_link_stays_there_and_no_device_is_one(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    desk.output.symlink_to(tmp_path / "kept" / "rows.jsonl")
    desk.run(as_json({}, 400), good())
    desk.run(good(), retry_failed=True)
    assert desk.output.is_symlink()
    assert len(rows_at(tmp_path / "kept" / "rows.jsonl")) == 2
    desk.output = Path("/dev/null")
    desk.fails(UsageError)
