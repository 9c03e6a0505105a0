"""The process that stays after ``fleet up``: it starts the gateway and the keeper, and starts them again if they end.

    python -m gpuserve.serving.fleet.supervisor NAME

It does nothing else, so that little can end it. The account's key comes by its standard input and goes on to the keeper
by the same way: it is in no environment, no argument and no file. While it lives it holds a lock on its file.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from gpuserve.proxy.server import listen
from gpuserve.serving.fleet.gateway import flags
from gpuserve.serving.fleet.record import directory, load

LIFE = "supervisor.lock"
#: Seconds before a child that ended is started again: the first time, and at most.
_PAUSES = (0.05, 10.0)
#: A child that lived that long ended for another reason than the time before.
_SETTLED = 20.0
#: The keeper's exit status once the fleet's time has passed and no worker is left: all ends then.
OVER = 77
#: Seconds that children get to end.
_GRACE = 8.0


@dataclass
class Child:
    """A process that is to live, and what it is told when it starts."""

    module: str
    told: Mapping[str, object] = field(repr=False)
    inherited: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = _PAUSES[0]
    not_before: float = 0.0

    def tend(self) -> None:
        """Starts it if it doesn't run and its pause is over."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            print(f"{self.module} ended with {self.process.returncode}", flush=True)  # noqa: T201  # the daemon's log
            if self.process.returncode == OVER:
                raise _Stop
            self.pause = _PAUSES[0] if now - self.began > _SETTLED else min(self.pause * 2, _PAUSES[1])
            self.not_before, self.process = now + self.pause, None
        if self.process is None and now >= self.not_before:
            self.began = now
            argv = [sys.executable, "-P", "-m", self.module]
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=self.inherited)
            assert self.process.stdin is not None
            try:
                self.process.stdin.write(json.dumps(self.told).encode())
                self.process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already, and will be started again

    def end(self) -> None:
        """Ends it, by force if it doesn't hear."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Stop(Exception):
    """SIGTERM."""


def _stop(_: int, __: FrameType | None) -> None:
    raise _Stop


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
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
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
    # The injector's port is held here: what comes while the keeper is being started again waits, and isn't refused.
    listener = listen(record.injector_port)
    number = listener.fileno()
    children = [
        Child("gpuserve.serving.fleet.keeper", {"name": name, "settings": settings, "listener": number}, (number,)),
        Child("gpuserve.serving.fleet.gateway", {"flags": flags(record, place), "key": record.key}),
    ]
    try:
        while True:
            for child in children:
                child.tend()
            time.sleep(0.1)
    except _Stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in reversed(children):
            child.end()
        listener.close()


if __name__ == "__main__":
    main()
