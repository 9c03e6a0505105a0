"""The installed command as a user runs it: a process of its own, a home of its own, the real embedded engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PROGRAM = str(Path(sys.executable).with_name("gpuserve"))
#: Small and quick: what the embedded model is started with everywhere below.
QUICK = ("--local", "--engine-arg=--threads", "--engine-arg=1", "--engine-arg=--ctx-size", "--engine-arg=2048")


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The last line's ``data`` in JSON mode."""
        return json.loads(self.out.splitlines()[-1])["data"]

    @property
    def error(self) -> Any:
        """The last line's ``error`` in JSON mode."""
        return json.loads(self.out.splitlines()[-1])["error"]


@dataclass
class Shell:
    """A user's shell: a home, an environment, the command."""

    home: Path
    env: dict[str, str] = field(repr=False)
    started: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    def start(self, *argv: str, **more: Any) -> subprocess.Popen[str]:
        """Starts the command and returns at once."""
        process = subprocess.Popen(
            [PROGRAM, *argv],
            env=self.env,
            cwd=self.home,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **more,
        )
        self.started.append(process)
        return process

    def end_started(self) -> None:
        """Ends what ``start`` started and a failed test left behind."""
        while self.started:
            process = self.started.pop()
            if process.poll() is None:
                process.kill()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait()

    def run(self, *argv: str, stdin: str = "", env: dict[str, str] | None = None, timeout: float = 200) -> Done:
        """Runs the command to its end."""
        done = subprocess.run(
            [PROGRAM, *argv],
            env={**self.env, **(env or {})},
            cwd=self.home,
            input=stdin,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *argv: str, **more: Any) -> Done:
        """Runs the command, which must succeed."""
        done = self.run(*argv, **more)
        assert done.status == 0, done
        return done

    def live(self) -> list[dict[str, Any]]:
        """What ``status`` lists."""
        found: list[dict[str, Any]] = self.ok("status", "--json").data
        return found

    def processes(self, sandbox_id: str = "") -> list[str]:
        """Command lines of the processes that belong to sandboxes of this home's host; all sandboxes for ""."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                mine = str(self.home) in environment.get("HOME", "")
                if mine and environment.get("DAYTONA_SANDBOX_ID", "-").startswith(sandbox_id):
                    found += [" ".join(process.cmdline())] if "DAYTONA_SANDBOX_ID" in environment else []
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


def make_shell(home: Path, weights: Path) -> Shell:
    """A shell whose home is ``home``; the embedded model's weights are kept in ``weights``."""
    foreign = ("DAYTONA_", "GPUSERVE_", "HF_", "XDG_", "OPENAI_", "LLAMA_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CONFIG", "CACHE", "DATA", "STATE")}
    env |= {
        "HOME": str(home),
        "LLAMA_CACHE": str(weights),
        "GPUSERVE_HOST_GPUS": "H100:1",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return Shell(home, env)


def eventually(check: Callable[[], Any], *, within: float = 30.0, every: float = 0.2) -> Any:
    """The first true result of ``check``; fails if there is none in time."""
    deadline = time.monotonic() + within
    while not (found := check()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(every)
    return found


def bring_up(shell: Shell, *more: str) -> dict[str, Any]:
    """A ready deployment of the embedded model; its hand-off."""
    data: dict[str, Any] = shell.ok("up", *QUICK, "--json", *more).data
    return data


def names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The names of what ``status`` lists."""
    return sorted(row["name"] for row in rows)
