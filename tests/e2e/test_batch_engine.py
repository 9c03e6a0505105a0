"""Batches against the real embedded engine: from here, and beside it in its sandbox."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gpuserve
from e2e.programs import run
from e2e.usershell import Shell, bring_up, eventually
from fakes.scripted import Reply, Scripted
from gpuserve.records import Endpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify_passages" / "classify.py"
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string", "enum": ["happy", "sad"]}},
    "required": ["mood"],
    "additionalProperties": False,  # else this model may fill its answer with fields of its own until it is cut
}
PASSAGE = "On the table number {0} there was a lamp, and beside the lamp number {0} a cat slept in the sun. " * 2


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    yield bring_up(shell, "--name", "rows")
    shell.run("down", "--all", "--yes")


def write_passages(path: Path, number: int) -> None:
    path.write_text("".join(json.dumps({"id": f"p{row}", "text": PASSAGE.format(row)}) + "\n" for row in range(number)))


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {row["custom_id"]: row["response"]["body"] for row in rows}
    assert len(found) == len(rows)
    return found


def two_passes(shell: Shell, folder: Path, number: int) -> None:
    """A question with a schema over every passage; then another, which must find the passages in the cache."""
    write_passages(folder / "in.jsonl", number)
    limits = ("--max-tokens", "96", "--temperature", "0")  # this model likes white space between the parts of its JSON
    common = ("batch", str(folder / "in.jsonl"), "--id", "rows", *limits, "--json", "--concurrency", "1")
    schema = ("--schema", json.dumps(SCHEMA))
    first = shell.ok(
        *common, "-o", str(folder / "1.jsonl"), "-t", "{text} Is this happy or sad?", *schema, timeout=1500
    ).data
    answers = rows_of(folder / "1.jsonl")
    assert sorted(answers) == sorted(f"p{row}" for row in range(number))
    moods = [json.loads(body["choices"][0]["message"]["content"])["mood"] for body in answers.values()]
    assert set(moods) <= {"happy", "sad"}
    assert (first["answered"], first["failed"], first["cut_short"]) == (number, 0, 0)
    # One passage after the other: this engine keeps the last few prompts only.
    asked = [{"id": f"p{row}-{turn}", "text": PASSAGE.format(row)} for row in range(number) for turn in range(2)]
    asked = asked[: number + number // 5]
    (folder / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    again = ("batch", str(folder / "again.jsonl"), *common[2:], "--choice", "yes,no", "-t", "{text} Is there a cat?")
    second = shell.ok(*again, "--order", "prefix", "-o", str(folder / "2.jsonl"), timeout=1500).data
    texts = {body["choices"][0]["message"]["content"] for body in rows_of(folder / "2.jsonl").values()}
    assert texts <= {"yes", "no"}
    assert second["cached_tokens"] > second["prompt_tokens"] / 3


def test_ten_rows_with_a_schema(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    two_passes(shell, tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_rows_with_a_schema(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    two_passes(shell, tmp_path, 200)


def test_in_the_sandbox_it_survives_the_command_line(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    write_passages(tmp_path / "in.jsonl", 4)
    output = tmp_path / "out.jsonl"
    argv = ("batch", str(tmp_path / "in.jsonl"), "-o", str(output), "--id", "rows", "-t", "{text} Why?",
            "--max-tokens", "30", "--temperature", "0", "--concurrency", "1", "--in-sandbox")  # fmt: skip
    process = shell.start(*argv)
    eventually(lambda: any("gpuserve-batch.pyz" in one for one in shell.processes(live["id"])))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert any("gpuserve-batch.pyz" in one for one in shell.processes(live["id"]))  # it goes on without us
    assert output.read_bytes() == b""
    done = shell.ok(*argv, "--json")
    assert (done.data["answered"], done.data["failed"], done.data["in_sandbox"]) == (4, 0, True)
    assert "running in the sandbox already" in done.out or "it has ended in the sandbox" in done.out
    there = rows_of(output)
    assert sorted(there) == [f"p{row}" for row in range(4)]
    eventually(lambda: not any("gpuserve-batch.pyz" in one for one in shell.processes(live["id"])))
    here = (*argv[:-1], "-o", str(tmp_path / "here.jsonl"))
    shell.ok(*here)
    assert {
        key: body["choices"][0]["message"]["content"] for key, body in rows_of(tmp_path / "here.jsonl").items()
    } == {key: body["choices"][0]["message"]["content"] for key, body in there.items()}
    again = shell.ok(*argv, "--json").data  # all is there: nothing is uploaded, nothing asked
    assert (again["requests"], again["answered_before"]) == (0, 4)


def test_what_went_wrong_is_told_once_and_the_rest_stays(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"id": "good", "text": "hi"}, {"id": "long", "text": "word " * 4000}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failed = shell.run("batch", str(tmp_path / "in.jsonl"), "--id", "rows", "--max-tokens", "2")
    assert failed.status == 11, failed
    assert "1 of 2 rows failed" in failed.err
    found = {row["custom_id"]: row for row in map(json.loads, (tmp_path / "in.out.jsonl").read_text().splitlines())}
    assert found["good"]["response"]["status_code"] == 200
    assert found["long"]["response"]["status_code"] == 400


def test_the_python_api(live: dict[str, Any], tmp_path: Path) -> None:
    endpoint = Endpoint(url=live["endpoint"], served_model=live["served_model"], headers=live["headers"])
    rows = [{"id": f"p{row}", "text": PASSAGE.format(row)} for row in range(3)]
    events: list[object] = []
    options: dict[str, Any] = {"template": "{text} Happy?", "schema": SCHEMA, "max_tokens": 24, "emit": events.append}
    done = gpuserve.batch(rows, tmp_path / "out.jsonl", endpoint, **options)
    assert {answer.custom_id: answer.json["mood"] in ("happy", "sad") for answer in done} == dict.fromkeys(
        ["p0", "p1", "p2"], True
    )
    assert done.summary["answered"] == 3
    assert events
    again = gpuserve.batch(rows, tmp_path / "out.jsonl", endpoint, **options)
    assert again.summary["requests"] == 0


@pytest.mark.slow
def test_the_guides_workload(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    """The example as it stands, its books from a server here: it fetches, slices, asks twice and counts."""
    around = "*** START OF THE PROJECT GUTENBERG EBOOK ***\n{}\n*** END OF THE PROJECT GUTENBERG EBOOK ***"
    books = [Reply(body=around.format(PASSAGE.format(number)).encode()) for number in range(13)]
    argv = [sys.executable, str(EXAMPLE), "--id", "rows", "--effort", "", "--passages", "1", "--letters", "40"]
    with Scripted(*books) as server:
        done = run([*argv, "--mirror", server.url], shell.env, tmp_path)
        assert done.returncode == 0, done
        assert [seen.path for seen in server.requests][:2] == ["/1342/pg1342.txt", "/1260/pg1260.txt"]
    told = done.stdout
    assert re.search(r"^author: 13 passages in [\d.]+ s, 0 failed$", told, re.MULTILINE)
    assert re.search(r"^  right: \d+/13 \(\d+%\)$", told, re.MULTILINE)
    assert re.search(r"^  indoors: Austen [01]/1, ", told, re.MULTILINE)
    assert len(rows_of(tmp_path / "authors.jsonl")) == len(rows_of(tmp_path / "settings.jsonl")) == 13
    again = run([*argv, "--mirror", "http://127.0.0.1:9"], shell.env, tmp_path)  # no book is fetched, nothing asked
    assert again.returncode == 0, again
    assert "author: 0 passages" in again.stdout
