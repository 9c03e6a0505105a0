"""The engine by itself and through ``gpuserve up``, from the start of the process to the health route's first 200."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu import processes
from benchmarks.gpu.processes import Finished
from benchmarks.gpu.setup import Setup, free_port

#: Seconds between two looks at the health route: so much later, at most, a first 200 is seen.
LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Server:
    """An engine that answers on this port; ``session`` is that of its processes."""

    name: str
    port: int
    session: int

    @property
    def url(self) -> str:
        """Its address, without ``/v1``."""
        return f"http://127.0.0.1:{self.port}"


def get(port: int, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
    """Status and body of a GET; (0, b"") where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def first_200(port: int, go_on: Callable[[], bool]) -> float:
    """The moment of the first 200 of ``/health``; 0 if ``go_on`` says no before."""
    while go_on():
        if get(port, "/health")[0] == 200:
            return time.time()
        time.sleep(LOOK_EVERY)
    return 0.0


@contextlib.contextmanager
def bare(setup: Setup, label: str, *, fast: bool = False, env: tuple[str, ...] = ()) -> Iterator[Server]:
    """The engine's own command, in an empty home, until the block ends.

    Raises:
        RuntimeError: it ended, or wasn't ready in time.
    """
    port = free_port()
    command = setup.engine_command(port, *(("--fast-boot",) if fast else ()))
    environment = {**setup.fresh_home(label), **dict(item.split("=", 1) for item in env)}
    limit = time.monotonic() + setup.record.left() - 15
    with (setup.logs / f"{label}.log").open("wb") as log:
        began = time.time()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            ready = first_200(port, lambda: process.poll() is None and time.monotonic() < limit)
            if not ready:
                raise RuntimeError(f"not ready after {time.time() - began:.0f} s, status {process.poll()}")
            setup.record.write(
                "bare_boot", label=label, fast=fast, env=list(env), seconds=round(ready - began, 2), command=command
            )
            yield Server(label, port, process.pid)
        finally:
            took = processes.end_session(process.pid)
            process.wait()
            setup.record.write("stopped", label=label, seconds=round(took, 2))


@dataclass(slots=True)
class Watch:
    """Sees from outside when an engine's process starts, and when it answers first; times as ``time.time``."""

    port: int
    over: threading.Event = field(default_factory=threading.Event)
    session: int = 0
    started: float = 0.0
    ready: float = 0.0

    def look(self) -> None:
        """Looks until the first 200, or until it is over."""
        while not self.started and not self.over.is_set():
            if process := processes.serving_on(self.port):
                # Now, since vLLM gives its processes other names later.
                self.started, self.session = processes.began_at(process), processes.session_of(process)
            self.over.wait(0.1)
        self.ready = first_200(self.port, lambda: not self.over.is_set())


@contextlib.contextmanager
def brought_up(setup: Setup, label: str, *, fast: bool = False, env: tuple[str, ...] = ()) -> Iterator[Server]:
    """``gpuserve up`` until the block ends, and ``gpuserve down`` then.

    Raises:
        RuntimeError: it failed.
    """
    watch = Watch(free_port())
    more = [*(("--fast-boot",) if fast else ()), *(part for item in env for part in ("--env", item))]
    argv = setup.up_argv(label, watch.port, "--json", *more)
    thread = threading.Thread(target=watch.look)
    thread.start()
    try:
        done = setup.gpuserve(*argv, timeout=setup.record.left() - 15)
        watch.over.set()
        thread.join()
        setup.record.write(
            "up", label=label, fast=fast, env=list(env),
            engine_args=list(setup.engine_args), **_told(done, watch),
        )  # fmt: skip
        if done.status:
            raise RuntimeError(f"gpuserve up ended with {done.status}")
        yield Server(label, watch.port, watch.session)
    finally:
        watch.over.set()
        thread.join()
        began = time.time()
        gone = setup.gpuserve("down", label, "--yes", "--local", "--ignore-not-found", timeout=60)
        setup.record.write("down", label=label, status=gone.status, seconds=round(time.time() - began, 2))


def _told(done: Finished, watch: Watch) -> dict[str, Any]:
    """What one ``up`` took, from its process's start: where the time went, and what it added to the engine's own."""
    events = [json.loads(line.text) for line in done.lines if line.text.startswith("{")]
    found: dict[str, Any] = {"status": done.status, "seconds": round(done.seconds, 3), "cpu": round(done.cpu, 2)}
    if not watch.ready or not watch.started:
        return {**found, "events": events[-3:]}
    before, after = watch.started - done.began, done.ended - watch.ready
    return {
        **found,
        "before_engine": round(before, 3),
        "engine_boot": round(watch.ready - watch.started, 3),
        "after_first_200": round(after, 3),
        "added": round(before + after, 3),
        "phases": phases(one["event"] for one in events if "event" in one),
        "cpu_until": {name: line.cpu for name, line in _first_lines(done).items()},
    }


def _first_lines(done: Finished) -> dict[str, processes.Line]:
    """The first line that told of each kind of event but the engine's."""
    found: dict[str, processes.Line] = {}
    for line in done.lines:
        if line.text.startswith('{"event"'):
            kind = json.loads(line.text)["event"]["kind"]
            if kind not in ("enginelog", "boot"):
                found.setdefault(kind, line)
    return found


def phases(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """When each phase of the boot was told of first and last (seconds from ``up``'s start), with its figures."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["kind"] in ("sandboxstate", "launched", "ready"):
            name = str(event["state"] if event["kind"] == "sandboxstate" else event["kind"])
            found[name] = {"first": round(event["seconds"], 2)}
        if event["kind"] != "boot":
            continue
        at = round(event["at"], 2)
        phase = found.setdefault(event["phase"], {"first": at, "figures": {}})
        phase["last"] = at
        phase["figures"].update(event["figures"])
    return found


def version(port: int) -> str:
    """What vLLM says that it is; "" of another engine."""
    status, body = get(port, "/version")
    return str(json.loads(body).get("version", "")) if status == 200 else ""


def counters(port: int, names: tuple[str, ...]) -> dict[str, float]:
    """The engine's own counters, summed over their labels."""
    _, body = get(port, "/metrics")
    found = dict.fromkeys(names, 0.0)
    for line in body.decode("utf-8", "replace").splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in found:
            found[name] += float(line.rpartition(" ")[2])
    return found
