"""The process that stays after ``fleet up``: it starts the gateway and the keeper, and starts them again if they end.

    python -m gpuserve.serving.fleet.supervisor NAME

It does nothing else, so that little can end it. The account's key comes by its standard input and goes on to the keeper
by the same way: it is in no environment, no argument and no file. While it lives it holds a lock on its file.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from gpuserve.proxy.server import listen
from gpuserve.serving.fleet.children import OVER as OVER
from gpuserve.serving.fleet.children import Child, mind_signals, tend
from gpuserve.serving.fleet.gateway import flags
from gpuserve.serving.fleet.record import directory, load

LIFE = "supervisor.lock"


def main() -> None:
    """Runs until SIGTERM; its log is its output."""
    name = sys.argv[1]
    settings = json.load(sys.stdin)
    place = directory(name)
    with (place / LIFE).open("a+") as lock:
        _take(lock.fileno())
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        os.set_inheritable(lock.fileno(), False)
        mind_signals()
        _tend(name, place, settings)


def _take(file: int) -> None:
    """Takes the lock. Who only looks whether it is held has it for a moment; another supervisor doesn't let go."""
    deadline = time.monotonic() + 3
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _tend(name: str, place: Path, settings: Mapping[str, object]) -> None:
    record = load(name)
    assert record is not None
    # The ports are held here: what comes while a child is being started again waits, and isn't refused.
    with listen(record.injector_port) as inside, listen(record.port) as outside:
        told = {"name": name, "settings": settings, "listener": inside.fileno()}
        served = {"flags": flags(record.metrics_port, place), "key": record.key, "listener": outside.fileno()}
        tend(
            [
                Child("keeper", _module("gpuserve.serving.fleet.keeper"), told, (inside.fileno(),)),
                Child(
                    "gateway",
                    _module("gpuserve.serving.fleet.gateway"),
                    {**served, "inner": "127.0.0.1"},
                    (outside.fileno(),),
                ),
            ]
        )


def _module(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", name]


if __name__ == "__main__":
    main()
