"""Programs that are run and measured: their output line by line, their CPU time, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STATE, _PARENT, _SESSION, _USER, _START = 0, 1, 3, 11, 19


@dataclass(frozen=True, slots=True)
class Line:
    """A line of output: when it came (``time.time``), and the CPU seconds that its process had taken by then."""

    at: float
    cpu: float
    text: str


@dataclass(slots=True)
class Finished:
    """A program that ended. ``cpu`` is user and system time, of the children that it waited for, too."""

    status: int
    began: float
    ended: float = 0.0
    cpu: float = 0.0
    lines: list[Line] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.ended - self.began

    def first(self, beginning: str) -> Line | None:
        """The first line that begins so."""
        return next((line for line in self.lines if line.text.startswith(beginning)), None)


def run(command: Sequence[str], *, env: Mapping[str, str], errors: Path, timeout: float) -> Finished:
    """Runs ``command``; its errors go to a file. It is killed after ``timeout`` seconds, with all that it started."""
    with errors.open("ab") as file:
        began = time.time()
        process = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        done = Finished(0, began)
        timer = threading.Timer(max(1.0, timeout), _kill_group, (process.pid,))
        timer.start()
        try:
            assert process.stdout is not None
            for data in process.stdout:
                done.lines.append(Line(time.time(), cpu_of(process.pid), data.decode("utf-8", "replace").rstrip()))
            _, status, used = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        done.ended = time.time()
        process.returncode = done.status = os.waitstatus_to_exitcode(status)
        done.cpu = used.ru_utime + used.ru_stime
        process.stdout.close()
    return done


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of its children that ended; 0 if it is gone."""
    found = _stat(pid)
    return sum(int(part) for part in found[_USER : _USER + 4]) / _TICKS if found else 0.0


def cpu_of_session(session: int) -> float:
    """CPU seconds of all living processes of a session."""
    return sum(cpu_of(pid) for pid in members(session))


def busiest(session: int) -> dict[tuple[int, int], tuple[str, float]]:
    """Each living thread of a session: (process, thread) -> (the titles of both, CPU seconds)."""
    found = {}
    for pid in members(session):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            for task in Path(f"/proc/{pid}/task").iterdir():
                name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
                used = rest.split()[_USER : _USER + 2]
                found[pid, int(task.name)] = f"{title[:32]}/{name}", sum(map(int, used)) / _TICKS
    return found


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for pid in _pids():
        stat = _stat(pid)
        if stat and int(stat[_SESSION]) == session and stat[_STATE] != "Z":
            found.append(pid)
    return found


def session_of(pid: int) -> int:
    """The session of a process; 0 if it is gone."""
    stat = _stat(pid)
    return int(stat[_SESSION]) if stat else 0


def began_at(pid: int) -> float:
    """When a process was started, as ``time.time`` tells time; right to a hundredth of a second."""
    stat = _stat(pid)
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + int(stat[_START]) / _TICKS if stat else 0.0


def serving_on(port: int) -> int:
    """The oldest process that was told ``--port PORT`` and isn't gpuserve's own ``up``; 0 if there is none."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            at = argv.index("--port") if "--port" in argv else -1
            if at >= 0 and argv[at + 1] == str(port) and "up" not in argv:
                found.append(pid)
    return min(found, key=began_at, default=0)


def end_session(session: int, *, patience: float = 30.0) -> float:
    """Ends a session's processes, gently first; returns how long that took. Raises ``RuntimeError`` if some live on."""
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(session, signal.SIGTERM)
    while members(session) and time.monotonic() - began < patience:
        time.sleep(0.1)
    for pid in members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while members(session):
        if time.monotonic() - began > 2 * patience:
            raise RuntimeError(f"processes {members(session)} don't end")
        time.sleep(0.1)
    return time.monotonic() - began


def _pids() -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
