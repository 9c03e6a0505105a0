"""What programs leave in shared memory when they are ended by force."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuserve.host import processes
from gpuserve.host.shared_memory import FOLDER

#: Makes shared memory as vLLM does, is deaf to SIGTERM, and is watched over by nobody who would delete it.
MAKER = """
import mmap, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = []
for path in sys.argv[1:]:
    with open(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b") as file:
        os.ftruncate(file.fileno(), 4096)
        held.append(mmap.mmap(file.fileno(), 4096))
print("made", flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="this system shows no shared memory as files")


@pytest.fixture
def paths() -> Iterator[list[Path]]:
    """Names for shared memory, of which nothing is left at the end."""
    made = [FOLDER / f"gpuserve-test-{uuid.uuid4()}" for _ in range(2)]
    yield made
    for path in made:
        path.unlink(missing_ok=True)


def start(sandbox_id: str, *paths: Path) -> subprocess.Popen[bytes]:
    """A maker of shared memory that belongs to the sandbox; returns once it is made."""
    env = {**os.environ, processes.MARKER: sandbox_id}
    argv = [sys.executable, "-c", MAKER, *map(str, paths)]
    process = subprocess.Popen(argv, env=env, start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"made\n"
    return process


def test_it_goes_with_the_sandbox_but_for_what_others_use(tmp_path: Path, paths: list[Path]) -> None:
    mine, shared = paths
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    with start(one, mine, shared) as first, start(other, shared) as second:
        asyncio.run(processes.kill_all(one, tmp_path))
        assert first.wait(10) != 0
        assert not mine.exists()
        assert shared.exists()
        asyncio.run(processes.kill_all(other, tmp_path))
        assert second.wait(10) != 0
    assert not shared.exists()
