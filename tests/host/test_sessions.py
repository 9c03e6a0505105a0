"""Sessions of the local host through the SDK: order, lasting state, exit codes, logs, input, deletion."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from daytona import Sandbox, SessionExecuteRequest, SessionExecuteResponse
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaCommandAlreadyCompletedError,
    DaytonaConflictError,
    DaytonaNotFoundError,
    DaytonaSessionEndedError,
)

from gpuserve.host.daemon import HostInfo
from host.toolbox_http import Toolbox
from host_tools import until

OUT, ERR = "\x01\x01\x01", "\x02\x02\x02"


def run(sandbox: Sandbox, command: str, session: str = "s") -> SessionExecuteResponse:
    return sandbox.process.execute_session_command(session, SessionExecuteRequest(command=command), timeout=30)


def start(sandbox: Sandbox, command: str, session: str = "s", *, quiet: bool = False) -> str:
    request = SessionExecuteRequest(command=command, run_async=True, suppress_input_echo=quiet)
    answer = sandbox.process.execute_session_command(session, request, timeout=30)
    assert answer.exit_code is None
    assert answer.output is None
    return answer.cmd_id


def logs(sandbox: Sandbox, command_id: str) -> str:
    return sandbox.process.get_session_command_logs("s", command_id).output or ""


def exit_code(sandbox: Sandbox, command_id: str) -> int | None:
    return sandbox.process.get_session_command("s", command_id).exit_code


@pytest.fixture
def session(sandbox: Sandbox) -> str:
    sandbox.process.create_session("s")
    return "s"


@pytest.mark.usefixtures("session")
def test_directory_and_variables_last_from_command_to_command(sandbox: Sandbox) -> None:
    assert run(sandbox, "pwd").stdout == f"{sandbox.get_work_dir()}\n"
    run(sandbox, "mkdir deep && cd deep; export WORD='two words'; plain=x; f() { echo from f; }")
    answer = run(sandbox, 'pwd; echo "$WORD/$plain"; f')
    assert answer.stdout == f"{sandbox.get_work_dir()}/deep\ntwo words/x\nfrom f\n"


@pytest.mark.usefixtures("session")
def test_exit_code_output_and_marks(sandbox: Sandbox) -> None:
    answer = run(sandbox, "echo one; (exit 7)")
    assert (answer.exit_code, answer.output, answer.stdout, answer.stderr) == (7, f"{OUT}one\n", "one\n", "")
    answer = run(sandbox, "echo bad >&2")
    assert (answer.exit_code, answer.output, answer.stdout, answer.stderr) == (0, f"{ERR}bad\n", "", "bad\n")
    answer = run(sandbox, "if then")
    assert answer.exit_code != 0
    assert "syntax error" in (answer.stderr or "")
    assert run(sandbox, "echo still here").stdout == "still here\n"


@pytest.mark.usefixtures("session")
def test_commands_run_one_after_the_other(sandbox: Sandbox) -> None:
    first = start(sandbox, "until [ -e go ]; do sleep 0.02; done; echo first >> order")
    second = start(sandbox, "echo second >> order")
    third = start(sandbox, "echo third >> order")
    until(lambda: exit_code(sandbox, first) is None and not sandbox.process.exec("cat order").result.count("second"))
    sandbox.process.exec("touch go")
    until(lambda: exit_code(sandbox, third) == 0)
    assert sandbox.process.exec("cat order").result == "first\nsecond\nthird\n"
    told = sandbox.process.get_session("s")
    assert [command.id for command in told.commands] == [first, second, third]
    assert [command.exit_code for command in told.commands] == [0, 0, 0]


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    "ending", ["until [ -e go ]; do sleep 0.02; done; exit 3", "exec true", "echo last words; exit 0"]
)
def test_exit_and_exec_at_top_level_end_the_shell_without_an_exit_code(sandbox: Sandbox, ending: str) -> None:
    command = start(sandbox, ending)
    queued = start(sandbox, "echo never > never") if "go" in ending else None
    sandbox.process.exec("touch go")

    def refused() -> bool:
        try:
            start(sandbox, "true")
        except DaytonaSessionEndedError:
            return True
        return False

    until(refused)
    assert exit_code(sandbox, command) is None
    assert logs(sandbox, command) == (f"{OUT}last words\n" if "last" in ending else "")
    if queued:
        assert exit_code(sandbox, queued) is None
        assert "never" not in {item.name for item in sandbox.fs.list_files(".")}


@pytest.mark.usefixtures("session")
def test_a_waiting_call_is_told_that_the_shell_ended(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaSessionEndedError):
        run(sandbox, "exit 5")


@pytest.mark.usefixtures("session")
def test_what_lies_in_a_wrapped_shell_keeps_its_exit_code(sandbox: Sandbox) -> None:
    assert run(sandbox, "bash -c 'exit 9'").exit_code == 9
    assert run(sandbox, "echo on").exit_code == 0


@pytest.mark.usefixtures("session")
def test_a_line_shows_when_it_is_whole(sandbox: Sandbox) -> None:
    wait = "until [ -e {} ]; do sleep 0.02; done;"
    command = start(sandbox, rf"echo whole; printf '10%%\r50%%'; {wait.format('a')} printf '\r100%%\n'; printf tail")
    until(lambda: logs(sandbox, command) == f"{OUT}whole\n")
    sandbox.process.exec("touch a")
    until(lambda: exit_code(sandbox, command) == 0)
    assert logs(sandbox, command) == f"{OUT}whole\n{OUT}10%\r50%\r100%\n{OUT}tail\n"


@pytest.mark.usefixtures("session")
def test_odd_bytes_and_long_lines_survive(sandbox: Sandbox, host: HostInfo) -> None:
    command = start(sandbox, r"printf '\377\376 \303\n'; head -c 1000000 /dev/zero | tr '\0' x; echo; printf 'a\0b\n'")
    until(lambda: exit_code(sandbox, command) == 0)
    mark = OUT.encode()
    expected = mark + b"\xff\xfe \xc3\n" + mark + b"x" * 1_000_000 + b"\n" + mark + b"a\x00b\n"
    raw = Toolbox(host, sandbox).request("GET", f"/process/session/s/command/{command}/logs")
    assert raw.content == expected
    told = sandbox.process.get_session_command_logs("s", command)
    assert told.stdout == expected.replace(mark, b"").decode("utf-8", "replace")
    assert told.stdout.startswith("�� �\n")


@pytest.mark.usefixtures("session")
def test_both_streams_in_the_order_of_writing(sandbox: Sandbox) -> None:
    answer = run(sandbox, "for i in 1 2 3; do echo o$i; sleep 0.1; echo e$i >&2; sleep 0.1; done")
    expected = [f"{OUT}o1", f"{ERR}e1", f"{OUT}o2", f"{ERR}e2", f"{OUT}o3", f"{ERR}e3"]
    assert (answer.output or "").splitlines() == expected
    assert (answer.stdout, answer.stderr) == ("o1\no2\no3\n", "e1\ne2\ne3\n")


@pytest.mark.usefixtures("session")
def test_a_background_process_outlives_its_command_and_is_still_heard(sandbox: Sandbox) -> None:
    answer = run(sandbox, "(until [ -e go ]; do sleep 0.02; done; echo late) & echo early")
    assert (answer.exit_code, answer.stdout) == (0, "early\n")
    assert run(sandbox, "echo next").stdout == "next\n"
    sandbox.process.exec("touch go")
    until(lambda: logs(sandbox, answer.cmd_id) == f"{OUT}early\n{OUT}late\n")


@pytest.mark.usefixtures("session")
def test_input_reaches_the_command_and_is_echoed_unless_told_not_to(sandbox: Sandbox) -> None:
    script = 'read -r a; read -r b; echo "<$a><$b>"'
    loud, quiet = start(sandbox, script), start(sandbox, script, quiet=True)
    for command in (loud, quiet):
        sandbox.process.send_session_command_input("s", command, "one")
        sandbox.process.send_session_command_input("s", command, "two\n")
        until(lambda command=command: exit_code(sandbox, command) == 0)  # type: ignore[misc]
    assert logs(sandbox, loud) == f"{OUT}one\n{OUT}two\n{OUT}<one><two>\n"
    assert logs(sandbox, quiet) == f"{OUT}<one><two>\n"
    with pytest.raises(DaytonaCommandAlreadyCompletedError):
        sandbox.process.send_session_command_input("s", loud, "three")


@pytest.mark.usefixtures("session")
def test_more_input_than_a_pipe_holds(sandbox: Sandbox) -> None:
    command = start(sandbox, "sleep 0.3; head -c 300001 | wc -c", quiet=True)
    sandbox.process.send_session_command_input("s", command, "y" * 300_000)
    until(lambda: exit_code(sandbox, command) == 0)
    assert logs(sandbox, command) == f"{OUT}300001\n"


def test_names_duplicates_and_unknown_ones(sandbox: Sandbox) -> None:
    process = sandbox.process
    process.create_session("b-1.x_Y")
    process.create_session("a")
    assert [session.session_id for session in process.list_sessions()] == ["b-1.x_Y", "a"]
    assert process.get_session("a").commands == []
    with pytest.raises(DaytonaConflictError, match="session already exists"):
        process.create_session("a")
    for name in ("entrypoint", "..", "../a", "a/b", "", ".hidden", "n" * 129):
        with pytest.raises(DaytonaBadRequestError):
            process.create_session(name)
    for attempt in (process.get_session, process.delete_session):
        with pytest.raises(DaytonaNotFoundError, match="session not found"):
            attempt("missing")
    with pytest.raises(DaytonaNotFoundError, match="command not found"):
        process.get_session_command("a", "missing")
    with pytest.raises(DaytonaNotFoundError, match="session not found"):
        process.get_entrypoint_session()
    process.delete_session("a")
    process.create_session("a")


def test_deleting_ends_what_detached_itself(sandbox: Sandbox) -> None:
    sandbox.process.create_session("s")
    sandbox.process.create_session("other")
    run(sandbox, "sleep 1000 & echo $! > pids", "other")
    detach = (
        "import os, sys, time; os.setsid(); os.fork() and os._exit(0); open('pids', 'a').write(f'{os.getpid()}\\n')"
    )
    run(sandbox, f'for i in 1 2; do (env -i PATH="$PATH" python3 -c "{detach}; time.sleep(1000)" &); done')
    run(sandbox, 'nohup sh -c "trap : TERM; while :; do sleep 1; done" >/dev/null 2>&1 & echo $! >> pids')
    pids = Path(sandbox.get_work_dir(), "pids")
    until(lambda: len(pids.read_text().splitlines()) == 4)
    spared, *doomed = map(int, pids.read_text().split())
    assert all(psutil.pid_exists(pid) for pid in doomed)
    sandbox.process.delete_session("s")
    assert not any(_runs(pid) for pid in doomed)
    assert _runs(spared)
    assert [session.session_id for session in sandbox.process.list_sessions()] == ["other"]


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("session")
def test_a_command_never_shows_in_an_argument_list(sandbox: Sandbox) -> None:
    command = start(sandbox, "TOKEN=sesame42; until [ -e go ]; do read -rt 0.02 nothing; done")
    until(lambda: exit_code(sandbox, command) is None and sandbox.process.get_session("s").commands)
    seen = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not any("sesame42" in line for line in seen)
    stored = [path for path in Path(sandbox.get_work_dir()).parent.rglob("command") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in stored] == [0o600]
