"""Start, find and stop the local host's daemon. Standard library only and cheap to import, for the command line."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import http.client
import importlib.util
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gpuserve.host import paths
from gpuserve.host.paths import HOST_FILE, LIFE_LOCK, LOG_FILE, START_LOCK, private_directory, read_json

_NEEDED = ("aiohttp", "psutil", "socketio")
_PROBE_SECONDS = 2.0
_BUSY_SECONDS = 20.0
"""How much longer an answer is waited for where a daemon holds the state directory: it is busy, not absent."""
_STEP = 0.05
_KEPT_LOG = 5 * 2**20
"""Bytes of log beyond which the next start sets it aside."""


class HostError(Exception):
    """The daemon could not be started or stopped; the text says why."""


@dataclass(frozen=True)
class HostInfo:
    """A daemon that runs: the API's URL, the API key, its process, its state directory."""

    url: str
    key: str = field(repr=False)
    pid: int
    state_dir: Path


def state_directory() -> Path:
    """Where the host keeps its state: see ``paths.state_directory``."""
    return paths.state_directory()


def running(state_dir: Path | None = None) -> HostInfo | None:
    """The daemon of a state directory if it runs and proves that it is this one, else None.

    The key is not sent: whoever answers on the recorded port has to show that it knows it.

    Raises:
        HostError: it lives, but answers nothing for 20 s.
    """
    state = state_dir or state_directory()
    return _found(state, time.monotonic() + _PROBE_SECONDS + _BUSY_SECONDS)


def _found(state: Path, deadline: float) -> HostInfo | None:
    """As ``running``. Where the daemon lives, a slow answer is waited for until ``deadline``."""
    recorded = read_json(state / HOST_FILE)
    url, key, pid = recorded.get("url"), recorded.get("key"), recorded.get("pid")
    if not (isinstance(url, str) and isinstance(key, str) and isinstance(pid, int) and pid > 0):
        return None
    challenge = secrets.token_hex(16)
    path = f"/config?challenge={challenge}"
    try:
        headers = _call("GET", url, path)
    except TimeoutError:
        if not _alive(state):
            return None
        headers = _waited_for(url, path, pid, deadline)
    expected = hmac.new(key.encode(), challenge.encode(), hashlib.sha256).hexdigest()
    if headers is None or not hmac.compare_digest(headers.get("X-Gpuserve-Proof", ""), expected):
        return None
    return HostInfo(url, key, pid, state)


def _waited_for(url: str, path: str, pid: int, deadline: float) -> http.client.HTTPMessage | None:
    try:
        return _call("GET", url, path, seconds=max(_STEP, deadline - time.monotonic()))
    except TimeoutError as error:
        raise HostError(f"process {pid} is there but does not answer; gpuserve host stop ends it") from error


def start(state_dir: Path | None = None, *, port: int = 0, gpus: str = "", timeout: float = 30.0) -> HostInfo:
    """Make sure that the daemon runs, and return where. One that runs already is left as it is.

    ``port`` 0 takes the port used last if it is free, so that addresses handed out stay good, else any free one.
    ``gpus`` declares GPU types for development and tests, such as ``H100:2,RTX-PRO-6000``. ``timeout`` in seconds.

    Raises:
        HostError: a package is missing, the daemon ended at once (with its last log line), or did not answer in time.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise HostError(f"the local host needs {', '.join(missing)}; run: pip install 'gpuserve[local]'")
    state = private_directory(state_dir or state_directory())
    deadline = time.monotonic() + timeout
    with _start_lock(state, deadline):
        while True:
            found = _found(state, deadline)
            if found is not None:
                return found
            if not _alive(state):
                return _await_daemon(state, _spawn(state, port, gpus), deadline)
            if time.monotonic() > deadline:
                raise HostError("the local host is there but does not answer; stop it and try again")
            time.sleep(_STEP)


def stop(state_dir: Path | None = None, timeout: float = 30.0) -> bool:
    """End the daemon and every process of its sandboxes, also those that a killed daemon left. True if there was any.

    Ephemeral sandboxes are gone afterwards, others are stopped. ``timeout`` in seconds is for the orderly way; after
    it the daemon is killed and the sandboxes' processes are swept. Not for use in a running event loop.

    Raises:
        HostError: something could not be ended.
    """
    state = state_dir or state_directory()
    if not state.is_dir():
        return False
    deadline = time.monotonic() + timeout
    with _start_lock(state, deadline):
        was_alive = _alive(state)
        if was_alive:
            _end_daemon(state, deadline)
        return _sweep(state) or was_alive


def _end_daemon(state: Path, deadline: float) -> None:
    pid, asked = _life_pid(state), False
    with contextlib.suppress(HostError, TimeoutError):  # one that hangs gets the signal
        found = _found(state, time.monotonic())
        asked = found is not None and _call("POST", found.url, "/_host/stop", key=found.key) is not None
    for number in (None if asked else signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while _alive(state) and time.monotonic() < deadline:
            _reap(pid)
            time.sleep(_STEP)
        if not _alive(state):
            _wait_for_exit(pid)
            return
        deadline = time.monotonic() + 5.0
    raise HostError(f"the host (process {pid}) does not end")


def _wait_for_exit(pid: int) -> None:
    """Wait a moment for a process that has let go of its lock; another's child may stay as a zombie."""
    patience = time.monotonic() + 2.0
    while time.monotonic() < patience and not _reap(pid):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(_STEP)


