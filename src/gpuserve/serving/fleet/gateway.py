"""The gateway's process: smg, an existing gateway, with flags that keep it on this machine's loopback, and its door.

    python -m gpuserve.serving.fleet.gateway

From its standard input it reads its flags, the key that clients must show (a key on a command line is everybody's), the
number of the socket that clients connect to, which it inherits, and the host where smg is to listen behind that.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from gpuserve.errors import UsageError
from gpuserve.serving.fleet.door import Door, await_workers, busy

MANIFEST = "workers.json"
#: Seconds for what is under way when it is told to end, and between two looks at that.
_GRACE, _STEP = 5.0, 0.05


def check_installed() -> None:
    """Raises ``UsageError`` if the gateway isn't installed."""
    if find_spec("smg") is None:
        raise UsageError("a fleet needs the gateway smg, which isn't installed", hint="pip install 'gpuserve[gateway]'")


def flags(metrics_port: int, directory: Path, *, metrics_host: str = "127.0.0.1") -> list[str]:
    """smg's flags for a fleet but for where it listens. What isn't said here is its default (smg 1.13.0)."""
    return [
        *("--prometheus-host", metrics_host, "--prometheus-port", str(metrics_port)),
        *("--discovery-provider", "file", "--discovery-file", str(directory / MANIFEST)),
        *("--discovery-check-interval-secs", "2", "--worker-startup-check-interval", "1"),
        # With the default of 64, a small fleet's first worker would get nearly all (measured).
        *("--policy", "cache_aware", "--balance-abs-threshold", "4"),
        # The injector answers these looks from what the keeper found, and answers 502 for who isn't well, so that
        # another is asked. A restart of the injector, which takes a second or two, must not look like the end of all.
        *("--health-check-interval-secs", "1", "--health-check-timeout-secs", "5"),
        *("--health-failure-threshold", "3", "--health-success-threshold", "1", "--no-remove-unhealthy-workers"),
        *("--disable-circuit-breaker", "--worker-stall-secs", "15", "--upstream-pool-idle-timeout-secs", "15"),
        *("--retry-max-retries", "12", "--retry-initial-backoff-ms", "50", "--retry-max-backoff-ms", "1000"),
        *("--request-timeout-secs", "86400"),
        *("--log-level", "error", "--disable-tokenizer-autoload"),
    ]


def main() -> None:
    """Serves until SIGTERM, or until the process that started it is gone."""
    # smg would go on listening for half of its time to end, for load balancers to notice. Here the door is shut.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    told = json.load(sys.stdin)
    _thread(_end_with_parent, os.getppid())
    from smg.launch_router import launch_router, parse_router_args

    inner = (str(told["inner"]), _free_port(told["inner"]))
    arguments = parse_router_args([*told["flags"], "--host", inner[0], "--port", str(inner[1])])
    arguments.api_key = told["key"]
    door = Door(socket.socket(fileno=int(told["listener"])), inner)
    _thread(_keep, door, arguments.api_key, Path(arguments.discovery_file))
    _thread(_end_when_told, door, arguments.api_key)
    launch_router(arguments)


def _thread(call: Callable[..., None], *args: object) -> None:
    threading.Thread(target=call, args=args, daemon=True).start()


def _end_when_told(door: Door, key: str) -> None:
    signal.sigwait({signal.SIGTERM})
    door.shut()
    deadline = time.monotonic() + _GRACE
    while door.passing and busy(door.inner, key) and time.monotonic() < deadline:
        time.sleep(_STEP)
    time.sleep(_STEP)  # for the last bytes
    os._exit(0)


def _keep(door: Door, key: str, manifest: Path) -> None:
    try:
        await_workers(door.inner, key, manifest)
        asyncio.run(door.keep())
    finally:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a gateway that nobody reaches is started again


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
