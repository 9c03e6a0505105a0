"""Batches against the real embedded engine, from here and beside it in its sandbox; a benchmark of the same."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import gpuserve
from e2e.inside import Inside, inside
from e2e.programs import run
from e2e.usershell import Done, Shell, bring_up, eventually
from fakes.scripted import Reply, Scripted
from gpuserve.records import Endpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify_passages" / "classify.py"
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string", "enum": ["happy", "sad"]}},
    "required": ["mood"],
    "additionalProperties": False,  # else this model may fill its answer with fields of its own until it is cut
}
FIRST, FEELING = "Is this happy or sad?", ("happy", "sad")
#: Enough for every answer of the schema: this engine's grammar allows 22 letters of white space between its parts.
LONGEST = "160"
RUNNER = "gpuserve-batch.pyz"
PASSAGE = "On the table number {0} there was a lamp, and beside the lamp number {0} a cat slept in the sun. " * 2


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    yield bring_up(inside(shell), "--name", "rows")
    inside(shell).run("down", "--all", "--yes")


@pytest.fixture
def user(shell: Shell) -> Inside:
    return inside(shell)


def write_passages(path: Path, number: int) -> None:
    path.write_text("".join(json.dumps({"id": f"p{row}", "text": PASSAGE.format(row)}) + "\n" for row in range(number)))


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {row["custom_id"]: row["response"]["body"] for row in rows}
    assert len(found) == len(rows)
    return found


def texts(path: Path) -> dict[str, str]:
    """What was answered, by row."""
    return {key: body["choices"][0]["message"]["content"] for key, body in rows_of(path).items()}


def question(folder: Path, name: str, words: str, moods: Sequence[str]) -> tuple[str, ...]:
    """The command that asks ``words`` of every passage, the answer being one of ``moods``; the output's name."""
    schema = {**SCHEMA, "properties": {"mood": {"type": "string", "enum": list(moods)}}}
    return ("batch", str(folder / "in.jsonl"), "-o", str(folder / name), "--id", "rows", "--json", "--concurrency", "1",
            "-t", f"{{text}} {words} Reply as JSON.", "--schema", json.dumps(schema),
            "--max-tokens", LONGEST, "--temperature", "0")  # fmt: skip


def valid(summary: dict[str, Any], output: Path, moods: Sequence[str]) -> dict[str, Any]:
    """``summary``, if every row of ``output`` has an answer of the schema."""
    assert (summary["failed"], summary["failed_before"], summary["cut_short"]) == (0, 0, 0)
    said = [json.loads(text) for text in texts(output).values()]
    assert len(said) == summary["rows"]
    assert all(list(one) == ["mood"] and one["mood"] in moods for one in said)
    return summary


def two_passes(shell: Shell, folder: Path, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A question over every passage; then another, which must find the passages in the engine's cache."""
    write_passages(folder / "in.jsonl", number)
    done = []
    for name, words, moods in (("1.jsonl", FIRST, FEELING), ("2.jsonl", "Is this old or new?", ("old", "new"))):
        told = shell.ok(*question(folder, name, words, moods), timeout=1500).data
        done.append(valid(told, folder / name, moods))
        assert sorted(texts(folder / name)) == sorted(f"p{row}" for row in range(number))
    first, second = done
    shares = [one["cached_tokens"] / one["prompt_tokens"] for one in done]
    assert shares[1] > max(0.6, 1.4 * shares[0])
    return first, second


def killed_while_it_runs(shell: Shell, live: dict[str, Any], argv: Sequence[str]) -> Done:
    """The command with ``--in-sandbox``, killed as soon as its program runs there, and given once more."""
    process = shell.start(*argv, "--in-sandbox")
    eventually(lambda: any(RUNNER in one for one in shell.processes(live["id"])))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert any(RUNNER in one for one in shell.processes(live["id"]))  # it goes on without us
    done = shell.ok(*argv, "--in-sandbox", timeout=1500)
    assert done.data["in_sandbox"] is True
    assert "running in the sandbox already" in done.out or "it has ended in the sandbox" in done.out
    eventually(lambda: not any(RUNNER in one for one in shell.processes(live["id"])))
    return done


def test_a_few_rows_with_a_schema(user: Inside, live: dict[str, Any], tmp_path: Path) -> None:
    two_passes(user, tmp_path, 4)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_rows_with_a_schema(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    """Every answer is valid; a second pass finds the passages; beside the engine it is the same, the command killed."""
    first, second = two_passes(shell, tmp_path, 200)
    assert second["server"]["p50"] < first["server"]["p50"]
    there = killed_while_it_runs(shell, live, question(tmp_path, "3.jsonl", FIRST, FEELING)).data
    valid(there, tmp_path / "3.jsonl", FEELING)
    same = sum(text == texts(tmp_path / "1.jsonl")[key] for key, text in texts(tmp_path / "3.jsonl").items())
    assert same > 190  # what is cached and what isn't differs, and with it a rounding here and there
    for name, one in (("first", first), ("second", second), ("there", {**there, "same": same})):
        sys.stdout.write(f"{name}: {json.dumps(one)}\n")


def test_in_the_sandbox_it_survives_the_command_line(user: Inside, live: dict[str, Any], tmp_path: Path) -> None:
    write_passages(tmp_path / "in.jsonl", 5)
    argv = ("batch", str(tmp_path / "in.jsonl"), "--id", "rows", "-t", "{text} Why?", "--json",
            "--max-tokens", "16", "--temperature", "0", "--concurrency", "1")  # fmt: skip
    output = tmp_path / "in.out.jsonl"
    done = killed_while_it_runs(user, live, argv).data
    assert (done["answered"], done["failed"]) == (5, 0)
    again = user.ok(*argv, "--in-sandbox").data  # all is there: nothing is uploaded, nothing asked
    assert (again["requests"], again["answered_before"]) == (0, 5)
    user.ok(*argv, "-o", str(tmp_path / "here.jsonl"))
    assert texts(tmp_path / "here.jsonl") == texts(output)
    assert sorted(texts(output)) == [f"p{row}" for row in range(5)]


def test_what_went_wrong_is_told_once_and_the_rest_stays(user: Inside, live: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"id": "good", "text": "hi"}, {"id": "long", "text": "word " * 4000}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failed = user.run("batch", str(tmp_path / "in.jsonl"), "--id", "rows", "--max-tokens", "2")
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


def test_a_benchmark_of_it(user: Inside, live: dict[str, Any]) -> None:
    lengths = ("--prompt-tokens", "64", "--output-tokens", "4", "--requests", "4")
    found = user.ok("bench", "rows", "-c", "2", *lengths, "--shared-prefix", "0.7", "--json").data
    assert (found["name"], found["engine"], found["model"]) == ("rows", "llamacpp", live["model"])
    assert [point["load"]["concurrency"] for point in found["points"]] == [2, 2]
    for point in found["points"]:
        assert point["failed"] == 0
        assert point["output_tokens"] == {"least": 4, "mean": 4.0, "most": 4}
        assert point["prompt_tokens"]["mean"] == pytest.approx(64, rel=0.05)
        assert 0 < point["ttft"]["p50"] < point["latency"]["p50"]
        assert point["output_tokens_per_second"] > 0
    assert found["points"][1]["cached_share"] > found["points"][0]["cached_share"]


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
