"""``exec`` and ``cp`` against a real deployment of the embedded engine on a real host."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.usershell import PROGRAM, Shell, bring_up, eventually

NAME = "inside"
#: A question to the model from within, with nothing but what the sandbox's Python has.
WITHIN = """
import json, os, sys, urllib.request
body = {"model": os.environ["OPENAI_MODEL"], "max_tokens": 3, "messages": [{"role": "user", "content": sys.argv[1]}]}
address = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request))["choices"][0]["finish_reason"])
"""


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    """One deployment for all of these tests."""
    yield bring_up(shell, "--name", NAME)
    shell.run("down", NAME, "--yes")


def inside(shell: Shell, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [PROGRAM, "exec", NAME, *argv], env=shell.env, cwd=shell.home, input=stdin, capture_output=True, check=False
    )


def test_output_and_status_are_passed_on_byte_for_byte(shell: Shell, live: dict[str, Any]) -> None:
    done = inside(shell, "--", "sh", "-c", r"printf 'a\377\000\033[1m'; printf 'err' >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"a\xff\x00\x1b[1m", b"err")
    assert inside(shell, "--", "exit", "4").returncode == 4
    assert inside(shell, "--", "no-such-program").returncode == 127
    echoed = inside(shell, "--stdin", "--", "cat", "-", stdin=bytes(range(256)) * 2000)
    assert echoed.stdout == bytes(range(256)) * 2000


def test_a_script_asks_the_model_without_a_credential(shell: Shell, live: dict[str, Any]) -> None:
    (shell.home / "within.py").write_text(WITHIN)
    assert inside(shell, "--python", "within.py", "--", "hi").stdout == b"length\n"
    assert inside(shell, "--python", "-", "--", "hi", stdin=WITHIN.encode()).stdout == b"length\n"


def test_output_comes_while_it_runs_and_ctrl_c_ends_it_there_too(shell: Shell, live: dict[str, Any]) -> None:
    process = shell.start("exec", NAME, "--", "sh", "-c", "echo begun; sleep 91")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    eventually(lambda: not [one for one in shell.processes() if "sleep 91" in one])


def test_files_are_copied_both_ways_and_whole(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    here, back = tmp_path / "data.bin", tmp_path / "back.bin"
    here.write_bytes(os.urandom(3 << 20))
    here.chmod(0o750)
    sent = shell.ok("cp", str(here), f"{NAME}:.", "--json")
    assert sent.data["bytes"] == 3 << 20
    assert inside(shell, "--", "stat", "-c", "%a", "data.bin").stdout == b"750\n"
    back.write_bytes(b"older")
    shell.ok("cp", f"{NAME}:data.bin", str(back))
    assert back.read_bytes() == here.read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["back.bin", "data.bin"]
    assert b".part" not in inside(shell, "--", "ls", "-a").stdout


def test_copies_that_can_not_be(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    for argv, status in (
        ((f"{NAME}:nope", str(tmp_path / "x")), 4),
        ((f"{NAME}:.", str(tmp_path / "x")), 2),
        ((str(tmp_path / "a"), f"{NAME}:no/dir/a"), 4),
        ((f"{NAME}:nope", str(tmp_path / "no" / "x")), 4),
    ):
        assert shell.run("cp", *argv).status == status, argv
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
