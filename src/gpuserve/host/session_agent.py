"""The process that keeps one session: it owns the session's shell and writes down what the commands say.

Started as ``python -IS session_agent.py DIRECTORY`` with the sandbox's environment and working directory. It uses the
standard library only, starts in some tens of milliseconds, and leaves its starter at once, so that a session outlives
the daemon that asked for it. Everything it knows is in DIRECTORY, readable by any later daemon:

    control            FIFO; a daemon writes ``run ID`` and a newline for a command that it has stored
    report             FIFO; the shell writes ``ID EXITCODE`` and a newline when a command has ended
    pid                the agent's process number
    ended              written when the shell is gone; no command runs here any more
    commands/ID/       command (its text), stdin, stdout, stderr (FIFOs), log, exit_code (once it has ended)

A command is sourced by the shell, so ``cd`` and ``export`` last, and ``exit`` or ``exec`` at its top level ends the
shell with no exit code written. What a command writes is read line by line; each line goes into ``log`` behind three
bytes that name its stream. A line without its newline waits for it, or for the end of every writer.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

STDOUT_MARK = b"\x01\x01\x01"
STDERR_MARK = b"\x02\x02\x02"
READ_SIZE = 1 << 16
DRAIN_READS = 64
"""Reads per stream at a command's end: more than a pipe holds, and an end even if a background process writes on."""
LINE_LIMIT = 64 << 20
"""A line longer than this many bytes is cut, so that endless output without a newline cannot fill the memory."""

_PR_SET_CHILD_SUBREAPER = 36


