"""A batch that is killed at any moment, meets a full disk or half a line: nothing is lost, nothing is asked twice."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.usershell import PROGRAM, eventually
from fakes.apart import Apart
from fakes.crowd import crowd

IN_FLIGHT = 40


def write_rows(path: Path, number: int) -> None:
    with path.open("w") as file:
        for row in range(number):
            body = {"messages": [{"role": "user", "content": f"row-{row}"}]}
            line = {"custom_id": f"row-{row}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def argv(server: Apart, *more: str) -> list[str]:
    return [PROGRAM, "batch", "in.jsonl", "-o", "out.jsonl", "--url", server.url, "--model", "m", "-q",
            "--concurrency", str(IN_FLIGHT), *more]  # fmt: skip


def answers(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the output."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def reached(output: Path, goal: int, process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    """Whether so many lines are there, or the run is over."""
    return lambda: (output.exists() and output.read_bytes().count(b"\n") >= goal) or process.poll() is not None


def kill_again_and_again(tmp_path: Path, rows: int, kills: int) -> None:
    write_rows(tmp_path / "in.jsonl", rows)
    output, chance = tmp_path / "out.jsonl", random.Random(6)
    lost = 0
    with crowd(delay=[0.0, 0.1], error=0.05, busy=0.03, reset=0.02) as server:
        for number in range(kills):
            before = len(answers(output))
            process = subprocess.Popen(argv(server), cwd=tmp_path, stderr=subprocess.PIPE)
            # Kill it when it has done its random share of what is left: at every stage, however fast the machine is.
            goal = before + chance.randrange(0, max(1, 2 * (rows - before) // (kills - number + 1)))
            eventually(reached(output, goal, process), every=0.01)
            time.sleep(chance.random() / 20)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            eventually(lambda: server.stats()["open"] == 0, every=0.02)
            heard = Counter(server.stats()["answered"])
            gone = set(heard) - {row["custom_id"] for row in answers(output)}
            assert len(gone) <= IN_FLIGHT  # only what was in flight is unknown to the output
            lost += len(gone)
        done = subprocess.run(argv(server), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done
        told = server.stats()
    rows_out = answers(output)
    assert sorted(row["custom_id"] for row in rows_out) == sorted(f"row-{row}" for row in range(rows))
    assert all(row["response"]["status_code"] == 200 and row["error"] is None for row in rows_out)
    assert sum(told["answered"].values()) - rows <= lost
    assert min(told["kinds"][kind] for kind in ("error", "busy", "reset")) > 0  # it was as unkind as was said


def test_killed_five_times(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, rows=400, kills=5)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_fifty_times(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, rows=5000, kills=50)


def test_a_full_disk_keeps_every_whole_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: a write then stops in the middle of a line, as there."""
    write_rows(tmp_path / "in.jsonl", 200)
    with crowd(delay=[0.0, 0.01]) as server:
        limit = 30_000

        def small_files() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        full = subprocess.run(
            argv(server), cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=small_files, timeout=60
        )
        assert full.returncode == 5, full
        assert "can't write" in full.stderr
        kept = (tmp_path / "out.jsonl").read_bytes()
        assert 0 < len(kept) <= limit
        assert kept.endswith(b"\n")
        again = subprocess.run(argv(server), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert again.returncode == 0, again
        heard = server.stats()["answered"]
    assert (tmp_path / "out.jsonl").read_bytes().startswith(kept)
    assert sorted(row["custom_id"] for row in answers(tmp_path / "out.jsonl")) == sorted(heard)
    assert len(heard) == 200
    assert sum(heard.values()) - 200 <= IN_FLIGHT


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        write_rows(tmp_path / "in.jsonl", 300)
        with crowd(delay=[0.0, 0.01]) as server:
            command = [*argv(server), "-o", str(disk / "out.jsonl")]
            full = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
            assert full.returncode == 5, full
            assert "No space left" in full.stderr
            kept = (disk / "out.jsonl").read_bytes()
            assert kept.endswith(b"\n")
            subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
            again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
            assert again.returncode == 0, again
            heard = server.stats()["answered"]
        rows = answers(disk / "out.jsonl")
        assert (disk / "out.jsonl").read_bytes().startswith(kept)
        assert len(rows) == len({row["custom_id"] for row in rows}) == 300
        assert sum(heard.values()) - 300 <= IN_FLIGHT
    finally:
        subprocess.run(["umount", disk], check=False)


def test_ctrl_c_waits_for_what_is_in_flight_and_the_same_command_goes_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", 300)
    output = tmp_path / "out.jsonl"
    with crowd(delay=[0.1, 0.3]) as server:
        process = subprocess.Popen(argv(server), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        eventually(lambda: len(answers(output)) > 20, every=0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130, said
        assert "are left" in said
        heard = server.stats()["answered"]
        assert set(heard) == {row["custom_id"] for row in answers(output)}  # every answer that was paid for is kept
        assert 20 < len(heard) < 300
        subprocess.run(argv(server), cwd=tmp_path, check=True, timeout=60, capture_output=True)
        assert Counter(server.stats()["answered"]) == Counter(f"row-{row}" for row in range(300))


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", 300)
    with crowd(delay=[60.0, 60.0]) as server:
        process = subprocess.Popen(argv(server), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        eventually(lambda: server.stats()["open"] == IN_FLIGHT)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None  # it waits
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130, said


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", 300)
    with crowd(delay=[0.2, 0.3]) as server:
        first = subprocess.Popen(argv(server), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        eventually(lambda: (tmp_path / "out.jsonl").exists() and server.stats()["open"])
        first.send_signal(signal.SIGSTOP)  # it shan't be done before the other has begun
        second = subprocess.run(argv(server), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        first.send_signal(signal.SIGCONT)
        assert second.returncode == 5, second
        assert "another run" in second.stderr
        _, said = first.communicate(timeout=60)
        assert first.returncode == 0, said
        assert Counter(server.stats()["answered"]) == Counter(f"row-{row}" for row in range(300))
