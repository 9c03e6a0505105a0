"""gpuserve on a GPU, beside vLLM's own tools on the same machine: boots, overhead, cache, load. One command:

    python benchmarks/gpu/run.py --model Qwen/Qwen3-8B -- --gpu-memory-utilization 0.95

Needs a GPU, vLLM (``vllm`` on PATH, or ``--vllm PROGRAM``; it may live in an environment of its own) and
``pip install 'gpuserve[local]'``. What comes after ``--`` goes to the engine. Real weights are not needed for the
speed of the load: ``--model FOLDER -- --load-format dummy`` with a model's configuration and tokenizer will do.

Steps, in the order in which ``--steps`` names them:
  warm    the engine's own command once, thrown away: the first boot on a machine reads everything from the disk
  pair    the engine's own command, then ``gpuserve up`` (the second pair the other way round), each in an empty home
  up      ``gpuserve up`` alone
  load    ``up``, ``query``, ``cache-check``, then the load: so many passages of about 3,000 tokens, all in flight, an
          answer of 30 tokens, twice, the second time with another question; ``gpuserve batch`` and ``vllm bench serve``
          in turns, always over passages never seen before; then answers held to a JSON schema
  rounds  ``up``, then only the load of both clients and what goes through the preview: to compare engine flags, run
          it once for each set of flags with the same ``--out``
  fast    ``up --fast-boot``, and what it costs
  quick   ``up --fast-boot`` and one ``query``
  spawn   ``up --fast-boot`` with vLLM starting its engine process anew instead of forking it

Each result is written to OUT/results.jsonl at once; a step that fails is told there, and the next goes on. At the
deadline, and at the end, everything that was started is ended. ``report.py OUT`` makes the tables.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.load import Load, python
from benchmarks.gpu.record import Record, read
from benchmarks.gpu.report import report
from benchmarks.gpu.servers import Server, bare, brought_up, version
from benchmarks.gpu.setup import Setup, nvidia_smi

STEPS = "warm,pair,load,pair,fast"
_SPAWN = "VLLM_WORKER_MULTIPROC_METHOD=spawn"


@dataclass
class Steps:
    """The steps of one run. ``boots`` counts them, so that every boot has a name of its own."""

    setup: Setup
    boots: int = field(default=0)

    def run(self, names: list[str]) -> None:
        """All of them, each whatever became of the others."""
        known: dict[str, tuple[Callable[[], None], float]] = {
            "warm": (self.warm, 30),
            "pair": (self.pair, 60),
            "load": (self.load, 60),
            "rounds": (self.rounds, 60),
            "up": (self._up, 60),
            "fast": (self.fast, 60),
            "quick": (self.quick, 60),
            "spawn": (self.spawn, 60),
        }
        for name in names:
            step, needs = known[name]
            self.setup.record.attempt(name, step, needs=needs)

    def _label(self, kind: str) -> str:
        """A name that no earlier run in the same folder has used."""
        taken = {one.get("label") for one in read(self.setup.record.folder)}
        while f"{kind}-{self.boots}" in taken:
            self.boots += 1
        return f"{kind}-{self.boots}"

    def warm(self) -> None:
        """One boot that reads all from the disk."""
        with bare(self.setup, self._label("warm")):
            pass

    def pair(self) -> None:
        """Both ways of booting, in turns."""
        before = sum(one["kind"] == "bare_boot" and one["label"].startswith("bare") for one in read(self._folder))
        ways = [self._bare, self._up]
        for way in ways if before % 2 == 0 else reversed(ways):
            way()

    @property
    def _folder(self) -> Path:
        return self.setup.record.folder

    def _bare(self) -> None:
        with bare(self.setup, self._label("bare")):
            pass

    def _up(self) -> None:
        with brought_up(self.setup, self._label("up")):
            pass

    def load(self) -> None:
        """Everything that is asked of a model that is up."""
        with brought_up(self.setup, self._label("up")) as server, watched(self.setup):
            record, load = self.setup.record, Load(self.setup, server)
            record.write("engine", version=version(server.port))
            record.attempt("query", lambda: self._query(server))
            record.attempt("cache-check", lambda: self._cache_check(server))
            record.attempt("warm-up", lambda: load.warm_up(1, min(64, self.setup.passages)))
            self._rounds(load)
            record.attempt("decoding", load.decoding, needs=45)
            if not self.setup.schema:
                self._held_to_a_schema(load)
            record.attempt("through the proxy", lambda: load.twice("batch", 2001, through_proxy=True), needs=75)
            record.attempt("streamed", lambda: load.twice("batch", 2002, stream=True), needs=45)

    def rounds(self) -> None:
        """The passes alone."""
        with brought_up(self.setup, self._label("up")) as server, watched(self.setup):
            record, load = self.setup.record, Load(self.setup, server)
            record.write("engine", version=version(server.port))
            record.attempt("warm-up", lambda: load.warm_up(1, min(64, self.setup.passages)))
            self._rounds(load)
            proxy = partial(load.twice, "batch", 2001, through_proxy=True, schema=self.setup.schema)
            record.attempt("through the proxy", proxy, needs=60)

    def _rounds(self, load: Load) -> None:
        if self.setup.schema:
            self.setup.record.attempt("schema warm-up", lambda: load.warm_up_schema(1000), needs=20)
        for number in range(self.setup.rounds):
            both = bool(self.setup.program) and number < self.setup.bench_rounds
            self._round(load, 100 * (number + 1), ["batch", "bench"] if both else ["batch"], turned=bool(number % 2))

    def _round(self, load: Load, seed: int, clients: list[str], *, turned: bool) -> None:
        for place, client in enumerate(reversed(clients) if turned else clients):
            needs = 75 if client == "bench" else 40
            step = partial(load.twice, client, seed + place, schema=self.setup.schema)
            self.setup.record.attempt(f"{client} {seed}", step, needs=needs)

    def _held_to_a_schema(self, load: Load) -> None:
        record = self.setup.record
        record.attempt("schema warm-up", lambda: load.warm_up_schema(1000), needs=20)
        record.attempt("schema", lambda: load.twice("batch", 1001, schema=True), needs=45)
        if self.setup.program:
            record.attempt("schema bench", lambda: load.twice("bench", 1002, schema=True), needs=75)

    def _query(self, server: Server) -> None:
        data, done = self.setup.asked(
            "query", "--id", server.name, "--local", "--max-tokens", "16", "Name three colours.", timeout=60
        )
        kept = {name: data.get(name) for name in ("finish_reason", "usage", "timing", "content")}
        self.setup.record.write("query", seconds=round(done.seconds, 3), **kept)

    def _cache_check(self, server: Server) -> None:
        data, done = self.setup.asked(
            "cache-check", server.name, "--local", "--tokens", str(self.setup.tokens), timeout=120
        )
        self.setup.record.write("cache_check", took=round(done.seconds, 3), **data)

    def fast(self) -> None:
        """A fast boot, and what is lost by it."""
        with brought_up(self.setup, self._label("fast"), fast=True) as server, watched(self.setup):
            load = Load(self.setup, server, fast=True)
            attempt = self.setup.record.attempt
            attempt("warm-up", lambda: load.warm_up(2, min(64, self.setup.passages)), needs=20)
            attempt("decoding", load.decoding, needs=40)
            attempt("batch", lambda: load.twice("batch", 3001), needs=45)

    def quick(self) -> None:
        """A fast boot alone."""
        with brought_up(self.setup, self._label("fast"), fast=True) as server:
            self._query(server)

    def spawn(self) -> None:
        """A fast boot whose engine process is started anew."""
        with brought_up(self.setup, self._label("spawn"), fast=True, env=(_SPAWN,)) as server:
            self._query(server)


@contextmanager
def watched(setup: Setup) -> Iterator[None]:
    """Writes the GPU's clock, power and load twice a second, where there is nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    fields = "timestamp,clocks.sm,power.draw,utilization.gpu,memory.used"
    with (setup.record.folder / "gpu.csv").open("ab") as file:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-lms", "500"]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def machine(setup: Setup) -> None:
    """What it runs on."""
    found, _ = setup.asked("host", "start")
    own = setup.gpuserve("--version")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    setup.record.write(
        "machine", gpus=nvidia_smi("name", "memory.total", "driver_version"), cores=os.cpu_count(),
        memory_gib=round(memory), system=platform.platform(), python=python(), host=bool(found.get("running")),
        gpuserve=[line.text for line in own.lines], model=setup.model, engine=setup.engine,
        engine_args=list(setup.engine_args), passages=setup.passages, tokens=setup.tokens,
    )  # fmt: skip


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face ID, or an absolute path")
    parser.add_argument("--engine", default="vllm", choices=("vllm", "llamacpp"), help="llamacpp rehearses the script")
    parser.add_argument("--vllm", default="vllm", help="vLLM's program; one that isn't found leaves out its bench")
    parser.add_argument("--out", type=Path, default=Path("gpu-run"), help="where results and logs go")
    parser.add_argument("--work", type=Path, help="scratch; by default a temporary folder")
    parser.add_argument("--steps", default=STEPS, help=f"by default {STEPS}")
    parser.add_argument("--deadline", type=float, default=3600, help="seconds after which nothing new is begun")
    parser.add_argument("--passages", type=int, default=273)
    parser.add_argument("--tokens", type=int, default=3000, help="of a prompt, about")
    parser.add_argument("--answer-tokens", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bench-rounds", type=int, help="of them with vllm bench serve, too; by default all")
    parser.add_argument("--schema", action="store_true", help="hold the answers of all rounds to a JSON schema")
    parser.add_argument("engine_args", nargs="*", metavar="-- ENGINE FLAGS")
    return parser.parse_args()


def main() -> None:
    """Runs the steps and ends everything."""
    asked = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    record = Record(asked.out.resolve(), asked.deadline)
    found = shutil.which(asked.vllm)
    work = asked.work or Path(tempfile.mkdtemp(prefix="gpuserve-gpu-"))
    setup = Setup(
        record, asked.model, asked.engine, tuple(asked.engine_args), Path(found).absolute() if found else None,
        work.resolve(), asked.passages, asked.tokens, asked.answer_tokens, asked.rounds, asked.schema,
        asked.rounds if asked.bench_rounds is None else asked.bench_rounds,
    )  # fmt: skip
    try:
        if record.attempt("machine", lambda: machine(setup)):
            Steps(setup).run(asked.steps.split(","))
    finally:
        setup.gpuserve("host", "stop", timeout=60)
        if asked.work is None:
            shutil.rmtree(work, ignore_errors=True)
    text = report(read(record.folder))
    (record.folder / "report.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
