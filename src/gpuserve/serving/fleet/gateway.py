"""The gateway's process: smg, an existing gateway, with flags that keep it on this machine's loopback.

    python -m gpuserve.serving.fleet.gateway

It reads its flags and the key that clients must show from its standard input: a key on a command line is everybody's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from gpuserve.errors import UsageError

MANIFEST = "workers.json"


def check_installed() -> None:
    """Raises ``UsageError`` if the gateway isn't installed."""
    if find_spec("smg") is None:
        raise UsageError("a fleet needs the gateway smg, which isn't installed", hint="pip install 'gpuserve[gateway]'")


class Ports(Protocol):
    """Where smg listens."""

    @property
    def port(self) -> int:
        """For clients."""

    @property
    def metrics_port(self) -> int:
        """For its counters."""


def flags(ports: Ports, directory: Path, *, metrics_host: str = "127.0.0.1") -> list[str]:
    """smg's flags for a fleet. What isn't said here is its default (smg 1.13.0)."""
    return [
        *("--host", "127.0.0.1", "--port", str(ports.port)),
        *("--prometheus-host", metrics_host, "--prometheus-port", str(ports.metrics_port)),
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
        *("--request-timeout-secs", "86400", "--shutdown-grace-period-secs", "5"),
        *("--log-level", "error", "--disable-tokenizer-autoload"),
    ]


def main() -> None:
    """Serves until SIGTERM, or until the process that started it is gone."""
    told = json.load(sys.stdin)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    from smg.launch_router import launch_router, parse_router_args

    arguments = parse_router_args(told["flags"])
    arguments.api_key = told["key"]
    launch_router(arguments)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
