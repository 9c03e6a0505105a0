"""Where a fleet's gateway and injector saturate: queues simulated with the measured costs, no fleet needed.

    python benchmarks/fleet_sim.py [--seed 1]

For fleets of 100 and 1,000 workers under three kinds of load: how many cores of gateway and injector the load takes,
and how long one chunk waits for the injector (99th percentile) if the injector is spread over so many processes. Costs
are CPU per request and per streamed chunk, measured in November 2026 (``benchmarks/fleet.py``, and the facts of the
gateway for chunks); a core of this kind passes 2,000 to 3,000 requests a second. Each injector process is one server
with a queue, chunks arrive at random (Poisson), each takes a random (exponential) time around its cost: real streams
come more evenly, so the waits are upper bounds. The network, the preview proxy and the workers are left out: what is
asked is where this machine ends. Prints a table for docs/fleet-scale.md.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import dataclass

#: CPU seconds: (gateway with its door, injector) for a request, and for a streamed chunk.
REQUEST = (0.61e-3, 0.73e-3)
CHUNK = (70e-6, 65e-6)
#: Chunks that are simulated for each row.
COUNT = 200_000
#: The share of a process's time that may be spent, so that waits stay short.
FULL = 0.7


@dataclass(frozen=True)
class Load:
    """What one worker is asked: answers under way at a time, tokens a second of each, tokens of an answer."""

    name: str
    streams: int
    rate: float
    tokens: int
    tokens_a_chunk: int = 1

    @property
    def chunks(self) -> float:
        """Chunks a second from one worker."""
        return self.streams * self.rate / self.tokens_a_chunk

    @property
    def requests(self) -> float:
        """Requests a second to one worker."""
        return self.streams * self.rate / self.tokens


LOADS = (
    Load("people: 4 streams of 40 tokens/s, 400 tokens", 4, 40, 400),
    Load("busy: 32 streams of 30 tokens/s, 400 tokens", 32, 30, 400),
    Load("busy, chunks of 16 tokens", 32, 30, 400, 16),
    Load("batch: 128 whole answers of 400 tokens", 128, 15, 400, 400),
)


def waits(arrivals: float, service: float, seed: random.Random) -> float:
    """The 99th percentile of the wait, in seconds, in one queue (Lindley's recursion)."""
    if arrivals * service >= 1:
        return math.inf
    wait, seen = 0.0, []
    for _ in range(COUNT):
        seen.append(wait)
        wait = max(0.0, wait + seed.expovariate(1 / service) - seed.expovariate(arrivals))
    return sorted(seen)[int(COUNT * 0.99)]


def row(workers: int, load: Load, seed: random.Random) -> str:
    """One line of the table."""
    cores = [workers * (load.requests * each + load.chunks * chunk) for each, chunk in zip(REQUEST, CHUNK, strict=True)]
    processes = max(1, math.ceil(cores[1] / FULL))
    chunks = workers * load.chunks
    service = cores[1] / chunks  # a request's share is spread over its chunks
    one = waits(chunks, service, seed)
    spread = waits(chunks / processes, service, seed)
    shown = "never catches up" if math.isinf(one) else f"{one * 1000:.1f} ms"
    figures = f"{chunks:,.0f} | {cores[0]:.1f} | {cores[1]:.1f} | {shown}"
    return f"| {workers:,} | {load.name} | {figures} | {processes}, {spread * 1000:.1f} ms |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    seed = random.Random(parser.parse_args().seed)
    columns = ("workers", "load of each", "chunks/s", "gateway cores", "injector cores", "one injector: wait")
    print("| " + " | ".join((*columns, "spread: processes, wait")) + " |\n" + "|---" * 7 + "|")
    for workers in (10, 100, 1000):
        for load in LOADS:
            print(row(workers, load, seed))


if __name__ == "__main__":
    main()
