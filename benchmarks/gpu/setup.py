"""What one run is about: the model, the engine, the folders, and how gpuserve is called."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import processes
from benchmarks.gpu.processes import Finished
from benchmarks.gpu.record import Record

SERVED = "bench-model"


@dataclass(frozen=True)
class Setup:
    """One run. ``program`` is vLLM's own; ``work`` holds the host's state, homes and inputs, and can be deleted.

    Of the ``rounds`` of a load, which ``schema`` holds to a JSON schema, vLLM's bench goes along in ``bench_rounds``.
    """

    record: Record
    model: str
    engine: str
    engine_args: tuple[str, ...]
    program: Path | None
    work: Path
    passages: int
    tokens: int
    answer_tokens: int
    rounds: int
    schema: bool
    bench_rounds: int

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        if self.engine == "vllm" and self.program is not None:
            folder = json.dumps(str(self.program.parent))
            profile = f'[[image]]\npattern = "vllm/vllm-openai:*"\npath = [{folder}]\nrequires = ["vllm"]\n'
            (self.work / "images.toml").write_text(profile, encoding="utf-8")

    @property
    def logs(self) -> Path:
        """Where the engines' logs and the programs' errors go."""
        folder = self.record.folder / "logs"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def env(self) -> dict[str, str]:
        """gpuserve's environment: a local host of this benchmark's own, no account, no key."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAYTONA_", "GPUSERVE_"))}
        folders = {f"XDG_{name}_HOME": str(self.work / name.lower()) for name in ("STATE", "CONFIG", "CACHE")}
        kept.update(folders, PYTHONUNBUFFERED="1", NO_COLOR="1")
        if (self.work / "images.toml").exists():
            kept["GPUSERVE_HOST_IMAGES"] = str(self.work / "images.toml")
        if "XDG_CACHE_HOME" in os.environ and self.engine != "vllm":
            kept["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
        return kept

    def fresh_home(self, name: str) -> dict[str, str]:
        """The environment of a bare engine: an empty home, as every sandbox has one, so that no cache is warm."""
        home, temporary = self.work / name / "home", self.work / name / "tmp"
        for folder in (home, temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        path = f"{self.program.parent}:{os.environ['PATH']}" if self.program else os.environ["PATH"]
        return {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "PATH": path, "PYTHONUNBUFFERED": "1"}

    def gpuserve(self, *argv: str, timeout: float = 120.0) -> Finished:
        """Runs a command of gpuserve to its end; its standard error is appended to a file."""
        command = [sys.executable, "-m", "gpuserve", *argv]
        return processes.run(command, env=self.env, errors=self.logs / "gpuserve.stderr", timeout=timeout)

    def asked(self, *argv: str, timeout: float = 120.0) -> tuple[dict[str, Any], Finished]:
        """The ``data`` that a command prints with ``--json``. Raises ``RuntimeError`` with its error if it has none."""
        at = argv.index("--") if "--" in argv else len(argv)
        limit = min(timeout, max(5.0, self.record.left()))
        done = self.gpuserve(*argv[:at], "--json", *argv[at:], timeout=limit)
        told = [json.loads(line.text) for line in done.lines if line.text.startswith('{"data"')]
        if not told:  # one that tells an error after its data, as batch does of failed rows, has measured something
            last = [line.text[:1500] for line in done.lines[-1:]]
            raise RuntimeError(f"gpuserve {argv[0]} ended with {done.status}: {last}")
        data: dict[str, Any] = told[-1]["data"]
        return data, done

    def up_argv(self, name: str, port: int, *more: str) -> tuple[str, ...]:
        """``up`` on this machine; ``more`` comes before the engine's own flags."""
        return (
            *("up", "--local", "--engine", self.engine, "--model", self.model, "--served-as", SERVED, "--name", name),
            *("--port", str(port), "--no-check", "--log-file", str(self.logs / f"{name}.log"), *more),
            *("--", *self.engine_args),
        )

    def engine_command(self, port: int, *more: str) -> list[str]:
        """The engine's own command line as ``up`` would run it."""
        argv = self.up_argv("bare", port, *more)
        at = argv.index("--")
        data, _ = self.asked(*argv[:at], "--dry-run", *argv[at:])
        command: list[str] = data["command"]
        return command


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def nvidia_smi(*fields: str) -> list[str]:
    """What nvidia-smi says of each GPU; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.splitlines()