class Stream:
    """One output of one command: bytes in, marked lines out."""

    def __init__(self, fifo: Path, mark: bytes, log: int) -> None:
        os.mkfifo(fifo, 0o600)
        self.fifo = fifo
        self.mark = mark
        self.log = log
        self.fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        # Held until the shell has ended the command: without a writer, reading would report an end before the start.
        self.hold: int | None = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        self.partial: list[bytes] = []
        self.partial_size = 0

    def pump(self) -> bool | None:
        """Read once. True: something came; False: nothing there now; None: every writer is gone."""
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self.flush()
            return None
        self._take(data)
        return True

    def release(self) -> None:
        """Let go of the own write end, so that the end of the last real writer shows."""
        if self.hold is not None:
            os.close(self.hold)
            self.hold = None

    def flush(self) -> None:
        """Write what waits for a newline, with one."""
        if self.partial:
            self._write([b"".join(self.partial)])
            self.partial, self.partial_size = [], 0

    def _take(self, data: bytes) -> None:
        lines, newline, rest = data.rpartition(b"\n")
        if newline:
            self._write((b"".join(self.partial) + lines).split(b"\n"))
            self.partial, self.partial_size = [], 0
        if rest:
            self.partial.append(rest)
            self.partial_size += len(rest)
            if self.partial_size > LINE_LIMIT:
                self.flush()

    def _write(self, lines: list[bytes]) -> None:
        view = memoryview(b"".join(self.mark + line + b"\n" for line in lines))
        try:
            while view:
                view = view[os.write(self.log, view) :]
        except OSError as error:
            # A full disk must not stop the reading: the command would block or die of a broken pipe.
            print(f"log of {self.fifo.parent.name}: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201


class Command:
    """A command that was handed in: waiting, running, or ended with some process still writing to its streams."""

    def __init__(self, directory: Path) -> None:
        self.id = directory.name
        self.directory = directory
        self.streams: list[Stream] = []
        self.log = -1
        # Read and write: the command finds a writer at its stdin from the first moment to its last.
        self.stdin: int | None = os.open(directory / "stdin", os.O_RDWR | os.O_NONBLOCK)

    def start(self) -> None:
        """Make the outputs ready to be written."""
        self.log = os.open(self.directory / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.streams = [
            Stream(self.directory / "stdout", STDOUT_MARK, self.log),
            Stream(self.directory / "stderr", STDERR_MARK, self.log),
        ]

    def script(self, report: Path) -> bytes:
        """What the shell reads to run this command and to report its exit code."""
        place = {name: shlex.quote(str(self.directory / name)) for name in ("command", "stdin", "stdout", "stderr")}
        run = f"{{ . {place['command']}; }} <{place['stdin']} >{place['stdout']} 2>{place['stderr']}"
        return f"{run}; printf '%s %s\\n' {self.id} \"$?\" >{shlex.quote(str(report))}\n".encode()

    def write_exit_code(self, code: str) -> None:
        """Write the exit code so that no reader sees half of it."""
        draft = self.directory / "exit_code.draft"
        draft.write_text(code)
        draft.replace(self.directory / "exit_code")

    def close_stdin(self) -> None:
        """No input from here on."""
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None
            (self.directory / "stdin").unlink(missing_ok=True)


class Agent:
    """One session: its shell, its commands in order, and the loop that serves them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control = self._fifo("control")
        self.report = self._fifo("report")
        self.selector = selectors.DefaultSelector()
        self.waiting: deque[Command] = deque()
        self.current: Command | None = None
        self.shell: subprocess.Popen[bytes] | None = None
        self.streams: set[Stream] = set()
        self.unread = {self.control: b"", self.report: b""}

    def run(self) -> None:
        """Serve until the shell has ended and nothing of the session runs or writes any more."""
        wake = self._listen_for_children()
        self._watch(self.control, lambda: self._lines(self.control, self._accept))
        self._watch(self.report, lambda: self._lines(self.report, self._ended))
        self._watch(wake, lambda: self._reap(wake))
        self._start_shell()
        while self.shell or self.streams or self._children():
            for key, _ in self.selector.select():
                # An earlier callback of this round may have closed the stream of a later one.
                if self.selector.get_map().get(key.fd) is key:
                    key.data()

    def _fifo(self, name: str) -> int:
        os.mkfifo(self.directory / name, 0o600)
        return os.open(self.directory / name, os.O_RDWR | os.O_NONBLOCK)

    def _watch(self, fd: int, react: Callable[[], object]) -> None:
        self.selector.register(fd, selectors.EVENT_READ, react)

    def _listen_for_children(self) -> int:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        # A handler that does nothing, not SIG_IGN: an ignored signal would be ignored by the shell too. The agent
        # outlasts a polite end of its group, since it is what finds the stragglers.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        return read

    def _start_shell(self) -> None:
        path = os.environ.get("PATH", os.defpath)
        shell = shutil.which("bash", path=path) or shutil.which("sh", path=path) or "/bin/sh"
        plain = ["--noprofile", "--norc"] if Path(shell).name == "bash" else []
        self.shell = subprocess.Popen(
            [shell, *plain],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            umask=0o022,
        )

    def _lines(self, fd: int, use: Callable[[str], None]) -> None:
        *lines, self.unread[fd] = (self.unread[fd] + os.read(fd, READ_SIZE)).split(b"\n")
        for line in lines:
            use(line.decode())

    def _accept(self, line: str) -> None:
        verb, _, ident = line.partition(" ")
        if verb == "run" and self.shell:
            self.waiting.append(Command(self.directory / "commands" / ident))
            self._next()

    def _next(self) -> None:
        if self.current or not self.waiting or not self.shell or not self.shell.stdin:
            return
        self.current = self.waiting.popleft()
        self.current.start()
        for stream in self.current.streams:
            self.streams.add(stream)
            self._watch(stream.fd, partial(self._pump, stream))
        try:
            self.shell.stdin.write(self.current.script(self.directory / "report"))
        except BrokenPipeError:
            return  # the shell has just ended; its SIGCHLD is on the way

    def _ended(self, line: str) -> None:
        ident, _, code = line.partition(" ")
        command = self.current
        if command and command.id == ident:
            self._close_outputs(command)
            command.write_exit_code(code)
            command.close_stdin()
            self.current = None
            self._next()

    def _close_outputs(self, command: Command) -> None:
        for stream in command.streams:
            stream.release()
            for _ in range(DRAIN_READS):
                if not self._pump(stream):
                    break

    def _pump(self, stream: Stream) -> bool:
        if stream not in self.streams:
            return False
        came = stream.pump()
        if came is None:
            self._close(stream)
        return bool(came)

    def _close(self, stream: Stream) -> None:
        self.streams.discard(stream)
        self.selector.unregister(stream.fd)
        os.close(stream.fd)
        stream.fifo.unlink(missing_ok=True)
        if not any(other.log == stream.log for other in self.streams):
            os.close(stream.log)

    def _reap(self, wake: int) -> None:
        os.read(wake, READ_SIZE)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if self.shell and pid == self.shell.pid:
                self._shell_gone()

    def _shell_gone(self) -> None:
        self._lines_left()
        self.shell = None
        if self.current:
            self._close_outputs(self.current)
        for command in [self.current, *self.waiting]:
            if command:
                command.close_stdin()
        self.current = None
        self.waiting.clear()
        (self.directory / "control").unlink(missing_ok=True)
        (self.directory / "ended").touch(0o600)

    def _lines_left(self) -> None:
        """Take a report that the shell made just before it ended."""
        try:
            self._lines(self.report, self._ended)
        except BlockingIOError:
            return  # there is none

    def _children(self) -> bool:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        return True


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind, so that none gets out of sight.

    Linux has this; elsewhere orphans go to the system's first process and are found by their environment.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(directory: Path) -> None:
    """Set the session up, leave the starter (which sees exit status 0 when the session is ready), and serve."""
    agent = Agent(directory)
    child = os.fork()
    if child:
        (directory / "pid").write_text(str(child))
        os._exit(0)
    os.setsid()
    adopt_orphans()
    agent.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
