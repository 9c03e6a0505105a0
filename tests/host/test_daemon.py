"""The daemon: started once, found again, ended whole; what it remembers, and what it leaves behind (nothing)."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from daytona import Sandbox, SandboxState, SessionExecuteRequest
from daytona.common.errors import DaytonaNotFoundError

import gpuserve
from gpuserve.errors import PlatformError
from gpuserve.host import daemon
from gpuserve.host.daemon import HostError, HostInfo
from gpuserve.serving.context import Context
from gpuserve.settings import load
from gpuserve.state import Cache
from host_tools import call, client_of, plain, until

StartHost = Callable[..., HostInfo]
SERVER = "exec python3 -m http.server --bind 127.0.0.1 "


def kill_daemon(info: HostInfo) -> None:
    """End the daemon as a crash would, and only the daemon."""
    os.kill(info.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(info.pid, 0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def serve(sandbox: Sandbox, port: int) -> None:
    """Start a file server in the sandbox and wait for it."""
    sandbox.process.create_session("server")
    request = SessionExecuteRequest(command=f"bash -c '{SERVER} {port}'", run_async=True)
    sandbox.process.execute_session_command("server", request)
    url = sandbox.create_signed_preview_url(port).url
    until(lambda: httpx.get(url).status_code == 200)


def test_start_finds_the_one_that_runs(start_host: StartHost, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert daemon.running(state) is None
    info = start_host()
    assert daemon.running(state) == info == start_host()
    assert info.key not in repr(info)
    assert info.state_dir == state
    assert psutil.Process(info.pid).cmdline()[1:4] == ["-P", "-m", "gpuserve.host"]
    assert info.key not in " ".join(psutil.Process(info.pid).cmdline())


def test_two_starts_at_once_make_one_daemon(start_host: StartHost) -> None:
    found: list[HostInfo] = []
    threads = [threading.Thread(target=lambda: found.append(start_host())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1


def test_it_listens_on_loopback_only_and_keeps_its_files_private(start_host: StartHost) -> None:
    info = start_host()
    listening = [one for one in psutil.Process(info.pid).net_connections() if one.status == psutil.CONN_LISTEN]
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
    client_of(info).create(plain(ephemeral=True), timeout=30)
    for path in (info.state_dir, *info.state_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_stop_and_start_keep_key_and_port_and_what_is_lasting(start_host: StartHost) -> None:
    info = start_host()
    client = client_of(info)
    lasting = client.create(plain(name="lasting"), timeout=30)
    lasting.fs.upload_file(b"kept", "kept.txt")
    ephemeral = client.create(plain(ephemeral=True), timeout=30)
    signed = lasting.create_signed_preview_url(8000, 3600)
    with httpx.Client(timeout=30) as polling:
        polling.get(f"{info.url}/socket.io/?EIO=4&transport=polling")
        assert daemon.stop(info.state_dir) is True
    assert json.loads((info.state_dir / "host.json").read_text())["pid"] == 0  # written by an orderly end only
    assert daemon.running(info.state_dir) is None
    assert not psutil.pid_exists(info.pid)
    assert daemon.stop(info.state_dir) is False
    again = start_host()
    assert (again.url, again.key) == (info.url, info.key)
    client = client_of(again)
    assert [(one.id, one.state) for one in client.list()] == [(lasting.id, SandboxState.STOPPED)]
    with pytest.raises(DaytonaNotFoundError):
        client.get(ephemeral.id)
    found = client.get("lasting")
    found.start(timeout=30)
    assert found.fs.download_file("kept.txt") == b"kept"
    assert httpx.get(signed.url).status_code == 502  # let in, but nothing listens


def test_a_crash_of_the_daemon_leaves_its_sandboxes_running(start_host: StartHost) -> None:
    info = start_host()
    sandbox = client_of(info).create(plain(name="survivor", ephemeral=True), timeout=30)
    port = free_port()
    serve(sandbox, port)
    link, signed = sandbox.get_preview_link(port), sandbox.create_signed_preview_url(port, 3600)
    kill_daemon(info)
    assert daemon.running(info.state_dir) is None
    again = start_host()
    assert again.pid != info.pid
    found = client_of(again).get("survivor")
    assert (found.id, found.state, again.url) == (sandbox.id, SandboxState.STARTED, info.url)
    assert httpx.get(link.url, headers={"X-Daytona-Preview-Token": link.token}).status_code == 200
    assert httpx.get(signed.url).status_code == 200
    found.delete(timeout=30, wait=True)
    until(lambda: not listens(port))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_stop_after_a_crash_ends_what_was_left(start_host: StartHost) -> None:
    from gpuserve.host.processes import alive

    info = start_host()
    client = client_of(info)
    ephemeral, lasting = client.create(plain(ephemeral=True), timeout=30), client.create(plain(), timeout=30)
    for one in (ephemeral, lasting):
        serve(one, free_port())
    kill_daemon(info)
    assert alive(ephemeral.id)
    assert alive(lasting.id)
    assert daemon.stop(info.state_dir) is True
    assert (alive(ephemeral.id), alive(lasting.id)) == ([], [])
    assert [one.name for one in (info.state_dir / "sandboxes").iterdir()] == [lasting.id]
    assert [(one.id, one.state) for one in client_of(start_host()).list()] == [(lasting.id, SandboxState.STOPPED)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_stop(start_host: StartHost, number: int) -> None:
    from gpuserve.host.processes import alive

    info = start_host()
    sandbox = client_of(info).create(plain(ephemeral=True), timeout=30)
    serve(sandbox, free_port())
    os.kill(info.pid, number)
    os.waitpid(info.pid, 0)
    assert alive(sandbox.id) == []
    assert list((info.state_dir / "sandboxes").iterdir()) == []


def test_a_daemon_that_hangs_is_killed(start_host: StartHost) -> None:
    info = start_host()
    os.kill(info.pid, signal.SIGSTOP)
    assert daemon.stop(info.state_dir, timeout=1) is True
    assert not psutil.pid_exists(info.pid)


def test_a_daemon_that_is_busy_is_waited_for(start_host: StartHost, monkeypatch: pytest.MonkeyPatch) -> None:
    info = start_host()
    monkeypatch.setattr(daemon, "_PROBE_SECONDS", 0.1)
    os.kill(info.pid, signal.SIGSTOP)
    later = threading.Timer(0.5, os.kill, (info.pid, signal.SIGCONT))
    later.start()
    try:
        assert daemon.running(info.state_dir) == info
        os.kill(info.pid, signal.SIGSTOP)
        monkeypatch.setattr(daemon, "_BUSY_SECONDS", 0.2)
        with pytest.raises(HostError, match=f"process {info.pid} is there but does not answer"):
            daemon.running(info.state_dir)
    finally:
        later.join()
        os.kill(info.pid, signal.SIGCONT)


def test_a_host_that_hangs_is_told_and_hides_nothing_of_daytonas(
    start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = start_host()
    monkeypatch.setenv("GPUSERVE_HOST_DIR", str(info.state_dir))
    monkeypatch.setattr(daemon, "_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(daemon, "_BUSY_SECONDS", 0.1)
    os.kill(info.pid, signal.SIGSTOP)
    try:
        with pytest.raises(PlatformError, match="the local host can't be asked: process"):
            Context(load(None), Cache()).places()
        monkeypatch.setenv("DAYTONA_API_KEY", "dtn_planted")
        assert [place.name for place in Context(load(None), Cache()).places()] == ["daytona"]
    finally:
        os.kill(info.pid, signal.SIGCONT)


def test_what_came_due_while_it_was_down_is_done_at_the_start(start_host: StartHost) -> None:
    info = start_host()
    sandbox = client_of(info).create(plain(ttl_minutes=60, ephemeral=True), timeout=30)
    serve(sandbox, free_port())
    kill_daemon(info)
    _edit_store(info, lambda store: store["sandboxes"][sandbox.id].update(auto_destroy_at=time.time() - 1))
    client = client_of(start_host())
    until(lambda: client.get(sandbox.id).state == SandboxState.DESTROYED)


@pytest.mark.parametrize("state", ["pending_build", "building_snapshot", "creating", "starting"])
def test_a_beginning_that_was_broken_off_is_taken_up_again(start_host: StartHost, state: str) -> None:
    info, sandbox = _in_state(start_host, state)
    client = client_of(info)
    until(lambda: client.get(sandbox.id).state == SandboxState.STARTED)


@pytest.mark.parametrize(("state", "there"), [("stopping", True), ("destroying", False)])
def test_an_end_that_was_broken_off_is_taken_up_again(start_host: StartHost, state: str, there: bool) -> None:
    info, sandbox = _in_state(start_host, state)
    until(lambda: call(info, "GET", f"/sandbox/{sandbox.id}").json().get("state") == ("stopped" if there else None))


def _in_state(start_host: StartHost, state: str) -> tuple[HostInfo, Sandbox]:
    info = start_host()
    sandbox = client_of(info).create(plain(), timeout=30)
    kill_daemon(info)
    _edit_store(info, lambda store: store["sandboxes"][sandbox.id].update(state=state))
    return start_host(), sandbox


def _edit_store(info: HostInfo, change: Callable[[Any], object]) -> None:
    path = info.state_dir / "store.json"
    store = json.loads(path.read_text())
    change(store)
    path.write_text(json.dumps(store))


def test_after_a_reboot_nothing_is_thought_to_run(start_host: StartHost) -> None:
    info = start_host()
    client = client_of(info)
    client.create(plain(ephemeral=True), timeout=30)
    lasting = client.create(plain(), timeout=30)
    kill_daemon(info)
    _edit_store(info, lambda store: store.update(boot="another"))
    assert [(one.id, one.state) for one in client_of(start_host()).list()] == [(lasting.id, SandboxState.STOPPED)]


def test_a_damaged_store_is_set_aside_and_its_sandboxes_are_ended(start_host: StartHost) -> None:
    from gpuserve.host.processes import alive

    info = start_host()
    sandbox = client_of(info).create(plain(ephemeral=True), timeout=30)
    serve(sandbox, free_port())
    kill_daemon(info)
    (info.state_dir / "store.json").write_text("{")
    assert list(client_of(start_host()).list()) == []
    assert alive(sandbox.id) == []
    assert (info.state_dir / "store.json.damaged").read_text() == "{"
    assert list((info.state_dir / "sandboxes").iterdir()) == []


def test_a_start_that_fails_says_why(start_host: StartHost) -> None:
    with pytest.raises(HostError, match="unknown GPU type 'H1000'"):
        start_host(gpus="H1000")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port} on 127.0.0.1 is in use"):
            start_host(port=port)


def test_another_port_is_taken_when_the_last_one_is_not_free(start_host: StartHost) -> None:
    info = start_host()
    port = httpx.URL(info.url).port
    assert port is not None
    daemon.stop(info.state_dir)
    with socket.create_server(("127.0.0.1", port)):
        again = start_host()
    assert again.url != info.url
    assert again.key == info.key


@pytest.fixture
def impostor() -> Iterator[int]:
    """A server on the recorded port that does not know the key, and tells what it was sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert "Authorization" not in self.headers
            self.send_response(200)
            self.send_header("X-Gpuserve-Proof", "0" * 64)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_stranger_on_the_recorded_port_is_not_taken_for_the_host(impostor: int, tmp_path: Path) -> None:
    recorded = {"url": f"http://127.0.0.1:{impostor}/api", "key": "secret", "pid": os.getpid()}
    (tmp_path / "host.json").write_text(json.dumps(recorded))
    assert daemon.running(tmp_path) is None
    assert daemon.stop(tmp_path) is False


