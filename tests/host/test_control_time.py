"""Deadlines, on a host whose minutes last half a second."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from daytona import Daytona, Resources, SandboxState
from daytona.common.errors import DaytonaError, DaytonaNotFoundError, DaytonaQueueTimeoutError

from gpuserve.host.daemon import HostInfo
from host_tools import client_of, image, plain, until


@pytest.fixture
def quick(start_host: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HostInfo:
    """A host of the test's own with short minutes."""
    monkeypatch.setenv("GPUSERVE_HOST_MINUTE", "0.5")
    assert callable(start_host)
    info = start_host(tmp_path / "quick", gpus="H100")
    assert isinstance(info, HostInfo)
    return info


@pytest.fixture
def client(quick: HostInfo) -> Daytona:
    return client_of(quick)


def gone(client: Daytona, sandbox_id: str) -> bool:
    try:
        client.get(sandbox_id)
    except DaytonaNotFoundError:
        return True
    return False


def test_its_time_to_live_ends_a_sandbox_in_any_state(client: Daytona) -> None:
    running = client.create(plain(ttl_minutes=2, ephemeral=True, auto_stop_interval=0), timeout=30)
    stopped = client.create(plain(auto_stop_interval=0), timeout=30)
    stopped.stop(timeout=30)
    stopped.set_ttl(2)
    with pytest.raises(DaytonaError, match="BUILD_FAILED"):
        client.create(image("no/such", name="failed", ttl_minutes=2), timeout=30)
    failed = client.get("failed")
    for one in (running, stopped, failed):
        until(lambda one=one: client.get(one.id).state == SandboxState.DESTROYED)  # type: ignore[misc]
        assert client.get(one.id).auto_destroy_at is not None
        assert gone(client, one.name) is (one.name != one.id)


def test_an_idle_ephemeral_sandbox_is_deleted_and_another_is_stopped(client: Daytona) -> None:
    ephemeral = client.create(plain(ephemeral=True, auto_stop_interval=1), timeout=30)
    lasting = client.create(plain(auto_stop_interval=1, auto_delete_interval=2), timeout=30)
    never = client.create(plain(ephemeral=True, auto_stop_interval=0), timeout=30)
    until(lambda: gone(client, ephemeral.id))
    until(lambda: client.get(lasting.id).state == SandboxState.STOPPED)
    until(lambda: gone(client, lasting.id))
    assert client.get(never.id).state == SandboxState.STARTED


def test_an_open_preview_keeps_its_sandbox_from_being_idle(quick: HostInfo, client: Daytona) -> None:
    sandbox = client.create(plain(ephemeral=True, auto_stop_interval=2), timeout=30)
    sandbox.process.create_session("s")
    from daytona import SessionExecuteRequest

    script = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "open('port', 'w').write(f'{s.getsockname()[1]}\\n')\n"
        "c = s.accept()[0]\nc.recv(9999)\nc.sendall(b'HTTP/1.1 200 OK\\r\\n\\r\\nx')\ns.accept()\n"
    )
    sandbox.fs.upload_file(script.encode(), "quiet.py")
    request = SessionExecuteRequest(command="python3 quiet.py", run_async=True)
    sandbox.process.execute_session_command("s", request)
    port = quick.state_dir / "sandboxes" / sandbox.id / "home" / "port"
    until(lambda: port.exists() and port.read_text().endswith("\n"))
    url = sandbox.create_signed_preview_url(int(port.read_text()), 60).url
    created = client.get(sandbox.id).last_activity_at
    with httpx.stream("GET", url, timeout=30) as response:
        assert response.status_code == 200
        threading.Event().wait(3)  # three times the idle limit, not a byte in between
        seen = client.get(sandbox.id)
        assert seen.state == SandboxState.STARTED
        assert str(seen.last_activity_at) > str(created)
    until(lambda: gone(client, sandbox.id))


def test_waiting_too_long_for_a_gpu_is_a_queue_timeout(client: Daytona) -> None:
    client.create(image(resources=Resources(gpu=1), ephemeral=True, auto_stop_interval=0), timeout=30)
    with pytest.raises(DaytonaQueueTimeoutError, match="after waiting 2 minutes for a runner"):
        client.create(image(resources=Resources(gpu=1), ephemeral=True, queue_timeout=2), timeout=30)
