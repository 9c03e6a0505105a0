"""One-shot commands and code: ``/process/execute`` and ``/process/code-run``.

Output and errors come merged, as on the platform. The command's text is handed to the shell through its input, never
in an argument list, where every user of the machine could read it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from gpuserve.host import processes
from gpuserve.host.bodies import bad, json_body, optional_text, problem, seconds, text, texts, variables
from gpuserve.host.environment import environment
from gpuserve.host.wire import SandboxView

_TIMEOUT_GRACE_SECONDS = 0.3
_NO_DIRECTORY = -1
"""The exit code that the platform gives a command whose working directory does not exist."""

# The shell takes the script from its input and then has none: what the command runs finds an end of file there.
_BASH = 'eval "$(</dev/stdin)" </dev/null'
_SH = 'eval "$(cat)" </dev/null'


@dataclass(frozen=True)
class Job:
    """What is to run: a program, what is fed to its stdin, where, with which environment, for how many seconds."""

    argv: Sequence[str]
    stdin: bytes
    cwd: Path
    env: dict[str, str]
    timeout: float | None


@dataclass(frozen=True)
class Outcome:
    """What came of it: stdout and stderr merged, and the exit code as a shell would give it."""

    exit_code: int
    output: str


async def execute(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /process/execute``. 408 if the command is not done in time; it is ended then."""
    body = await json_body(request)
    command, timeout = text(body, "command"), seconds(body, "timeout")
    env = environment(view, variables(body, "envs"))
    job = Job(shell(env), command.encode(), view.home / (optional_text(body, "cwd") or ""), env, timeout)
    outcome = await run(view, job)
    return web.json_response({"exitCode": outcome.exit_code, "result": outcome.output})


async def code_run(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /process/code-run``. 400 for a language that is unknown or has no interpreter here; 408 as above."""
    body = await json_body(request)
    code, timeout = text(body, "code"), seconds(body, "timeout")
    env = environment(view, variables(body, "envs"))
    program = await interpreter(optional_text(body, "language") or "python", env)
    outcome = await run(view, Job([*program, *texts(body, "argv")], code.encode(), view.home, env, timeout))
    return web.json_response({"exitCode": outcome.exit_code, "result": outcome.output, "artifacts": {"charts": []}})


def shell(env: dict[str, str]) -> list[str]:
    """A command line for the sandbox's shell that runs the script it is fed.

    bash before sh: the images that this host stands in for have bash and no zsh, which the platform would prefer.
    """
    path = env.get("PATH", os.defpath)
    if bash := shutil.which("bash", path=path) or shutil.which("bash"):
        return [bash, "--noprofile", "--norc", "-c", _BASH, "bash"]
    return [shutil.which("sh", path=path) or "/bin/sh", "-c", _SH, "sh"]


async def interpreter(language: str, env: dict[str, str]) -> list[str]:
    """A command line that runs the code it is fed, with room for the code's own arguments. Raises ApiError 400."""
    if language == "python":
        return [_found("python3", language, env), "-u", "-"]
    if language not in ("javascript", "typescript"):
        raise bad(f"language {language!r} is not one of python, javascript, typescript")
    node = _found("node", language, env)
    if language == "javascript":
        return [node, "-"]
    version = await _node_version(node, env)
    if version < (22, 7):
        have = ".".join(map(str, version))
        raise bad(f"typescript needs node 22.7 or newer in the sandbox, which strips types itself; here is {have}")
    return [node, "--no-warnings", "--experimental-strip-types", "--input-type=commonjs-typescript", "-"]


async def run(view: SandboxView, job: Job) -> Outcome:
    """Run ``job`` in a session of its own until its output is closed.

    Raises ApiError 408 with the code for which the SDK has its own exception when the time is up.
    """
    if not job.cwd.is_dir():
        return Outcome(_NO_DIRECTORY, f"chdir {job.cwd}: no such directory")
    process = await _start(job)
    await asyncio.to_thread(processes.note_group, view.root, process.pid)
    try:
        async with asyncio.timeout(job.timeout):
            output, _ = await process.communicate(job.stdin)
    except TimeoutError as error:
        await processes.end(processes.command_tree(process.pid), grace=_TIMEOUT_GRACE_SECONDS)
        await process.wait()
        message = "request timeout: command execution timeout"
        raise problem(408, message, "PROCESS_EXECUTION_TIMEOUT") from error
    finally:
        await asyncio.to_thread(processes.forget_group, view.root, process.pid)
    return Outcome(_shell_code(process.returncode or 0), output.decode("utf-8", "replace"))


async def _start(job: Job) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *job.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=job.cwd,
            env=job.env,
            start_new_session=True,
            umask=0o022,
        )
    except OSError as error:
        raise bad(f"the command cannot be started: {error.strerror}") from error


def _found(program: str, language: str, env: dict[str, str]) -> str:
    path = shutil.which(program, path=env.get("PATH", os.defpath))
    if path is None:
        raise bad(f"{language} code needs {program}, which is not on the sandbox's PATH")
    return path


async def _node_version(node: str, env: dict[str, str]) -> tuple[int, int]:
    process = await asyncio.create_subprocess_exec(node, "--version", stdout=subprocess.PIPE, env=env)
    output, _ = await process.communicate()
    found = re.match(rb"v(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _shell_code(code: int) -> int:
    """A death by signal as shells report it: 128 and the signal's number."""
    return code if code >= 0 else 128 + signal.Signals(-code).value
