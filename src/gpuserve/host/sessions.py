"""Toolbox sessions as the daemon sees them: directories on disk, each kept by an agent process of its own.

Nothing here is held in memory between requests, so a daemon that has just started finds every session as the last one
left it. ``session_agent`` describes the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from gpuserve.host import session_agent
from gpuserve.host.bodies import problem
from gpuserve.host.environment import environment
from gpuserve.host.processes import SESSIONS, end, session_tree
from gpuserve.host.wire import ApiError, SandboxView

ENTRYPOINT = "entrypoint"
"""The platform keeps this session name for an image's own command, which does not exist here."""

_SESSION_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_COMMAND_ID = re.compile(r"[0-9a-f-]{1,64}")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.05
_AGENT_START_SECONDS = 30.0


def no_session() -> ApiError:
    """The platform's answer for a session that does not exist."""
    return problem(404, "not found: session not found")


def session_ended() -> ApiError:
    """The answer once the session's shell is gone, so that nothing can run in it any more."""
    return problem(410, "gone: the session's shell has ended", "SESSION_ENDED")


@dataclass(frozen=True)
class Command:
    """One command of a session, as its files say."""

    directory: Path

    @property
    def id(self) -> str:
        """The command's identifier."""
        return self.directory.name

    @property
    def text(self) -> str:
        """The command as it was handed in."""
        return (self.directory / "command").read_text("utf-8")

    @property
    def log(self) -> Path:
        """The file with the marked lines."""
        return self.directory / "log"

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs or waits, and for ever if the shell ended under it."""
        try:
            return int((self.directory / "exit_code").read_text())
        except FileNotFoundError:
            return None

    def as_json(self) -> dict[str, object]:
        """The shape of the platform's ``Command``."""
        code = self.exit_code
        return {"id": self.id, "command": self.text} | ({} if code is None else {"exitCode": code})


@dataclass(frozen=True)
class Session:
    """One session, as its directory says."""

    directory: Path

    @property
    def id(self) -> str:
        """The session's name."""
        return self.directory.name

    @property
    def ended(self) -> bool:
        """Whether the shell is gone: by its own doing, or with an agent that was killed."""
        if (self.directory / "ended").exists():
            return True
        try:
            os.close(self._open_control())
        except OSError:
            return True
        return False

    def commands(self) -> list[Command]:
        """Its commands in the order in which they were handed in."""
        folders = [path for path in (self.directory / "commands").iterdir() if (path / "ready").exists()]
        return [Command(path) for path in sorted(folders, key=lambda path: (path / "ready").stat().st_mtime_ns)]

    def command(self, command_id: str) -> Command:
        """One command. Raises ApiError 404 for an unknown one."""
        directory = self.directory / "commands" / command_id
        if not _COMMAND_ID.fullmatch(command_id) or not (directory / "ready").exists():
            raise problem(404, "not found: command not found")
        return Command(directory)

    def submit(self, text: str, *, echo_input: bool) -> Command:
        """Store a command and queue it behind the others. Raises ApiError 410 if the shell is gone."""
        if self.ended:
            raise session_ended()
        command = Command(self.directory / "commands" / str(uuid.uuid4()))
        command.directory.mkdir(mode=0o700)
        write_private(command.directory / "command", text.encode())
        write_private(command.log, b"")
        if not echo_input:
            (command.directory / "no_echo").touch(0o600)
        os.mkfifo(command.directory / "stdin", 0o600)
        (command.directory / "ready").touch(0o600)
        try:
            control = self._open_control()
        except OSError as error:
            shutil.rmtree(command.directory)
            raise session_ended() from error
        with os.fdopen(control, "wb", buffering=0) as line:
            line.write(f"run {command.id}\n".encode())
        return command

    async def wait(self, command: Command) -> int:
        """The command's exit code once it has one. Raises ApiError 410 if the shell ended without it."""
        pause = _FIRST_PAUSE
        while True:
            over = self.ended  # asked first: an exit code written just before the end is still found
            code = command.exit_code
            if code is not None:
                return code
            if over:
                raise session_ended()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def send_input(self, command: Command, data: str) -> None:
        """Write to the command's stdin, with a newline at the end, and echo it into the log as the platform does.

        Waits while the command does not read. Raises ApiError 410 once the command or the shell has ended.
        """
        rest = (data if data.endswith("\n") else f"{data}\n").encode()
        self._refuse_if_over(command)
        if not (command.directory / "no_echo").exists():
            _append(command.log, _marked(rest))  # before the command can answer it
        while rest:
            self._refuse_if_over(command)
            rest = rest[_write_some(command.directory / "stdin", rest) :]
            if rest:
                await asyncio.sleep(_LONGEST_PAUSE)

    async def delete(self) -> None:
        """End everything of the session and remove it."""
        await end(await asyncio.to_thread(session_tree, self.directory))
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    def as_json(self) -> dict[str, object]:
        """The shape of the platform's ``Session``."""
        return {"sessionId": self.id, "commands": [command.as_json() for command in self.commands()]}

    def _open_control(self) -> int:
        # Opening for writing without waiting fails unless the agent holds the other end: a test of its life.
        return os.open(self.directory / "control", os.O_WRONLY | os.O_NONBLOCK)

    def _refuse_if_over(self, command: Command) -> None:
        if command.exit_code is not None:
            raise problem(410, "gone: the command has completed", "COMMAND_ALREADY_COMPLETED")
        if self.ended:
            raise session_ended()