def _sweep(state: Path) -> bool:
    """End what recorded sandboxes still run and settle their records. True if any process was left."""
    from gpuserve.host.store import Store

    store = Store.load(state)
    if all(sandbox.state in {"stopped", "destroyed"} for sandbox in store.sandboxes.values()):
        return False
    import asyncio

    from gpuserve.host.lifecycle import shut_down
    from gpuserve.host.processes import members

    left = any(members(sandbox.id, store.root(sandbox.id)) for sandbox in store.sandboxes.values())

    async def settle() -> None:
        for sandbox in list(store.sandboxes.values()):
            await shut_down(store, sandbox)

    try:
        asyncio.run(settle())
    except (RuntimeError, OSError) as error:
        raise HostError(str(error)) from error
    store.save()
    return left


def _spawn(state: Path, port: int, gpus: str) -> int:
    """Start the daemon in a session of its own, its output in the log; return its process number."""
    log = state / LOG_FILE
    if log.exists() and log.stat().st_size > _KEPT_LOG:
        log.replace(log.with_suffix(".log.1"))
    argv = [sys.executable, "-P", "-m", "gpuserve.host", "--state", str(state), "--port", str(port), "--gpus", gpus]
    # posix_spawn and not subprocess: the daemon outlives the caller, so there is no object to wait with.
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setsid=True)


def _await_daemon(state: Path, pid: int, deadline: float) -> HostInfo:
    while time.monotonic() < deadline:
        if _reap(pid):
            raise HostError(f"the local host could not start: {_last_line(state / LOG_FILE)}")
        if read_json(state / HOST_FILE).get("pid") == pid:
            found = _found(state, deadline)
            if found is not None:
                return found
        time.sleep(_STEP)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    raise HostError(f"the local host did not answer in time: {_last_line(state / LOG_FILE)}")


def _reap(pid: int) -> bool:
    """Collect the daemon if it has ended as a child of this process. True if it had."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _alive(state: Path) -> bool:
    """Whether a daemon holds the state directory, answering or not."""
    lock = state / LIFE_LOCK
    if not lock.exists():
        return False
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _life_pid(state: Path) -> int:
    text = (state / LIFE_LOCK).read_text(encoding="utf-8").strip()
    if not text.isdigit():
        raise HostError("the host is just starting; try again")
    return int(text)


@contextlib.contextmanager
def _start_lock(state: Path, deadline: float) -> Iterator[None]:
    """One start or stop at a time."""
    with os.fdopen(os.open(state / START_LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise HostError("another command is starting or stopping the local host") from error
                time.sleep(_STEP)
        yield


def _call(
    method: str, url: str, path: str, key: str | None = None, *, seconds: float = 0.0
) -> http.client.HTTPMessage | None:
    """Call the API; the answer's headers if it was a success, else None. No proxy is ever used.

    Raises:
        TimeoutError: no answer in ``seconds``, or where that is 0, in 2 s.
    """
    parts = urlsplit(url)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    timeout = seconds or _PROBE_SECONDS
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        connection.request(method, f"{parts.path}{path}", headers=headers)
        response = connection.getresponse()
        response.read()
        return response.headers if response.status < 300 else None
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "it left no log")
