"""Which processes belong to a sandbox, and how they are ended.

A process belongs to a sandbox if its environment names the sandbox, if it descends from one that does, or if it is in
the session (in the operating system's sense) of a command that the sandbox was told to run. The second and third find
servers that overwrite their own environment by giving themselves a title. Session agents adopt what their commands
leave behind, so a process that detaches itself still has a known parent on Linux.

This is bookkeeping, not a wall: the local host is no security boundary.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from gpuserve.host import shared_memory

MARKER = "DAYTONA_SANDBOX_ID"
"""The environment variable that says to which sandbox a process belongs; the platform sets the same."""
GROUPS = "groups"
SESSIONS = "sessions"
AGENT = "session_agent.py"

GRACE_SECONDS = 3.0
"""Time between the polite and the forced end; a model server needs a moment to let go of its GPU."""
GIVE_UP_SECONDS = 30.0
_PAUSE_SECONDS = 0.03


@dataclass(frozen=True)
class Entry:
    """One line of the process table: the process, its parent's number and the number of its session's leader."""

    process: psutil.Process
    parent: int
    session: int
    zombie: bool


Table = dict[int, Entry]
Found = dict[int, psutil.Process]


def table() -> Table:
    """Every process of this machine that can be seen now."""
    found: Table = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError), process.oneshot():  # it has just ended, or is not shown
            zombie = process.status() == psutil.STATUS_ZOMBIE
            found[process.pid] = Entry(process, process.ppid(), _session_of(process.pid), zombie)
    return found


def closure(entries: Table, roots: Iterable[int], sessions: Iterable[int] = ()) -> Found:
    """The living processes among ``roots``, in ``sessions``, and everything that descends from them.

    The own process and its ancestors are never among them.
    """
    protected = _self_and_ancestors(entries)
    leaders = set(sessions)
    inside = {pid for pid in roots if pid in entries} - protected
    grown = True
    while grown:
        more = {
            pid
            for pid, entry in entries.items()
            if pid not in inside
            and pid not in protected
            and (entry.parent in inside or entry.session in inside or entry.session in leaders)
        }
        inside |= more
        grown = bool(more)
    return {pid: entries[pid].process for pid in inside if not entries[pid].zombie}


def members(sandbox_id: str, root: Path | None = None) -> Found:
    """The living processes of a sandbox; with its directory ``root``, also those known by the groups noted there."""
    entries = table()
    marked = [pid for pid, entry in entries.items() if _marked(entry.process, sandbox_id)]
    return closure(entries, marked, _noted_groups(root, entries) if root else ())


def alive(sandbox_id: str) -> list[int]:
    """The numbers of the living processes of a sandbox, sorted."""
    return sorted(members(sandbox_id))


async def kill_all(sandbox_id: str, root: Path) -> None:
    """End every process of a sandbox and return when none is left; its sessions are forgotten.

    ``root`` is the sandbox's directory. Asks first (SIGTERM), and forces (SIGKILL) after ``GRACE_SECONDS``. Raises
    RuntimeError naming the processes if some withstand even that for ``GIVE_UP_SECONDS``.
    """
    await end(lambda: members(sandbox_id, root))
    for name in (SESSIONS, GROUPS):
        await asyncio.to_thread(shutil.rmtree, root / name, ignore_errors=True)


async def end(find: Callable[[], Found], *, grace: float = GRACE_SECONDS) -> None:
    """End what ``find`` finds, again and again until it finds nothing; ``grace`` in seconds.

    Session agents go last: they are what makes detached processes findable. Shared memory that they made goes with
    them. Raises as ``kill_all`` does.
    """
    left = await asyncio.to_thread(find)
    made = await asyncio.to_thread(lambda: shared_memory.made_by(left.values()))
    _send(left.values(), signal.SIGTERM)
    patience = time.monotonic() + grace
    while any(not is_agent(process) for process in left.values()) and time.monotonic() < patience:
        await asyncio.sleep(_PAUSE_SECONDS)
        left = await asyncio.to_thread(find)
    patience = time.monotonic() + GIVE_UP_SECONDS
    while left:
        if time.monotonic() > patience:
            raise RuntimeError(f"processes that cannot be ended: {', '.join(map(str, sorted(left)))}")
        others = [process for process in left.values() if not is_agent(process)]
        _send(others or left.values(), signal.SIGKILL)
        await asyncio.sleep(_PAUSE_SECONDS)
        left = await asyncio.to_thread(find)
    await asyncio.to_thread(shared_memory.drop, made)


def session_tree(directory: Path) -> Callable[[], Found]:
    """A finder of everything that belongs to the toolbox session kept in ``directory``, its agent included."""
    agent = agent_of(directory)

    def find() -> Found:
        return closure(table(), [agent.pid]) if agent and agent.is_running() else {}

    return find


def command_tree(leader: int) -> Callable[[], Found]:
    """A finder of what descends from a command started as leader of an own session, and of that whole session."""
    return lambda: closure(table(), [leader], [leader])


def agent_of(directory: Path) -> psutil.Process | None:
    """The living agent of the toolbox session in ``directory``; its command line proves that it is that agent."""
    try:
        process = psutil.Process(int((directory / "pid").read_text()))
        if process.status() == psutil.STATUS_ZOMBIE or process.cmdline()[-1:] != [str(directory)]:
            return None
    except (OSError, ValueError, psutil.Error):
        return None
    return process if is_agent(process) else None


def is_agent(process: psutil.Process) -> bool:
    """Whether a process is the agent of a toolbox session."""
    try:
        return any(Path(part).name == AGENT for part in process.cmdline()[1:3])
    except psutil.Error:
        return False


def note_group(root: Path, leader: int) -> None:
    """Remember that the session led by ``leader`` belongs to the sandbox at ``root``, while anything of it lives."""
    folder = root / GROUPS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(psutil.NoSuchProcess):  # over already, and nothing can be left of it
        (folder / str(leader)).write_text(repr(psutil.Process(leader).create_time()))


def forget_group(root: Path, leader: int) -> None:
    """Drop the note of ``note_group`` if nothing of that session lives any more."""
    if not any(entry.session == leader and not entry.zombie for entry in table().values()):
        (root / GROUPS / str(leader)).unlink(missing_ok=True)


def listening_ports(sandbox_id: str, root: Path) -> set[int]:
    """The TCP ports on which processes of the sandbox listen."""
    ports: set[int] = set()
    for process in members(sandbox_id, root).values():
        with contextlib.suppress(psutil.Error):  # it has just ended, or shows its sockets to nobody
            ports |= {
                connection.laddr.port
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN and connection.laddr
            }
    return ports


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except PermissionError:
        return 0  # some systems keep it to themselves


def _marked(process: psutil.Process, sandbox_id: str) -> bool:
    try:
        return process.environ().get(MARKER) == sandbox_id
    except (psutil.Error, OSError):
        return False  # another user's, or gone


def _noted_groups(root: Path, entries: Table) -> set[int]:
    """The noted sessions that are still the ones that were noted.

    A number is not given out again while any process of its session lives. So a note is good if its leader is gone or
    is the very process that was noted, and the machine has not started anew since.
    """
    good: set[int] = set()
    folder = root / GROUPS
    for note in folder.iterdir() if folder.is_dir() else ():
        try:
            leader, started = int(note.name), float(note.read_text())
            same = leader not in entries or abs(entries[leader].process.create_time() - started) < 1
        except (OSError, ValueError, psutil.Error):
            continue
        if same and started > psutil.boot_time() - 1:
            good.add(leader)
    return good


def _self_and_ancestors(entries: Table) -> set[int]:
    chain: set[int] = set()
    pid = os.getpid()
    while pid and pid not in chain:
        chain.add(pid)
        pid = entries[pid].parent if pid in entries else 0
    return chain


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):  # gone meanwhile: what was wanted
            process.send_signal(number)
