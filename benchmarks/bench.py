"""Whether ``gpuserve bench`` measures what another tool measures: the same server, the same load, both figures.

The server (``tests/fakes/steady.py``) streams as an engine does, at a known speed. The other tool is guidellm, in an
environment of its own (``pip install guidellm``): python benchmarks/bench.py --guidellm ENVIRONMENT/bin/guidellm

Where the two differ, the rest tells why: the same figures by the server's own clock, for each tool's load; guidellm's
single requests, counted as ``bench`` counts (without the ramp and the tail); and the share of a core that each tool and
the server took meanwhile. docs/architecture.md says what came of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf, nan
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.apart import Apart
from fakes.steady import steady
from gpuserve.bench.prompts import WORDS

PROMPT, OUTPUT, AROUND = 512, 64, 10
SAMPLE = 0.1
Figures = dict[str, float]


class Span(NamedTuple):
    """One request: when it began, its first token came, and it ended."""

    began: float
    first: float
    ended: float


def counted(spans: Sequence[Span], warm: int, number: int) -> tuple[Figures, float, float]:
    """What ``bench`` makes of single requests, and its window: ``number`` of them, after the first ``warm``.

    In a closed load each request begins as another ends: as many end in the window as begin.
    """
    ordered = sorted(spans)
    chosen = ordered[warm : warm + number]
    start, end = chosen[0].began, ordered[warm + number].began
    overlap = sum(max(0.0, min(one.ended, end) - max(one.began, start)) for one in ordered)
    told = {
        "requests/s": number / (end - start),
        "TTFT p50, ms": 1000 * median(one.first - one.began for one in chosen),
        "whole p50, ms": 1000 * median(one.ended - one.began for one in chosen),
        "in flight": overlap / (end - start),
    }
    return told, start, end


class Watch:
    """The CPU seconds of this process's children, by moment: all but the server, and the server."""

    def __init__(self, server: Apart) -> None:
        self._server = psutil.Process(server.pid)
        self._samples: list[tuple[float, float, float]] = []
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Takes samples meanwhile."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE):
            tools = [one for one in psutil.Process().children(recursive=True) if one.pid != self._server.pid]
            self._samples.append((time.time(), sum(map(_cpu, tools)), _cpu(self._server)))

    def shares(self, start: float, end: float) -> Figures:
        """Shares of one core from ``start`` to ``end``."""
        first, *_, last = [sample for sample in self._samples if start <= sample[0] <= end]
        span = last[0] - first[0]
        return {"CPU, tool": (last[1] - first[1]) / span, "CPU, server": (last[2] - first[2]) / span}


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def ours(server: Apart, concurrency: int, requests: int) -> Figures:
    """What ``gpuserve bench`` says, by name; times in milliseconds."""
    lengths = ("--prompt-tokens", str(PROMPT), "--output-tokens", str(OUTPUT), "--requests", str(requests))
    argv = ("bench", "--url", server.url, "--model", "m", "-c", str(concurrency), *lengths, "--json")
    done = subprocess.run([sys.executable, "-m", "gpuserve", *argv], capture_output=True, text=True, check=True)
    (point,) = json.loads(done.stdout.splitlines()[-1])["data"]["points"]
    return {
        "requests/s": point["requests_per_second"],
        "output tokens/s": point["output_tokens_per_second"],
        "TTFT p50, ms": point["ttft"]["p50"] * 1000,
        "ITL p50, ms": point["itl"]["p50"] * 1000,
        "whole p50, ms": point["latency"]["p50"] * 1000,
        "says it was the limit": float(point["client"]["limited"]),
    }


def theirs(program: str, server: Apart, concurrency: int, requests: int) -> tuple[Figures, list[Span]]:
    """What guidellm says of as many requests, all of which it counts; and its records of them."""
    with tempfile.TemporaryDirectory() as folder:
        rows, report = Path(folder) / "rows.jsonl", Path(folder) / "report.json"
        with rows.open("w") as file:
            for _ in range(requests):
                prompt = " ".join(random.choices(WORDS, k=PROMPT - AROUND))
                file.write(json.dumps({"prompt": prompt, "output_tokens_count": OUTPUT}) + "\n")
        argv = [
            *(program, "run", "--backend", f"kind=openai_http,target={server.url},model=m"),
            *("--profile", f"kind=concurrent,streams={concurrency}"),
            *("--constraint", f"kind=max_requests,count={requests}", "--data", f"kind=json_file,path={rows}"),
            *("--output", f"kind=json,path={report}", "--disable-console"),
        ]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        subprocess.run(argv, check=True, capture_output=True, env=env)
        found: dict[str, Any] = json.loads(report.read_text())["benchmarks"][0]
    figures = {
        name: one["successful"]
        for name, one in found["metrics"].items()
        if isinstance(one, dict) and "successful" in one
    }
    told = {
        "requests/s": figures["requests_per_second"]["mean"],
        "output tokens/s": figures["output_tokens_per_second"]["mean"],
        "TTFT p50, ms": figures["time_to_first_token_ms"]["median"],
        "ITL p50, ms": figures["inter_token_latency_ms"]["median"],
        "whole p50, ms": figures["request_latency"]["median"] * 1000,
    }
    records = [one["info"]["timings"] for one in found["requests"]["successful"]]
    spans = [Span(one["request_start"], one["first_token_iteration"], one["request_end"]) for one in records]
    return told, spans


def by_server(server: Apart, watch: Watch, concurrency: int, requests: int) -> Figures:
    """The server's own measure of one tool's load: what the tool tells beyond it is the network's and its own."""
    known = [times for tokens, *times in server.stats()["spans"] if tokens == OUTPUT]
    spans = [Span(came, first or inf, ended or inf) for came, first, ended in known]  # the load goes on to the very end
    told, start, end = counted(spans, max(3, concurrency), requests)
    return {**{f"{name}, by server": value for name, value in told.items()}, **watch.shares(start, end)}


def both(program: str, concurrency: int, waves: int, speed: dict[str, float]) -> Iterator[tuple[str, float, float]]:
    """Names and values of all figures, of one load."""
    warm, requests = max(3, concurrency), waves * concurrency
    with steady(**speed, around=AROUND) as server, (watch := Watch(server)).watching():
        first = ours(server, concurrency, requests)
        first |= by_server(server, watch, concurrency, requests)
    with steady(**speed, around=AROUND) as server, (watch := Watch(server)).watching():
        second, spans = theirs(program, server, concurrency, warm + requests + concurrency)
        second |= by_server(server, watch, concurrency, requests)
    again, _, _ = counted(spans, warm, requests)
    for name, value in first.items():
        yield name, value, second.get(name, nan)  # guidellm doesn't say whether it was the limit
        if name in again:
            yield f"{name}, our count", value, again[name]


def main() -> None:
    """Prints both, and by how much they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guidellm", default="guidellm", help="the program")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--waves", type=int, default=30, help="requests for each in flight")
    parser.add_argument("--prefill", type=float, default=0.15, help="the server's seconds to the first token")
    parser.add_argument("--token", type=float, default=0.015, help="and from one to the next")
    asked = parser.parse_args()
    print(f"{'in flight':<10}{'figure':<26}{'gpuserve bench':>16}{'guidellm':>12}{'difference':>12}")
    for concurrency in asked.concurrency:
        speed = {"prefill": asked.prefill, "token": asked.token}
        for name, mine, other in both(asked.guidellm, concurrency, asked.waves, speed):
            print(f"{concurrency:<10}{name:<26}{mine:>16.4g}{other:>12.4g}{mine / other - 1:>12.1%}", flush=True)


if __name__ == "__main__":
    main()
