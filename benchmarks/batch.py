"""What a request of a batch costs the client: gpuserve batch beside the guide's way, against one and the same server.

    python benchmarks/batch.py                          273 and 2,000 in flight, plain and streamed
    python benchmarks/batch.py --memory 1000 100000     peak memory of gpuserve batch at these numbers of rows

The server (``tests/fakes/crowd.py``, a process of its own) answers every request at once with the same 100 words. The
guide's way is ``AsyncOpenAI`` and ``asyncio.gather`` over a list, as the SGLang guide's last example does it, as many
at a time as are in flight. Each measurement is a process of its own, of 2,000 requests; CPU seconds (user and system)
are those of that whole process, start-up, checking of the input and writing of the output included. ``raw aiohttp``
is the floor: bodies made beforehand, nothing written. ``guidellm`` is run beside them if it is installed. Prints
tables; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fakes.crowd import crowd  # noqa: E402  # the path comes first

#: Words of a prompt: the guide's passages have about 3,000 tokens.
WORDS = 2300
_GUIDE = """
import asyncio, json, sys
from openai import AsyncOpenAI

async def main(url, rows, flying, stream):
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY", timeout=600)
    async def ask(prompt):
        answer = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": prompt}], stream=stream)
        if not stream:
            return answer.choices[0].message.content
        return "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])
    prompts = [json.loads(line)["prompt"] for line in open(rows)]
    for at in range(0, len(prompts), flying):
        await asyncio.gather(*(ask(prompt) for prompt in prompts[at:at + flying]))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "stream"))
"""
_RAW = """
import asyncio, json, sys
import aiohttp

async def main(url, rows, flying, stream):
    bodies = [json.dumps({"model": "m", "messages": [{"role": "user", "content": json.loads(line)["prompt"]}],
                          "stream": stream}).encode() for line in open(rows)]
    left = iter(bodies)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def work():
            for body in left:
                async with session.post(f"{url}/v1/chat/completions", data=body) as answer:
                    await answer.read()
        await asyncio.gather(*(work() for _ in range(flying)))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "stream"))
"""


def write_rows(path: Path, number: int, words: int) -> None:
    """An input of ``number`` rows, each of so many words."""
    tail = "word " * words
    with path.open("w") as file:
        for row in range(number):
            file.write(json.dumps({"prompt": f"row-{row} {tail}"}) + "\n")


def measured(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak memory (MiB) of one run of ``command``."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=os.environ)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:4]} ended with {process.returncode}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def commands(url: str, flying: int, *, stream: bool) -> dict[str, list[str]]:
    """What is compared."""
    mode = "stream" if stream else "plain"
    more = ["--stream"] if stream else []
    own = [sys.executable, "-m", "gpuserve", "batch", "in.jsonl", "-o", "out.jsonl", "--url", url, "--model", "m", "-q"]
    return {
        "gpuserve batch": [*own, "--concurrency", str(flying), *more],
        "AsyncOpenAI + gather": [sys.executable, "-c", _GUIDE, url, "in.jsonl", str(flying), mode],
        "raw aiohttp": [sys.executable, "-c", _RAW, url, "in.jsonl", str(flying), mode],
    }


def compare(folder: Path, rounds: int, in_flight: list[int], modes: list[str]) -> None:
    """The table of requests per CPU second."""
    print(f"{'client':<22} {'in flight':>9} {'mode':>7} {'requests/s':>11} {'ms CPU/request':>15} {'x guide':>8}")
    with crowd(words=100) as server:
        for flying in in_flight:
            number = max(flying, 2000)
            write_rows(folder / "in.jsonl", number, WORDS)
            for mode in modes:
                stream = mode == "stream"
                best: dict[str, tuple[float, float]] = {}
                for _ in range(rounds):
                    for name, command in commands(server.url, flying, stream=stream).items():
                        (folder / "out.jsonl").unlink(missing_ok=True)
                        wall, cpu, _ = measured(command, folder)
                        best[name] = min(best.get(name, (wall, cpu)), (wall, cpu), key=lambda one: one[1])
                guide = best["AsyncOpenAI + gather"][1]
                for name, (wall, cpu) in best.items():
                    print(
                        f"{name:<22} {flying:>9} {mode:>7} {number / wall:>11.0f} {1000 * cpu / number:>15.2f}"
                        f" {guide / cpu:>8.1f}",
                        flush=True,
                    )
        guidellm(server.url, folder)


def guidellm(url: str, folder: Path) -> None:
    """guidellm's own words on the same server, where it is installed."""
    program = shutil.which("guidellm")
    if program is None:
        print("guidellm: not installed")
        return
    subprocess.run(
        [program, "benchmark", "--target", url, "--rate-type", "throughput", "--max-requests", "2000",
         "--data", "prompt_tokens=3000,output_tokens=100"], cwd=folder, check=False,
    )  # fmt: skip


def memory(folder: Path, sizes: list[int]) -> None:
    """The table of peak memory. Prompts are short: what is measured is what is kept of a row."""
    print(f"{'rows':>9} {'peak MiB':>9} {'seconds':>8} {'resumed: peak MiB':>18} {'seconds':>8}")
    with crowd(words=20) as server:
        for number in sizes:
            write_rows(folder / "in.jsonl", number, 20)
            (folder / "out.jsonl").unlink(missing_ok=True)
            command = commands(server.url, 273, stream=False)["gpuserve batch"]
            wall, _, peak = measured(command, folder)
            again, _, peak_again = measured(command, folder)  # nothing is left: it reads what is there
            print(f"{number:>9} {peak:>9.1f} {wall:>8.1f} {peak_again:>18.1f} {again:>8.1f}", flush=True)


def main() -> None:
    """Measures and prints."""
    parser: Any = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[273, 2000])
    parser.add_argument("--modes", nargs="+", choices=("plain", "stream"), default=["plain", "stream"])
    parser.add_argument("--memory", type=int, nargs="+", metavar="ROWS")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        if options.memory:
            memory(Path(name), options.memory)
        else:
            compare(Path(name), options.rounds, options.in_flight, options.modes)


if __name__ == "__main__":
    main()
