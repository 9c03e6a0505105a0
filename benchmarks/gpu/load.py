"""The load: passages with a question, all in flight at once, twice, by ``gpuserve batch`` and ``vllm bench serve``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import passages, processes
from benchmarks.gpu.processes import Finished
from benchmarks.gpu.servers import Server, counters
from benchmarks.gpu.setup import SERVED, Setup

COUNTERS = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
)
#: Letters of a token, before anything is known of the tokenizer.
LETTERS = 4
_CHAT = "/v1/chat/completions"
Threads = dict[tuple[int, int], tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: which passages (``seed``), which question (0: never seen before, 1: again), and what form of answer."""

    client: str
    seed: int
    question: int
    schema: bool = False
    through_proxy: bool = False
    stream: bool = False

    @property
    def words(self) -> str:
        """Its name in the results."""
        parts = [self.client, "schema" if self.schema else "free", "again" if self.question else "new"]
        return "-".join([*parts, *(["proxy"] if self.through_proxy else []), *(["stream"] if self.stream else [])])


class Load:
    """All passes over one server. ``fast`` marks their results as those of a fast boot."""

    def __init__(self, setup: Setup, server: Server, *, fast: bool = False) -> None:
        self._setup, self._server, self._fast = setup, server, fast
        self._letters = LETTERS * setup.tokens
        self._folder = setup.work / "load"
        self._folder.mkdir(exist_ok=True)

    def warm_up(self, seed: int, number: int) -> None:
        """A pass that isn't counted: from its tokens follows how long the passages are to be."""
        found = self._run(Pass("batch", seed, 0), number)
        each = found["prompt_tokens"] / number
        if not each:
            raise RuntimeError(f"nothing was answered: {found}")
        self._letters = round(self._letters * self._setup.tokens / each)
        self._setup.record.write("calibrated", tokens_of_a_prompt=round(each, 1), letters=self._letters)

    def warm_up_schema(self, seed: int) -> None:
        """A few answers held to the schema, which aren't counted: the engine makes its grammar at the first."""
        self._run(Pass("batch", seed, 0, schema=True), min(8, self._setup.passages))

    def twice(self, client: str, seed: int, **how: bool) -> None:
        """A pass over new passages, and one over the same with another question."""
        for question in (0, 1):
            one = Pass(client, seed, question, **how)
            figures = self._run(one, self._setup.passages)
            self._setup.record.write(
                "pass", name=one.words, client=client, seed=seed, question=question, fast=self._fast,
                form="schema" if one.schema else "free", proxy=one.through_proxy, stream=one.stream,
                server=self._server.name, **figures,
            )  # fmt: skip

    def _run(self, one: Pass, number: int) -> dict[str, Any]:
        texts = passages.prompts(one.seed, number, self._letters, one.question)
        before, threads = self._counted(), processes.busiest(self._server.session)
        figures = self._batch(one, texts) if one.client == "batch" else self._bench(one, texts)
        after, used = self._counted(), _used(threads, processes.busiest(self._server.session))
        served = {name: after[name] - before[name] for name in before}
        prompt = served.get(COUNTERS[0]) or figures["prompt_tokens"]
        return {
            **figures,
            "engine": {name.removeprefix("vllm:"): round(value, 2) for name, value in served.items()},
            "threads": used,
            "input_tokens_per_second": round(prompt / figures["seconds"], 1),
        }

    def _counted(self) -> dict[str, float]:
        return {
            **counters(self._server.port, COUNTERS),
            "cpu_seconds": processes.cpu_of_session(self._server.session),
        }

    # -- gpuserve batch

    def _batch(self, one: Pass, texts: Sequence[str]) -> dict[str, Any]:
        rows, output = self._folder / "in.jsonl", self._folder / "out.jsonl"
        output.unlink(missing_ok=True)
        limits: tuple[str, ...] = ("--max-tokens", str(self._most(one)), "--temperature", "0")
        if one.schema:
            passages.write_prompts(rows, list(texts))
            limits = (*limits, "--schema", json.dumps(passages.SCHEMA))
        else:
            body = {"max_tokens": self._most(one), "temperature": 0, "ignore_eos": True}
            passages.write_requests(rows, list(texts), body)
            limits = ()
        where: tuple[str, ...] = ("--url", self._server.url, "--model", SERVED)
        if one.through_proxy:
            where = ("--id", self._server.name, "--local", "--quiet")
        argv = ("batch", str(rows), "-o", str(output), *where, "--concurrency", str(len(texts)), *limits)
        data, done = self._setup.asked(*argv, *(("--stream",) if one.stream else ()), timeout=240)
        return {
            "seconds": data["seconds"],
            "prompt_tokens": data["prompt_tokens"],
            "completion_tokens": data["completion_tokens"],
            "cached_tokens": data["cached_tokens"],
            "requests": data["requests"],
            "failed": data["failed"],
            "cut_short": data["cut_short"],
            "first_failure": _failure(output) if data["failed"] else None,
            "latency": data["latency"],
            "queueing": data["queueing"],
            "cpu_sending": data["client_cpu_seconds"],
            **_whole(done),
        }

    # -- vllm bench serve

    def _bench(self, one: Pass, texts: Sequence[str]) -> dict[str, Any]:
        rows, result = self._folder / "in.jsonl", self._folder / "bench.json"
        result.unlink(missing_ok=True)
        passages.write_prompts(rows, list(texts))
        command = [*self._bench_command(one, rows, len(texts)), "--save-result", "--result-dir", str(self._folder)]
        done = processes.run(
            [*command, "--result-filename", result.name],
            env=self._setup.fresh_home("bench"),
            errors=self._setup.logs / "bench.stderr",
            timeout=min(300, self._setup.record.left()),
        )
        if not result.exists():
            raise RuntimeError(f"vllm bench serve ended with {done.status}: {[line.text for line in done.lines[-5:]]}")
        data = json.loads(result.read_text())
        begun, over = done.first("Maximum request concurrency"), done.first("==")
        return {
            "seconds": round(data["duration"], 3),
            "prompt_tokens": data["total_input_tokens"],
            "completion_tokens": data["total_output_tokens"],
            "requests": data["completed"] + data.get("failed", 0),
            "failed": data.get("failed", 0),
            "cpu_sending": round(over.cpu - begun.cpu, 3) if begun and over else None,
            **_whole(done),
        }

    def _bench_command(self, one: Pass, rows: Path, number: int) -> list[str]:
        assert self._setup.program is not None
        free = ["--ignore-eos"]
        if one.schema:
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": passages.SCHEMA}}
            free = ["--extra-body", json.dumps({"response_format": form})]
        return [
            *(str(self._setup.program), "bench", "serve", "--backend", "openai-chat", "--endpoint", _CHAT),
            *("--base-url", self._server.url, "--model", SERVED, "--tokenizer", self._setup.model),
            *("--dataset-name", "custom", "--dataset-path", str(rows), "--skip-chat-template", "--disable-shuffle"),
            *("--no-oversample", "--num-prompts", str(number), "--custom-output-len", str(self._most(one))),
            *("--request-rate", "inf", "--temperature", "0", "--seed", str(one.seed), "--disable-tqdm", *free),
        ]

    def _most(self, one: Pass) -> int:
        """Tokens of an answer at most: one held to the schema needs up to 40."""
        return 64 if one.schema else self._setup.answer_tokens

    # -- how fast it generates

    def decoding(self) -> None:
        """Output tokens a second of one stream and of 64, by ``gpuserve bench``: what a fast boot costs."""
        for streams, requests in ((1, 4), (64, 128)):
            data, _ = self._setup.asked(
                "bench", "--url", self._server.url, "--model", SERVED, "-c", str(streams),
                "--prompt-tokens", "512", "--output-tokens", "128", "--requests", str(requests), timeout=120,
            )  # fmt: skip
            (point,) = data["points"]
            names = ("input_tokens_per_second", "output_tokens_per_second", "ttft", "itl", "latency", "client")
            self._setup.record.write(
                "decoding", fast=self._fast, streams=streams, **{name: point[name] for name in names}
            )


def _used(before: Threads, after: Threads) -> list[tuple[str, float]]:
    """The engine's threads that took a tenth of a second of CPU time or more meanwhile, the busiest first."""
    spent = [(name, round(cpu - before.get(key, ("", 0.0))[1], 2)) for key, (name, cpu) in after.items()]
    return sorted((one for one in spent if one[1] >= 0.1), key=lambda one: -one[1])


def _failure(output: Path) -> str:
    """The first line of an output that isn't an answer as it should be."""
    lines = output.read_text(encoding="utf-8").splitlines()
    return next(
        (line[:1000] for line in lines if not line.endswith('"error":null}') or '"status_code":200' not in line), ""
    )


def _whole(done: Finished) -> dict[str, Any]:
    """The client's process from its start to its end: imports, reading and writing too."""
    return {"cpu_whole": round(done.cpu, 3), "seconds_whole": round(done.seconds, 3)}


def python() -> str:
    """The Python that runs gpuserve, for the results."""
    return sys.version.split()[0]
