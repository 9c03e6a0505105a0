"""Runs a command beside an event loop, as if it had been started in our place: same terminal, signals, exit status."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from gpuserve.errors import UsageError

#: Signals that are meant for the command.
_PASSED_ON = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT")
)
#: Those that a terminal sends to every process in its foreground, so that the command has them already.
_BY_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def find_program(argv: Sequence[str]) -> str:
    """Where the command's program is.

    Raises:
        UsageError: there is none, or it can't be run.
    """
    found = shutil.which(argv[0])
    if found is None:
        raise UsageError(f"no program {argv[0]!r} to run", hint="check the spelling and $PATH")
    return found


async def run_child(argv: Sequence[str], variables: Mapping[str, str]) -> int:
    """Runs ``argv`` with ``variables`` added to the environment; its exit status, 128 and more if a signal ended it."""
    loop = asyncio.get_running_loop()
    pending: list[int] = []
    child: list[asyncio.subprocess.Process] = []

    def handler(number: int) -> Callable[[], None]:
        return lambda: _forward(number, child, pending)

    for number in _PASSED_ON:
        loop.add_signal_handler(number, handler(number))
    try:
        child.append(await asyncio.create_subprocess_exec(*argv, env=_environment(variables)))
        for early in pending:
            _forward(early, child, [])
        status = await child[0].wait()
    finally:
        for number in _PASSED_ON:
            loop.remove_signal_handler(number)
    return status if status >= 0 else 128 - status


def _forward(number: int, child: Sequence[asyncio.subprocess.Process], pending: list[int]) -> None:
    if not child:
        pending.append(number)
    elif not (number in _BY_TERMINAL and _in_foreground()):
        with suppress(ProcessLookupError):  # it has just ended
            child[0].send_signal(number)


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C reaches this process, and so the command, which is of the same group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment and ``variables``; a proxy that is set for the world isn't asked for this machine."""
    env = {**os.environ, **variables}
    for name in ("no_proxy", "NO_PROXY"):
        others = [one for one in env.get(name, "").split(",") if one]
        env[name] = ",".join(dict.fromkeys([*others, "127.0.0.1", "localhost"]))
    return env
