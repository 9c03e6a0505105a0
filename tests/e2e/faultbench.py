"""What the fault matrix runs on: a host with many declared GPUs, a faulty API in front of it, a scripted engine.

The engine is a script called ``vllm`` that answers its health route at once: what is tested is gpuserve against a
platform that fails, not an engine. It notes each of its launches, so that doubled ones are seen.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import client_for, delete, end_host
from e2e.usershell import Done
from fakes.faultyapi import FaultyApi
from gpuserve.host import daemon
from gpuserve.host.daemon import HostInfo
from gpuserve.serving.plan import free_port

if TYPE_CHECKING:
    from daytona import Daytona

_VLLM = """#!{python} -IS
import http.server, os, sys, time
with open(os.environ["LAUNCHES"], "a") as file:
    file.write(os.environ["DAYTONA_SANDBOX_ID"] + "\\n")
print("engine starts", flush=True)
for name in ("ENGINE_API_KEY", "HF_TOKEN"):
    print(name, "is", os.environ.get(name, "unset"), flush=True)
time.sleep(float(os.environ.get("ENGINE_BOOT", "0")))
if "ENGINE_DIES" in os.environ:
    sys.exit(3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *rest):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@dataclass
class Bench:
    """The host, its faulty front, and how commands are run on them."""

    info: HostInfo
    api: FaultyApi
    launches: Path
    client: Daytona = field(repr=False)
    capsys: pytest.CaptureFixture[str] | None = None

    @property
    def env(self) -> dict[str, str]:
        """What points the command at the faulty front."""
        return {"DAYTONA_API_URL": self.api.url, "DAYTONA_API_KEY": self.info.key, "NO_COLOR": "1", "COLUMNS": "300"}

    def run(self, *argv: str) -> Done:
        """Runs the command in this process: the SDK's import of seconds is paid once."""
        from gpuserve.cli.main import run

        assert self.capsys is not None
        self.capsys.readouterr()
        status = run([*argv])
        out, err = self.capsys.readouterr()
        return Done(status, out, err)

    def up(self, *more: str) -> Done:
        """``up`` of the scripted engine."""
        return self.run(*up_argv(), *more)

    def live(self) -> list[str]:
        """The names of the sandboxes that the host has, asked directly."""
        return sorted(one.name for one in self.client.list())

    def starts(self) -> int:
        """How often an engine was started since the test began."""
        return len(self.launches.read_text().splitlines())

    def creates(self) -> int:
        """How many create requests were sent since the test began."""
        return self.api.count("POST", "/api/sandbox")

    def restart(self) -> None:
        """Forgets faults, requests and launches, and deletes what a test left."""
        self.api.clear()
        self.launches.write_text("")
        for one in list(self.client.list()):
            delete(self.client, one.id)


def up_argv(*more: str, timeout: str = "60s") -> list[str]:
    """The words of an ``up`` that brings the scripted engine to a free port."""
    plain = ["up", "--engine", "vllm", "--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--no-check", "--json"]
    return [*plain, "--timeout", timeout, "--port", str(free_port()), *more]


@contextmanager
def open_bench(directory: Path) -> Iterator[Bench]:
    """The bench; at its end nothing may be left of it."""
    programs, launches, images = directory / "bin", directory / "launches", directory / "images.toml"
    programs.mkdir()
    launches.write_text("")
    (programs / "vllm").write_text(_VLLM.format(python=sys.executable))
    (programs / "vllm").chmod(0o755)
    lines = (
        "[[image]]",
        'pattern = "vllm/vllm-openai:*"',
        f"path = [{json.dumps(str(programs))}]",
        f"env = {{ LAUNCHES = {json.dumps(str(launches))} }}",
    )
    images.write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUSERVE_HOST_IMAGES", str(images))
        info = daemon.start(directory / "state", gpus="H100:32")
    try:
        with FaultyApi(info.url) as api:
            yield Bench(info, api, launches, client_for(info))
    finally:
        end_host(info.state_dir)


def error_of(done: Done) -> tuple[int, str, str]:
    """Exit status, code and message of a command that failed as it should: in words, without a traceback."""
    assert done.status not in (0, 1), done
    assert "Traceback" not in done.err, done
    error = done.error
    assert error["message"].strip(), done
    return done.status, error["code"], error["message"]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must not hang: a generous bound, not a measure of speed."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds
