"""What all tests share: a clean environment, and a real local host driven by the real Daytona SDK."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from gpuserve.host import daemon
from gpuserve.host.daemon import HostInfo

if TYPE_CHECKING:
    from daytona import Daytona, Sandbox

_FOREIGN = ("DAYTONA_", "GPUSERVE_", "HF_", "HUGGING_FACE_", "XDG_", "OPENAI_", "VLLM_", "LLAMA_")
#: No test asks the real Hub: those that ask one at all bring their own.
NOWHERE = "http://127.0.0.1:9"
GPUS = "H100:2,RTX-PRO-6000:1"
StartHost = Callable[..., HostInfo]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests started as a shell's background job hand that on, and no command that they interrupt would hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _clean(patch: pytest.MonkeyPatch, directory: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN) and name != "LLAMA_CACHE":  # only spares fetching the default model anew
            patch.delenv(name)
    for name in ("CONFIG", "CACHE", "DATA", "STATE"):
        patch.setenv(f"XDG_{name}_HOME", str(directory / name.lower()))
    patch.setenv("HF_ENDPOINT", NOWHERE)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the developer's own settings reaches a test, and nothing of a test's reaches their home."""
    _clean(monkeypatch, tmp_path / "xdg")
    monkeypatch.chdir(tmp_path)


def end_host(state: Path) -> None:
    """Stop a host and check that no process of any sandbox that it ever had is left."""
    daemon.stop(state)
    assert daemon.running(state) is None
    assert [process for process in psutil.process_iter() if _lives_in(process, state)] == []


def _lives_in(process: psutil.Process, state: Path) -> bool:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return False
    return "DAYTONA_SANDBOX_ID" in environment and environment.get("HOME", "").startswith(f"{state}/")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostInfo]:
    """One real daemon for all tests, with two H100 and one RTX-PRO-6000 declared."""
    directory = tmp_path_factory.mktemp("host")
    with pytest.MonkeyPatch.context() as patch:
        _clean(patch, directory / "xdg")
        info = daemon.start(directory / "state", gpus=GPUS)
    yield info
    end_host(info.state_dir)


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator[StartHost]:
    """Starts daemons of a test's own, in ``tmp_path/state`` unless told otherwise, and ends them."""
    states: set[Path] = set()

    def start(state: Path = tmp_path / "state", **options: object) -> HostInfo:
        states.add(state)
        return daemon.start(state, **options)  # type: ignore[arg-type]

    yield start
    for state in states:
        end_host(state)


def client_for(info: HostInfo) -> Daytona:
    """The real SDK, pointed at a host."""
    from daytona import Daytona, DaytonaConfig

    return Daytona(DaytonaConfig(api_key=info.key, api_url=info.url, target="us-east-1"))


@pytest.fixture(scope="session")
def shared_client(host: HostInfo) -> Daytona:
    """The real SDK, pointed at the shared host."""
    return client_for(host)


@pytest.fixture
def daytona(shared_client: Daytona) -> Iterator[Daytona]:
    """The real SDK on the shared host; whatever a test makes and leaves there is deleted."""
    client = shared_client
    before = {one.id for one in client.list()}
    yield client
    for leftover in list(client.list()):
        if leftover.id not in before:
            delete(client, leftover.id)


def delete(client: Daytona, sandbox_id: str) -> None:
    """Delete a sandbox if it is still there, however busy it is."""
    import time

    from daytona.common.errors import DaytonaConflictError, DaytonaNotFoundError

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            client.get(sandbox_id).delete(timeout=30, wait=True)
        except DaytonaNotFoundError:
            return
        except DaytonaConflictError:
            time.sleep(0.05)
    raise AssertionError(f"sandbox {sandbox_id} cannot be deleted")


@pytest.fixture
def sandbox(daytona: Daytona) -> Sandbox:
    """A started plain sandbox on the shared host, deleted after the test."""
    from daytona import CreateSandboxFromSnapshotParams

    return daytona.create(CreateSandboxFromSnapshotParams(ephemeral=True), timeout=30)
