"""Whose process is whose, and that all of a sandbox's processes end and no other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gpuserve.host import processes
from host_tools import until

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def sandbox_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts a program as leader of its own session; what is still alive at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str, marker: str | None = None, clean: bool = False) -> subprocess.Popen[bytes]:
        env = {"PATH": os.environ["PATH"]} if clean else dict(os.environ)
        env |= {processes.MARKER: marker} if marker else {}
        started.append(subprocess.Popen(argv, env=env, start_new_session=True, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def kill_all(sandbox_id: str, root: Path) -> None:
    asyncio.run(processes.kill_all(sandbox_id, root))


def test_marked_ones_and_their_descendants_end_and_no_other(sandbox_id: str, tmp_path: Path, spawn: Spawn) -> None:
    mine = spawn("sleep", "1000", marker=sandbox_id)
    orphaned = f"(setsid sleep 1000 & echo $! > {tmp_path}/orphan)"
    script = f"setsid env -i sleep 1000 & {orphaned}; echo $! > {tmp_path}/wiped; wait"
    parent = spawn("sh", "-c", script, marker=sandbox_id)
    longer = spawn("sleep", "1000", marker=f"{sandbox_id}0")
    unmarked = spawn("sleep", "1000", clean=True)
    until(lambda: (tmp_path / "wiped").exists() and (tmp_path / "wiped").read_text().strip())
    orphan, wiped = (int((tmp_path / name).read_text()) for name in ("orphan", "wiped"))
    until(lambda: {orphan, wiped} <= set(processes.alive(sandbox_id)))
    assert processes.alive(sandbox_id) == sorted([mine.pid, parent.pid, orphan, wiped])
    kill_all(sandbox_id, tmp_path)
    assert processes.alive(sandbox_id) == []
    assert not any(runs(pid) for pid in (mine.pid, parent.pid, orphan, wiped))
    assert runs(longer.pid)
    assert runs(unmarked.pid)


def test_the_deaf_are_forced(sandbox_id: str, tmp_path: Path, spawn: Spawn) -> None:
    deaf = spawn("bash", "-c", "trap : TERM INT HUP; echo deaf; while :; do sleep 0.1; done", marker=sandbox_id)
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == b"deaf\n"
    kill_all(sandbox_id, tmp_path)
    assert deaf.wait(timeout=10) == -signal.SIGKILL


def test_the_polite_get_time_to_leave(sandbox_id: str, tmp_path: Path, spawn: Spawn) -> None:
    script = f"trap 'sleep 0.5; echo left > {tmp_path}/note; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    polite = spawn("bash", "-c", script, marker=sandbox_id)
    assert polite.stdout is not None
    assert polite.stdout.readline() == b"up\n"
    kill_all(sandbox_id, tmp_path)
    assert (tmp_path / "note").read_text() == "left\n"


def test_one_that_hides_its_environment_is_known_by_its_group(sandbox_id: str, tmp_path: Path, spawn: Spawn) -> None:
    leader = spawn("sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid; read x", clean=True)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    hidden = int((tmp_path / "pid").read_text())
    processes.note_group(tmp_path, leader.pid)
    leader.kill()
    leader.wait(timeout=10)
    processes.forget_group(tmp_path, leader.pid)
    assert processes.alive(sandbox_id) == []
    assert set(processes.members(sandbox_id, tmp_path)) == {hidden}
    kill_all(sandbox_id, tmp_path)
    assert not runs(hidden)


def test_an_old_note_does_no_harm(sandbox_id: str, tmp_path: Path, spawn: Spawn) -> None:
    stranger = spawn("sleep", "1000", clean=True)
    folder = tmp_path / processes.GROUPS
    folder.mkdir()
    (folder / str(stranger.pid)).write_text(repr(psutil.Process(stranger.pid).create_time() - 500))
    (folder / "torn").write_text("")
    kill_all(sandbox_id, tmp_path)
    assert runs(stranger.pid)
    assert not folder.exists()


def test_a_note_goes_with_the_last_of_its_group(tmp_path: Path, spawn: Spawn) -> None:
    leader = spawn("sleep", "1000", clean=True)
    note = tmp_path / processes.GROUPS / str(leader.pid)
    processes.note_group(tmp_path, leader.pid)
    processes.forget_group(tmp_path, leader.pid)
    assert note.exists()
    leader.kill()
    leader.wait(timeout=10)
    processes.forget_group(tmp_path, leader.pid)
    assert not note.exists()
    processes.note_group(tmp_path, leader.pid)
    assert not note.exists()


def test_the_one_that_asks_is_spared(sandbox_id: str, tmp_path: Path, spawn: Spawn) -> None:
    code = (
        "import asyncio, pathlib, subprocess, sys\n"
        "from gpuserve.host.processes import alive, kill_all\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "asyncio.run(kill_all(sys.argv[1], pathlib.Path(sys.argv[2])))\n"
        "print(child.wait(), alive(sys.argv[1]))\n"
    )
    asker = spawn(sys.executable, "-c", code, sandbox_id, str(tmp_path), marker=sandbox_id)
    output, _ = asker.communicate(timeout=60)
    assert output.decode() == f"{-signal.SIGTERM} []\n"
    assert asker.returncode == 0
