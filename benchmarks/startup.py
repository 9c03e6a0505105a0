"""How long ``gpuserve --help`` takes, as a ratio to bare ``import typer`` and to ``hf --help`` of the same run.

    python benchmarks/startup.py [--rounds 15]

CPU seconds (user and system) of the whole process, in turn, the first round not counted. Ratios are medians of the
paired rounds, so that a machine whose speed drifts does not decide. Prints a table; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path


def cpu_seconds(command: list[str]) -> float:
    """CPU seconds of one run of ``command``, its children included."""
    before = os.times()
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def commands() -> dict[str, list[str]]:
    """What is measured, the reference first."""
    here = Path(sys.executable).parent
    found = {
        "python -c 'import typer'": [sys.executable, "-c", "import typer"],
        "python -c pass": [sys.executable, "-c", "pass"],
        "gpuserve --version": [str(here / "gpuserve"), "--version"],
        "gpuserve --help": [str(here / "gpuserve"), "--help"],
        "gpuserve up --help": [str(here / "gpuserve"), "up", "--help"],
        "python -c 'from daytona import Daytona'": [sys.executable, "-c", "from daytona import Daytona"],
    }
    hf = shutil.which("hf", path=f"{here}:{os.environ.get('PATH', '')}")
    if hf:
        found["hf --help"] = [hf, "--help"]
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    measured = commands()
    times: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(rounds + 1):
        for name, command in measured.items():
            used = cpu_seconds(command)
            if number:
                times[name].append(used)
    references = [name for name in ("python -c 'import typer'", "hf --help") if name in times]
    print(f"{'command':<42} {'CPU s':>7}" + "".join(f" {'x ' + name:>28}" for name in references))
    for name, taken in times.items():
        ratios = "".join(f" {ratio(taken, times[reference]):>28.2f}" for reference in references)
        print(f"{name:<42} {statistics.median(taken):>7.3f}{ratios}")


def ratio(taken: list[float], reference: list[float]) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(one / base for one, base in zip(taken, reference, strict=True))


if __name__ == "__main__":
    main()
