"""One-shot commands and code through the SDK."""

from __future__ import annotations

import shutil

import psutil
import pytest
from daytona import CodeRunParams, Sandbox
from daytona.common.errors import DaytonaBadRequestError, DaytonaProcessExecutionTimeoutError

from gpuserve.host.daemon import HostInfo
from host.toolbox_http import Toolbox


def test_output_is_merged_and_the_exit_code_kept(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("echo one; echo two >&2; echo three; exit 5")
    assert (answer.exit_code, answer.result) == (5, "one\ntwo\nthree\n")
    assert sandbox.process.exec("nosuchprogram").exit_code == 127
    assert sandbox.process.exec("kill -9 $$").exit_code == 137


def test_several_lines_quotes_and_no_input(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec('cat\nfor i in \'a b\' "c$((1+1))"; do\n  echo "$i"\ndone\ncat <<X\nhere\nX\n')
    assert (answer.exit_code, answer.result) == (0, "a b\nc2\nhere\n")


def test_bytes_that_are_not_text_are_replaced(sandbox: Sandbox) -> None:
    assert sandbox.process.exec(r"printf 'a\377b\0c'").result == "a�b\0c"


def test_much_output_and_a_long_command(sandbox: Sandbox) -> None:
    assert len(sandbox.process.exec("head -c 3000000 /dev/zero | tr '\\0' q").result) == 3_000_000
    assert sandbox.process.exec("true " + "x" * 200_000 + "; echo end").result == "end\n"


def test_directory_and_variables(sandbox: Sandbox) -> None:
    home = sandbox.get_work_dir()
    assert sandbox.process.exec("pwd; echo $HOME").result == f"{home}\n{home}\n"
    sandbox.process.exec("mkdir -p a/b")
    assert sandbox.process.exec("pwd", cwd="a/b").result == f"{home}/a/b\n"
    assert sandbox.process.exec("pwd", cwd="/").result == "/\n"
    answer = sandbox.process.exec("echo touched > touched", cwd="missing")
    assert answer.exit_code == -1
    assert "missing" in answer.result
    env = {"WORD": "two words", "DAYTONA_SANDBOX_ID": "someone else"}
    answer = sandbox.process.exec('echo "$WORD"; echo $DAYTONA_SANDBOX_ID', env=env)
    assert answer.result == f"two words\n{sandbox.id}\n"
    assert sandbox.process.exec("umask").result == "0022\n"
    with pytest.raises(DaytonaBadRequestError):
        sandbox.process.exec("true", env={"A=B": "c"})


def test_when_time_is_up_the_whole_tree_ends(sandbox: Sandbox) -> None:
    script = (
        "echo $$ > pids; (trap : TERM; while :; do sleep 1; done) & echo $! >> pids; setsid sleep 1000 & sleep 1000"
    )
    with pytest.raises(DaytonaProcessExecutionTimeoutError) as caught:
        sandbox.process.exec(script, timeout=1)
    assert caught.value.status_code == 408
    pids = [int(line) for line in sandbox.fs.download_file("pids").split()]
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
    mine = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "1000"]]
    assert not [process for process in mine if process.environ().get("DAYTONA_SANDBOX_ID") == sandbox.id]


def test_a_background_process_stays(sandbox: Sandbox) -> None:
    sandbox.process.exec("sleep 1000 >/dev/null 2>&1 & echo $! > pid")
    pid = int(sandbox.fs.download_file("pid"))
    assert psutil.Process(pid).name() == "sleep"


def test_the_command_is_in_no_argument_list(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("SECRET=sesame43; cat /proc/$$/cmdline | tr '\\0' ' '")
    assert "sesame43" not in answer.result
    assert "eval" in answer.result


def test_python_code(sandbox: Sandbox) -> None:
    sandbox.fs.upload_file(b"value = 20\n", "helper.py")
    code = "import helper, os, sys\nprint(helper.value + 1, sys.argv[1:], os.environ['WORD'])\nsys.exit(4)"
    answer = sandbox.process.code_run(code, CodeRunParams(argv=["a b", "-c"], env={"WORD": "w"}))
    assert (answer.exit_code, answer.result) == (4, "21 ['a b', '-c'] w\n")
    assert answer.artifacts is not None
    assert answer.artifacts.stdout == answer.result
    failed = sandbox.process.code_run("def f():\n    raise ValueError('why')\nf()")
    assert failed.exit_code == 1
    assert "ValueError: why" in failed.result


def test_code_that_takes_too_long(sandbox: Sandbox) -> None:
    with pytest.raises(Exception, match="timeout"):
        sandbox.process.code_run("while True: pass", timeout=1)


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_javascript_code(sandbox: Sandbox, host: HostInfo) -> None:
    body = {"code": "console.log(process.argv.slice(2).join('+')); process.exit(3)", "argv": ["a", "b"]}
    answer = Toolbox(host, sandbox).request("POST", "/process/code-run", json=body | {"language": "javascript"})
    assert answer.status_code == 200
    assert answer.json() == {"exitCode": 3, "result": "a+b\n", "artifacts": {"charts": []}}


def test_languages_that_cannot_run(sandbox: Sandbox, host: HostInfo) -> None:
    answer = Toolbox(host, sandbox).request("POST", "/process/code-run", json={"code": "1", "language": "cobol"})
    assert answer.status_code == 400
    assert "'cobol' is not one of python, javascript, typescript" in answer.json()["message"]
    empty = {"code": "1", "language": "javascript", "envs": {"PATH": "/nowhere"}}
    answer = Toolbox(host, sandbox).request("POST", "/process/code-run", json=empty)
    assert answer.status_code == 400
    assert "needs node" in answer.json()["message"]


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_typescript_code_runs_or_says_what_it_needs(sandbox: Sandbox, host: HostInfo) -> None:
    body = {"code": "const n: number = 41; console.log(n + 1)", "language": "typescript"}
    answer = Toolbox(host, sandbox).request("POST", "/process/code-run", json=body)
    major = int(sandbox.process.exec("node --version").result.removeprefix("v").split(".")[0])
    if major > 22:
        assert answer.json()["result"] == "42\n"
    elif major < 22:
        assert answer.status_code == 400
        assert "needs node 22.7" in answer.json()["message"]
