"""Signals that a command with something to undo must not die of."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpuserve.errors import Interrupted


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM, which CI sends to cancel a job, end a command as Ctrl-C does: as ``Interrupted``."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:  # left to itself it would end the command without a word
        raise Interrupted("interrupted") from None
    finally:
        signal.signal(signal.SIGTERM, before)
