"""What a run changes of its own process, and puts right again: signals, the collector of cycles, open files."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Signals that stop a run.
STOPPING = (signal.SIGINT, signal.SIGTERM)
#: File descriptors for everything but connections.
_SPARE_FILES = 64
#: New objects after which the collector of cycles looks, while requests are sent; Python's own figure is 700.
_COLLECT_EVERY = 20_000


@contextmanager
def same_handlers() -> Iterator[None]:
    """Gives the caller's handlers of signals back: an event loop leaves the system's in the place of what it took."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was set by something that isn't Python
                signal.signal(number, handler)


@contextmanager
def rare_collection() -> Iterator[None]:
    """Has the collector of cycles look less often: thousands of live requests make it costly, a fifth of all."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _COLLECT_EVERY), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def most_connections(wanted: int) -> int:
    """``wanted``, or as many as the system allows; its soft limit of open files is raised for them."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _SPARE_FILES))
