"""How long an old way in goes on working after it was closed, by each credential that opened it.

    python benchmarks/access.py [--rounds 5]

Brings the embedded engine up on a local host of the benchmark's own, and closes a way in again and again: a signed URL
revoked and expired, the sandbox public no longer, the engine's key changed. While the command runs, and until all are
refused, every credential that worked (URL alone, header, query parameter, cookie kept by a session) is tried about
every 20 ms. Prints, by way and credential, the seconds from the command's end (an expiry: from the promised moment) to
the last request that got through: 0 where none did after it. The goal is less than 2 s. Asserts nothing.

Measured on the local host only. Daytona's own proxy keeps answers: seconds for ``public``, and a cookie that outlives
a signed URL by up to an hour (read in its server's v0.190).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import requests

from e2e.inside import Inside, inside
from e2e.usershell import bring_up, make_shell

HEADER, QUERY = "x-daytona-preview-token", "DAYTONA_SANDBOX_AUTH_KEY"
PAUSE, LONGEST = 0.02, 30.0


class Caller(threading.Thread):
    """Tries one way in until it is told to stop; ``last`` is when a request that got through was sent (Unix time)."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str]) -> None:
        super().__init__(name=name, daemon=True)
        self.url, self.headers = url, headers
        self.last = self.first_refusal = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        with requests.Session() as session:
            while not self.done.is_set():
                sent = time.time()
                if session.get(self.url, headers=self.headers, timeout=10).status_code == 200:
                    self.last, self.first_refusal = sent, 0.0
                elif not self.first_refusal:
                    self.first_refusal = sent
                time.sleep(PAUSE)


def closed(callers: list[Caller], close: Callable[[], float]) -> dict[str, float]:
    """Closes a way in while all use it; seconds from the moment that ``close`` returns to each one's last success."""
    for caller in callers:
        caller.start()
    started = time.time()
    while not all(caller.last for caller in callers):
        time.sleep(PAUSE)
        if time.time() - started > LONGEST:
            raise SystemExit(f"never got in: {[one.name for one in callers if not one.last]}")
    end = close()
    deadline = time.time() + LONGEST
    while time.time() < deadline and not all(one.first_refusal > end for one in callers if one.last > end):
        time.sleep(PAUSE)
    time.sleep(0.5)  # whoever still gets in shows it now
    for caller in callers:
        caller.done.set()
    for caller in callers:
        caller.join()
    return {one.name: max(0.0, one.last - end) for one in callers}


def after(shell: Inside, *argv: str) -> Callable[[], float]:
    """Runs a command; the moment of its end."""

    def close() -> float:
        shell.ok(*argv)
        return time.time()

    return close


def rounds(shell: Inside, live: dict[str, Any]) -> dict[str, dict[str, float]]:
    """One round of every way to close."""
    url, key = live["endpoint"], live["api_key"]
    path = f"{url}/v1/models"
    own = {"Authorization": f"Bearer {key}"}
    found = {}
    for what, life in (("signed URL revoked", "10m"), ("signed URL expired", "4s")):
        shared = shell.ok("share", "bench", "--expires", life, "--json").data
        ends = datetime.fromisoformat(shared["expires_at"]).timestamp()
        link, token = f"{shared['url']}/v1/models", shared["url"].rpartition("-")[2]
        mark = shared["url"].rpartition("/")[2]
        callers = [
            Caller("URL alone", link, own),
            Caller("URL, token as header", link, own | {HEADER: token}),
            Caller("URL, token in query", f"{link}?{QUERY}={token}", own),
            Caller("URL, token as cookie", link, own | {"Cookie": f"daytona-sandbox-auth-{mark}={token}"}),
        ]
        revoke = after(shell, "share", "bench", "--revoke", "--url", shared["url"])
        found[what] = closed(callers, revoke if life == "10m" else lambda ends=ends: ends)  # type: ignore[misc]
    public = [Caller("URL and key", path, own), Caller("URL, key, cookies kept", path, own)]
    found["--public off"] = closed(public, after(shell, "share", "bench", "--public", "off"))
    shell.ok("share", "bench", "--public", "on")
    keys = [Caller("key as bearer", path, own), Caller("key as X-Api-Key", path, {"X-Api-Key": key})]
    found["--rotate-key"] = closed(keys, after(shell, "share", "bench", "--rotate-key", "--yes"))
    return found


def main() -> None:
    """Measures, and prints the longest of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    count = parser.parse_args().rounds
    weights = Path(os.environ.get("LLAMA_CACHE") or tempfile.mkdtemp())
    worst: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as home:
        shell = inside(make_shell(Path(home), weights))
        try:
            live = bring_up(shell, "--name", "bench", "--access", "key")
            for _ in range(count):
                for what, by_name in rounds(shell, live).items():
                    for name, seconds in by_name.items():
                        worst.setdefault((what, name), []).append(seconds)
                live = bring_up(shell, "--name", "bench")
        finally:
            shell.run("down", "--all", "--yes")
            shell.run("host", "stop")
    print(f"{'closed by':<22}{'credential':<26}{'longest, s':>12}{'rounds':>8}")
    for (what, name), seconds_each in worst.items():
        print(f"{what:<22}{name:<26}{max(seconds_each):>12.3f}{len(seconds_each):>8}")


main()