@pytest.mark.parametrize("content", ["", "[]", '{"url": 5}', '{"url": "http://127.0.0.1:1/api", "key": "k", "pid": 0}'])
def test_a_useless_record_means_that_none_runs(tmp_path: Path, content: str) -> None:
    (tmp_path / "host.json").write_text(content)
    assert daemon.running(tmp_path) is None
    assert daemon.stop(tmp_path / "absent") is False


def test_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPUSERVE_HOST_DIR", str(tmp_path / "chosen"))
    assert daemon.state_directory() == tmp_path / "chosen"
    monkeypatch.delenv("GPUSERVE_HOST_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert daemon.state_directory() == tmp_path / "gpuserve" / "host"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert daemon.state_directory() == tmp_path / ".local" / "state" / "gpuserve" / "host"


def test_it_is_cheap_to_import_and_says_what_is_missing(tmp_path: Path) -> None:
    source = Path(gpuserve.__file__).parents[1]
    program = f"""
import sys
sys.path.insert(0, {str(source)!r})
from gpuserve.host import daemon
heavy = {{"aiohttp", "socketio", "psutil", "asyncio", "subprocess", "daytona"}} & set(sys.modules)
assert not heavy, heavy
from pathlib import Path
try:
    daemon.start(Path({str(tmp_path / "none")!r}))
except daemon.HostError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "the local host needs aiohttp, psutil, socketio; run: pip install 'gpuserve[local]'\n"
    assert not (tmp_path / "none").exists()
