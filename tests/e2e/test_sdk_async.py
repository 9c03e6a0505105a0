"""The asynchronous client of the Python SDK, in a process of its own: it takes the SIGINT handler for itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from e2e.programs import guest, run
from e2e.usershell import Shell

STORY = Path(__file__).with_name("async_story.py")


def test_two_sandboxes_at_once(shell: Shell) -> None:
    with guest(shell) as env:
        done = run([sys.executable, "-W", "error::ResourceWarning", str(STORY)], env, shell.home)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["exec"] == [["one\n", 3], ["two\n", 3]]
    assert found["followed"] == {
        "out": "out 1\nout 2\nout 3\n",
        "err": "err 1\nerr 2\nerr 3\n",
        "status": "0",
    }
    assert found["files"] is True
    assert found["listed"] is True
    assert found["sigint"] is True, "a closed client gives Ctrl-C back"
