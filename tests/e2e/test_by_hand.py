"""The example as its reader runs it: unmodified, knowing a host's address and key and nothing else."""

from __future__ import annotations

import ast
import socket
import sys
from pathlib import Path

from e2e.programs import Program, guest, run, said
from e2e.usershell import Shell

EXAMPLE = Path(__file__).parents[2] / "examples" / "by_hand.py"


def example(shell: Shell, **more: str) -> Program:
    with guest(shell) as env:
        return run([sys.executable, str(EXAMPLE)], env | more, shell.home)


def test_the_whole_story(shell: Shell) -> None:
    done = example(shell)
    assert done.returncode == 0, done.stderr
    told = said(done)
    assert list(told) == ["created", "chat", "stream", "inside", "signed", "expired", "gone"]
    assert told["gone"] == told["created"]
    for answer in ("chat", "stream", "inside"):
        assert "Paris" in told[answer]
    assert told["stream"].replace("|", "") == told["chat"]
    assert told["stream"].count("|") > 3
    assert (told["signed"], told["expired"]) == ("200", "401")
    assert "listening on http://127.0.0.1:" in done.stderr


def test_a_server_that_dies_is_noticed_and_its_sandbox_deleted(shell: Shell) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        done = example(shell, PORT=str(occupied.getsockname()[1]))
    assert done.returncode == 1
    told = said(done)
    assert list(told) == ["created", "gone"]
    assert told["gone"] == told["created"]
    assert "couldn't bind HTTP server socket" in done.stderr
    assert "llama-server ended with exit code 1" in done.stderr.splitlines()[-1]


def test_a_wrong_key_makes_nothing(shell: Shell) -> None:
    done = example(shell, DAYTONA_API_KEY="wrong")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "DaytonaAuthenticationError" in done.stderr


def test_it_is_made_of_nothing_of_ours() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    taken = {one.module or "" for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)}
    taken |= {alias.name for one in ast.walk(tree) if isinstance(one, ast.Import) for alias in one.names}
    foreign = {name.partition(".")[0] for name in taken} - sys.stdlib_module_names
    assert foreign == {"daytona", "httpx", "openai"}
