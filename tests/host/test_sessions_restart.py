"""Sessions outlive a daemon that is killed, and do not outlive their sandbox."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest
from daytona import CreateSandboxFromSnapshotParams, Sandbox, SessionExecuteRequest
from daytona.common.errors import DaytonaNotFoundError, DaytonaSessionEndedError

from conftest import StartHost, client_for
from gpuserve.host import processes
from gpuserve.host.daemon import HostInfo
from host_tools import until


def start(sandbox: Sandbox, command: str) -> str:
    request = SessionExecuteRequest(command=command, run_async=True)
    return sandbox.process.execute_session_command("s", request, timeout=30).cmd_id


def kill_daemon(info: HostInfo) -> None:
    os.kill(info.pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(info.pid) or psutil.Process(info.pid).status() == psutil.STATUS_ZOMBIE)


def test_a_killed_daemon_takes_no_session_with_it(start_host: StartHost) -> None:
    first = start_host()
    sandbox = client_for(first).create(CreateSandboxFromSnapshotParams(), timeout=30)
    sandbox.process.create_session("s")
    home = Path(sandbox.get_user_home_dir())
    sandbox.process.execute_session_command("s", SessionExecuteRequest(command="mkdir d; cd d; export KEPT=yes"))
    running = start(
        sandbox, "echo before; until [ -e ../go ]; do sleep 0.02; done; echo after; read -r x; echo $x; false"
    )
    queued = start(sandbox, 'echo "$KEPT $PWD"')
    until(lambda: "before" in (sandbox.process.get_session_command_logs("s", running).stdout or ""))

    kill_daemon(first)
    (home / "go").touch()  # what is written while no daemon runs is kept as well
    log = next(home.parent.rglob(f"{running}/log"))
    until(lambda: b"after" in log.read_bytes())
    second = start_host()
    assert second.pid != first.pid

    sandbox = client_for(second).get(sandbox.id)
    assert sandbox.process.get_session_command("s", running).exit_code is None
    sandbox.process.send_session_command_input("s", running, "hello")
    out: list[str] = []
    follow = sandbox.process.get_session_command_logs_async("s", running, out.append, out.append)
    asyncio.run(asyncio.wait_for(follow, 30))
    assert "".join(out) == "before\nafter\nhello\nhello\n"
    assert sandbox.process.get_session_command("s", running).exit_code == 1
    until(lambda: sandbox.process.get_session_command("s", queued).exit_code == 0)
    assert sandbox.process.get_session_command_logs("s", queued).stdout == f"yes {home}/d\n"
    answer = sandbox.process.execute_session_command("s", SessionExecuteRequest(command="echo on"), timeout=30)
    assert answer.stdout == "on\n"
    sandbox.process.delete_session("s")
    assert processes.alive(sandbox.id) == []


def test_a_killed_agent_ends_its_session(sandbox: Sandbox) -> None:
    sandbox.process.create_session("s")
    home = Path(sandbox.get_user_home_dir())
    agent = processes.agent_of(home.parent / processes.SESSIONS / "s")
    assert agent is not None
    agent.kill()
    until(lambda: not processes.alive(sandbox.id))
    with pytest.raises(DaytonaSessionEndedError):
        start(sandbox, "true")
    sandbox.process.delete_session("s")
    sandbox.process.create_session("s")
    start(sandbox, "true")


def test_an_agent_leaves_when_its_shell_and_all_else_is_gone(sandbox: Sandbox) -> None:
    sandbox.process.create_session("s")
    start(sandbox, "(until [ -e go ]; do sleep 0.02; done; echo late > late) & exit 0")
    home = Path(sandbox.get_user_home_dir())
    directory = home.parent / processes.SESSIONS / "s"
    until((directory / "ended").exists)
    assert processes.agent_of(directory) is not None
    (home / "go").touch()
    until(lambda: not processes.alive(sandbox.id))
    assert (home / "late").exists()
    assert (directory / "agent.log").read_text() == ""


def test_stopping_the_sandbox_ends_its_sessions(start_host: StartHost) -> None:
    sandbox = client_for(start_host()).create(CreateSandboxFromSnapshotParams(), timeout=30)
    sandbox.process.create_session("s")
    start(sandbox, "trap : TERM; setsid sleep 1000 & sleep 1000")
    until(lambda: len(processes.alive(sandbox.id)) >= 4)
    sandbox.stop(timeout=30)
    assert processes.alive(sandbox.id) == []
    sandbox.start(timeout=30)
    assert sandbox.process.list_sessions() == []
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_session("s")
