"""A program of ours in a sandbox: files in and out, one program at a time, and nothing left behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuserve.sandboxes.workshop import Workshop
from gpuserve.serving.batch_remote import runner
from host_tools import until

if TYPE_CHECKING:
    from daytona import Sandbox


@pytest.fixture
def shop(sandbox: Sandbox) -> Workshop:
    return Workshop(sandbox, "batch-1", patience=5.0)


def test_files_go_in_and_out(shop: Workshop, tmp_path: Path) -> None:
    big = bytes(range(256)) * 5000
    (tmp_path / "it's big").write_bytes(big)
    shop.put(str(tmp_path / "it's big"), "big")
    shop.put(b"hello\n", "small")
    assert (shop.size("big"), shop.size("none"), shop.text("small"), shop.text("none")) == (len(big), 0, "hello", "")
    assert b"".join(shop.chunks("big")) == big


def test_a_program_runs_by_itself_and_may_be_followed_by_another(shop: Workshop, sandbox: Sandbox) -> None:
    assert not shop.running()
    shop.start("cat go 2>/dev/null; while [ ! -e go ]; do sleep 0.05; done; echo why >&2; false")
    assert Workshop(sandbox, "batch-1", patience=5.0).running()  # another process of ours finds it
    shop.put(b"", "go")
    until(lambda: not shop.running())
    assert shop.output() == "why"
    shop.start("echo second > result")
    until(lambda: shop.text("result") == "second")
    folder = shop.folder
    shop.clear()
    assert sandbox.process.exec(f"test -e {folder}").exit_code == 1
    assert not shop.running()


def test_a_python_that_will_do_is_found_or_said_to_be_missing(shop: Workshop) -> None:
    assert shop.python(("no-such-python", sys.executable), "import aiohttp") == sys.executable
    assert shop.python((sys.executable,), "import no_such_module") == ""
    assert shop.python(("no-such-python",), "pass") == ""


def test_the_runner_needs_nothing_of_ours_installed(tmp_path: Path) -> None:
    """Run where the package can't be imported from anywhere else."""
    import json
    import subprocess

    (tmp_path / "runner.pyz").write_bytes(runner())
    (tmp_path / "input").write_text("hi\n")
    job = {"source": "input", "output": "out.jsonl", "url": "http://127.0.0.1:9", "model": "m", "retries": 0}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-P", str(tmp_path / "runner.pyz"), str(tmp_path / "job.json")],
        env={"PYTHONPATH": ""}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 12, done
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["error"]["code"] == "network"
    assert "1 rows are left" in told["error"]["message"]