async def create(view: SandboxView, session_id: str) -> Session:
    """Start a session and return when it takes commands.

    Raises ApiError 400 for an unusable name, 409 for one in use, 500 if its agent does not start.
    """
    if session_id == ENTRYPOINT or not _SESSION_ID.fullmatch(session_id):
        raise problem(400, "bad request: a session id is 1 to 128 letters, digits, '.', '_' or '-', not 'entrypoint'")
    directory = view.root / SESSIONS / session_id
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError as error:
        raise problem(409, "conflict: session already exists") from error
    (directory / "commands").mkdir(mode=0o700)
    session = Session(directory)
    try:
        await _start_agent(view, directory)
    except BaseException:
        await session.delete()
        raise
    return session


def find(view: SandboxView, session_id: str) -> Session:
    """The session of that name. Raises ApiError 404."""
    directory = view.root / SESSIONS / session_id
    if not _SESSION_ID.fullmatch(session_id) or not (directory / "pid").exists():
        raise no_session()
    return Session(directory)


def every(view: SandboxView) -> list[Session]:
    """The sandbox's sessions, oldest first."""
    folder = view.root / SESSIONS
    started = [path for path in folder.iterdir() if (path / "pid").exists()] if folder.is_dir() else []
    return [Session(path) for path in sorted(started, key=lambda path: (path / "pid").stat().st_mtime_ns)]


def split(log: bytes) -> tuple[bytes, bytes]:
    """The two streams of a marked log, without the marks."""
    streams: dict[bytes, list[bytes]] = {session_agent.STDOUT_MARK: [], session_agent.STDERR_MARK: []}
    lines = log.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for line in lines:
        streams.get(line[:3], []).append(line[3:] + b"\n")
    out, err = (b"".join(parts) for parts in streams.values())
    return out, err


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only the owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


async def _start_agent(view: SandboxView, directory: Path) -> None:
    complaint = directory / "agent.log"
    write_private(complaint, b"")
    with complaint.open("ab") as errors:
        starter = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            session_agent.__file__,
            str(directory),
            env=environment(view),
            cwd=view.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(_AGENT_START_SECONDS):
            status = await starter.wait()
    except TimeoutError:
        starter.kill()
        status = await starter.wait()
    if status:
        raise problem(500, "internal server error: the session's agent did not start")


def _write_some(fifo: Path, data: bytes) -> int:
    """How many bytes the FIFO took: none if it is full or its reader is not there yet."""
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    finally:
        os.close(fd)


def _marked(data: bytes) -> bytes:
    lines = data.removesuffix(b"\n").split(b"\n")
    return b"".join(session_agent.STDOUT_MARK + line + b"\n" for line in lines)


def _append(path: Path, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("ab", buffering=0) as file:  # the session may just be gone
        file.write(data)
