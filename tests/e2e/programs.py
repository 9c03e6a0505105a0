"""Programs of others: what they are started with, so that they meet a host as they would meet the platform."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.usershell import Shell

Program = subprocess.CompletedProcess[str]


def run(argv: Sequence[str], env: dict[str, str], cwd: Path) -> Program:
    """Runs a program to its end."""
    return subprocess.run(argv, env=env, cwd=cwd, text=True, capture_output=True, timeout=200, check=False)


def said(done: Program) -> dict[str, str]:
    """What a story printed, line by line: ``what: how it went``."""
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@contextmanager
def guest(shell: Shell) -> Iterator[dict[str, str]]:
    """All that such a program gets to know of the shell's host: an address and a key.

    Fails if the block leaves a process or a directory of a sandbox on that host.
    """
    shell.ok("host", "start")
    host = shell.ok("host", "status", "--show-key", "--json").data
    folder = Path(host["state_dir"]) / "sandboxes"

    def present() -> tuple[list[str], list[str]]:
        directories = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        return sorted(shell.processes()), directories

    before = present()
    yield {
        "PATH": os.environ["PATH"],
        "HOME": str(shell.home),
        "DAYTONA_API_URL": host["api_url"],
        "DAYTONA_API_KEY": host["api_key"],
    }
    assert present() == before
