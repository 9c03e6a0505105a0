"""What the checks add to a plan: ``gpuserve plan`` with and without them, and beside the import of the SDK.

    python benchmarks/preflight.py [--rounds 5]

The Hub is the one that HF_ENDPOINT names (else the public one), the platform the local host, which is started. The
first round fills the cache and is shown apart. Wall seconds, in turn, as medians, and as ratios to ``plan --no-check``
of the same rounds. Asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("gpuserve"))
MODEL = "openai/gpt-oss-20b"
MEASURED = {
    "plan --no-check": [PROGRAM, "plan", MODEL, "--local", "--engine", "vllm", "--gpu", "H100", "--no-check"],
    "plan": [PROGRAM, "plan", MODEL, "--local", "--engine", "vllm", "--gpu", "H100"],
    "import of daytona": [sys.executable, "-c", "from daytona import Daytona"],
}


def seconds(command: list[str]) -> float:
    """Wall seconds of one run."""
    began = time.perf_counter()
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    subprocess.run([PROGRAM, "host", "start", "--gpus", "H100:1", "-q"], check=True)
    first = {name: seconds(command) for name, command in MEASURED.items()}
    times = {name: [seconds(command) for _ in range(rounds)] for name, command in MEASURED.items()}
    reference = times["plan --no-check"]
    print(f"{'':<20} {'first s':>8} {'median s':>9} {'x --no-check':>13}")
    for name, taken in times.items():
        ratio = statistics.median(taken) / statistics.median(reference)
        print(f"{name:<20} {first[name]:>8.2f} {statistics.median(taken):>9.2f} {ratio:>13.2f}")


if __name__ == "__main__":
    main()
