"""Fake servers in a process of their own, so that they take no time of their clients' interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Apart:
    """A running server, which tells at ``/stats`` what it has seen."""

    url: str
    pid: int

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats") as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def apart(name: str, options: Mapping[str, Any]) -> Iterator[Apart]:
    """Runs the module ``fakes.NAME`` with ``options`` as JSON; the first line that it writes is its port."""
    argv = [sys.executable, "-m", f"fakes.{name}", json.dumps(options)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=_TESTS)
    try:
        assert process.stdout is not None
        yield Apart(f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
