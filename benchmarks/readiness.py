"""How soon after the engine's first 200 ``up`` hands off, and what its log costs, beside the guides' 10-second poll.

    python benchmarks/readiness.py [--boots 10]

Boots the embedded engine on a local host of the benchmark's own. A process of its own sees the first 200: it asks
the engine's own port every 5 ms. In each boot the guides' way runs beside: every 10 s the whole log and one look at the
health route, the first look at a random moment of the first 10 s (a real boot is as likely to end at any moment between
two polls, and this engine starts too quickly to show that). Bytes of log are counted by a proxy between SDK and host,
bodies and frames, and divided by the bytes that the engine had written by then. Prints a table; asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes.proxy import LogProxy
from gpuserve.access import token_endpoint
from gpuserve.client.health import Prober
from gpuserve.host import daemon
from gpuserve.host.daemon import HostInfo
from gpuserve.records import Deployment, ServeRequest
from gpuserve.sandboxes.manager import Place, Sandboxes
from gpuserve.serving import defaults
from gpuserve.serving.context import Context
from gpuserve.serving.events import Launched
from gpuserve.serving.plan import Plan, make_plan
from gpuserve.serving.up import Options, up
from gpuserve.settings import load
from gpuserve.state import Cache

POLL = 10.0
WATCH = """
import http.client, sys, time
port, path = int(sys.argv[1]), sys.argv[2]
while True:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        if connection.getresponse().status == 200:
            break
    except OSError:
        pass
    finally:
        connection.close()
    time.sleep(0.005)
print(time.time(), flush=True)
"""


@dataclass
class Way:
    """What one way showed: seconds from the first 200 to its notice, bytes fetched by bytes written, boot by boot."""

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


class Behind(Context):
    """A context whose one place is a local host behind a proxy."""

    def through(self, place: Place) -> Behind:
        """The same, with ``place`` for all that it asks."""
        self._open["local"] = Sandboxes(place)
        return self


class Guides(threading.Thread):
    """The guides' way: a fixed poll of the whole log and the health route."""

    def __init__(self, place: Place, direct: Place, deployment: Deployment, plan: Plan) -> None:
        super().__init__(daemon=True)
        self._uncounted = Sandboxes(direct).session(deployment)
        self._uncounted.attach(patience=10)
        self.noticed = 0.0
        sandboxes = Sandboxes(place)
        self._session = sandboxes.session(deployment)
        self._session.attach(patience=10)
        link = sandboxes.link(deployment)
        self._endpoint = token_endpoint(link.url, link.token, deployment.served_model)
        self._path = plan.launch.health_path

    def written(self) -> int:
        """Bytes of log that the engine has written so far."""
        return len(self._uncounted.log().encode())

    def run(self) -> None:
        """Polls until the engine is ready."""
        pause = random.uniform(0, POLL)
        with Prober(self._endpoint, self._path) as prober:
            while not self.noticed:
                time.sleep(pause)
                self._session.log()
                if prober.probe().ready:
                    self.noticed = time.time()
                pause = POLL


def place_of(info: HostInfo, url: str) -> Place:
    """The host, reached by ``url``."""
    return Place("local", url, info.key, "local")


def boot(info: HostInfo, directory: Path, ours: Way, guides: Way) -> None:
    """One boot, watched both ways."""
    with LogProxy(info.url) as front, LogProxy(info.url) as beside:
        context = Behind(load(), Cache(), True).through(place_of(info, front.url))
        engine, model = defaults.engine_and_model("", "", context.settings, local=True)
        arguments = ("--threads", "1", "--ctx-size", "2048")
        plan = make_plan(ServeRequest(model=model, engine=engine, engine_args=arguments), place="local", any_port=True)
        watch = [sys.executable, "-ISc", WATCH, str(plan.launch.port), plan.launch.health_path]
        watcher = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True)
        polls: list[Guides] = []

        def seen(event: object) -> None:
            if isinstance(event, Launched):
                polls.append(Guides(place_of(info, beside.url), place_of(info, info.url), event.deployment, plan))
                polls[0].start()

        deployed = up(plan, context, emit=seen, options=Options(log_file=directory / "engine.log"))
        handed_off = time.time()
        try:
            fetched, written = front.fetched, polls[0].written()
            first = float(watcher.communicate(timeout=60)[0])
            polls[0].join(3 * POLL)
            ours.seconds.append(handed_off - first)
            ours.ratios.append(fetched / written)
            guides.seconds.append(polls[0].noticed - first)
            guides.ratios.append(beside.fetched / written)
        finally:
            watcher.kill()
            context.sandboxes("local").delete(deployed.deployment.sandbox_id)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def show(name: str, way: Way) -> None:
    """One row."""
    print(
        f"{name:<24} {statistics.median(way.seconds):>9.3f} {percentile(way.seconds, 0.95):>9.3f} "
        f"{max(way.seconds):>9.3f} {statistics.median(way.ratios):>15.2f} {max(way.ratios):>9.2f}"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boots", type=int, default=10)
    boots = parser.parse_args().boots
    ours, guides = Way(), Way()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for kind in ("CONFIG", "CACHE", "DATA", "STATE"):
            os.environ[f"XDG_{kind}_HOME"] = str(directory / kind.lower())
        info = daemon.start(gpus="H100:1")
        try:
            for number in range(boots):
                boot(info, directory, ours, guides)
                print(f"boot {number + 1}: {ours.seconds[-1]:.3f} s, {guides.seconds[-1]:.3f} s", file=sys.stderr)
        finally:
            daemon.stop()
    print(f"{boots} boots: first 200 to hand-off in s, bytes of log fetched by bytes written")
    print(f"{'':<24} {'median s':>9} {'p95 s':>9} {'max s':>9} {'median fetched':>15} {'max':>9}")
    show("gpuserve", ours)
    show("guides, poll every 10 s", guides)


if __name__ == "__main__":
    main()
