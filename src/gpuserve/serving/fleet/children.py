"""Processes that are to live: started again whenever they end."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

#: Seconds before a child is started again that ended soon after its start: the first time, and at most.
_PAUSES = (0.1, 10.0)
#: A child that lived that long ended for another reason than the time before, and is started again at once.
_SETTLED = 10.0
#: Seconds between two looks at children whose end nothing told of.
_LOOK = 0.1
#: A child's exit status once there is nothing left to do: all ends then.
OVER = 77
#: Seconds that children get to end.
_GRACE = 8.0


@dataclass
class Child:
    """A process that is to live, and what it is told when it starts."""

    name: str
    argv: Sequence[str]
    told: Mapping[str, object] = field(repr=False)
    inherited: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = 0.0
    not_before: float = 0.0

    def tend(self) -> None:
        """Starts it if it doesn't run and its pause is over."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            print(f"{self.name} ended with {self.process.returncode}", flush=True)  # noqa: T201  # the daemon's log
            if self.process.returncode == OVER:
                raise _Stop
            settled = now - self.began > _SETTLED
            self.pause = 0.0 if settled else min(max(self.pause * 2, _PAUSES[0]), _PAUSES[1])
            self.not_before, self.process = now + self.pause, None
        if self.process is None and now >= self.not_before:
            self.began = now
            self.process = subprocess.Popen(list(self.argv), stdin=subprocess.PIPE, pass_fds=self.inherited)
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


def mind_signals() -> None:
    """From now on SIGTERM ends ``tend``, a child's end wakes it, and what a terminal sends ends nothing."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler it would wake nobody


def tend(children: Sequence[Child]) -> None:
    """Keeps ``children`` alive until SIGTERM, or until one says that all is over; then ends them, the last first."""
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    try:
        while True:
            for child in children:
                child.tend()
            if select.select([heard], [], [], _LOOK)[0]:
                heard.recv(4096)
    except _Stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in reversed(children):
            child.end()
    finally:
        signal.set_wakeup_fd(-1)
        heard.close()
        told.close()
