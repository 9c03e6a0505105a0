"""Whether ``gpuserve bench`` measures what another tool measures: the same server, the same load, both figures.

The server (``tests/fakes/steady.py``) streams as an engine does, at a known speed. The other tool is guidellm, in an
environment of its own (``pip install guidellm``): python benchmarks/bench.py --guidellm ENVIRONMENT/bin/guidellm
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.steady import Steady, steady
from gpuserve.bench.prompts import WORDS

PROMPT, OUTPUT, AROUND = 512, 64, 10


def ours(url: str, concurrency: int, requests: int) -> dict[str, float]:
    """What ``gpuserve bench`` says, by name; times in milliseconds."""
    lengths = ("--prompt-tokens", str(PROMPT), "--output-tokens", str(OUTPUT), "--requests", str(requests))
    argv = ("bench", "--url", url, "--model", "m", "-c", str(concurrency), *lengths, "--json")
    done = subprocess.run([sys.executable, "-m", "gpuserve", *argv], capture_output=True, text=True, check=True)
    (point,) = json.loads(done.stdout.splitlines()[-1])["data"]["points"]
    return {
        "requests/s": point["requests_per_second"],
        "output tokens/s": point["output_tokens_per_second"],
        "TTFT p50, ms": point["ttft"]["p50"] * 1000,
        "ITL p50, ms": point["itl"]["p50"] * 1000,
        "whole p50, ms": point["latency"]["p50"] * 1000,
    }


def theirs(program: str, url: str, concurrency: int, requests: int) -> dict[str, float]:
    """What guidellm says of as many requests, all of which it counts."""
    with tempfile.TemporaryDirectory() as folder:
        rows, report = Path(folder) / "rows.jsonl", Path(folder) / "report.json"
        with rows.open("w") as file:
            for _ in range(requests):
                prompt = " ".join(random.choices(WORDS, k=PROMPT - AROUND))
                file.write(json.dumps({"prompt": prompt, "output_tokens_count": OUTPUT}) + "\n")
        argv = [
            *(program, "run", "--backend", f"kind=openai_http,target={url},model=m"),
            *("--profile", f"kind=concurrent,streams={concurrency}"),
            *("--constraint", f"kind=max_requests,count={requests}", "--data", f"kind=json_file,path={rows}"),
            *("--output", f"kind=json,path={report}", "--disable-console"),
        ]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        subprocess.run(argv, check=True, capture_output=True, env=env)
        metrics: dict[str, Any] = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    figures = {
        name: one["successful"] for name, one in metrics.items() if isinstance(one, dict) and "successful" in one
    }
    return {
        "requests/s": figures["requests_per_second"]["mean"],
        "output tokens/s": figures["output_tokens_per_second"]["mean"],
        "TTFT p50, ms": figures["time_to_first_token_ms"]["median"],
        "ITL p50, ms": figures["inter_token_latency_ms"]["median"],
        "whole p50, ms": figures["request_latency"]["median"] * 1000,
    }


def told_by(server: Steady) -> dict[str, float]:
    """The server's own measure of the same: what a tool tells beyond it is the network's and the tool's."""
    return {"same, by server": median(server.stats()["firsts"]) * 1000}


def main() -> None:
    """Prints both, and by how much they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guidellm", default="guidellm", help="the program")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--waves", type=int, default=30, help="requests for each in flight")
    asked = parser.parse_args()
    print(f"{'in flight':<10}{'figure':<18}{'gpuserve bench':>16}{'guidellm':>12}{'difference':>12}")
    for concurrency in asked.concurrency:
        requests = asked.waves * concurrency
        with steady(prefill=0.15, token=0.015, around=AROUND) as server:
            first = ours(server.url, concurrency, requests) | told_by(server)
        with steady(prefill=0.15, token=0.015, around=AROUND) as server:
            second = theirs(asked.guidellm, server.url, concurrency, requests) | told_by(server)
        for name, value in first.items():
            difference = value / second[name] - 1
            print(f"{concurrency:<10}{name:<18}{value:>16.4g}{second[name]:>12.4g}{difference:>12.1%}")


if __name__ == "__main__":
    main()
