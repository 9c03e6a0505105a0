"""The tables of a run, out of its results.jsonl: python benchmarks/gpu/report.py OUT"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.record import read

Results = list[dict[str, Any]]


def report(results: Results) -> str:
    """All tables, as Markdown, and what the figures say of what was promised."""
    parts = [_machine(results), _boots(results), _phases(results), _single(results), _passes(results)]
    parts += [_decoding(results), _promised(results), _trouble(results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def of(results: Results, kind: str, **fields: Any) -> Results:
    """The results of a kind whose fields are these."""
    return [one for one in results if one["kind"] == kind and all(one.get(k) == v for k, v in fields.items())]


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def _machine(results: Results) -> str:
    rows = {}
    for one in of(results, "machine"):
        rows = {name: value for name, value in one.items() if name not in ("kind", "at")}
    for one in of(results, "engine"):
        rows["vllm"] = one["version"]
    return "## Machine\n" + table(("what", ""), rows.items()) if rows else ""


def _boots(results: Results) -> str:
    rows: list[Sequence[object]] = []
    for one in results:
        if one["kind"] == "bare_boot":
            rows.append((one["label"], "the engine's own command", " ".join(one["env"]), one["seconds"], *[None] * 4))
        if one["kind"] == "up":
            what = "gpuserve up --fast-boot" if one["fast"] else "gpuserve up"
            parts = [one.get(name) for name in ("before_engine", "engine_boot", "after_first_200", "added")]
            rows.append((one["label"], what, " ".join(one["env"]), one["seconds"], *parts))
    titles = ("boot", "what", "environment", "s", "before the engine", "its boot", "after its first 200", "added")
    return "## Boots\n" + table(titles, rows) if rows else ""


def _phases(results: Results) -> str:
    rows = []
    for one in of(results, "up"):
        told = [f"{name} {phase['first']}" for name, phase in one.get("phases", {}).items()]
        rows.append((one["label"], ", ".join(told)))
    return "## Phases, seconds from the start of up\n" + table(("boot", "first told of"), rows) if rows else ""


def _single(results: Results) -> str:
    rows = [(one["kind"], one["seconds"], one.get("usage")) for one in of(results, "query")]
    rows += [(one["kind"], one["took"], one["verdict"]) for one in of(results, "cache_check")]
    return "## query and cache-check\n" + table(("what", "s", "found"), rows) if rows else ""


def _passes(results: Results) -> str:
    titles = (
        "server", "pass", "fast boot", "seed", "s", "input tok/s", "cached", "CPU s sending", "CPU s whole", "s whole",
        "failed", "cut short", "busiest threads of the engine, CPU s",
    )  # fmt: skip
    rows = [
        (
            one.get("server"), one["name"], one["fast"], one["seed"], one["seconds"], one["input_tokens_per_second"],
            _share(one), one["cpu_sending"], one["cpu_whole"], one["seconds_whole"], one["failed"],
            one.get("cut_short"), ", ".join(f"{name} {used}" for name, used in one.get("threads", [])[:4]),
        )
        for one in of(results, "pass")
    ]  # fmt: skip
    return "## Passes\n" + table(titles, rows) if rows else ""


def _share(one: dict[str, Any]) -> str | None:
    """How much of the prompts came from the cache, by the engine's own counters."""
    queries = one["engine"].get("prefix_cache_queries_total")
    return f"{one['engine']['prefix_cache_hits_total'] / queries:.1%}" if queries else None


def _decoding(results: Results) -> str:
    rows = [
        (one["fast"], one["streams"], one["output_tokens_per_second"], one["ttft"]["p50"])
        for one in of(results, "decoding")
    ]
    titles = ("fast boot", "streams", "output tok/s", "TTFT p50, s")
    return "## Generating, 512 tokens in and 128 out\n" + table(titles, rows) if rows else ""


def _middle(rows: Results, value: Callable[[dict[str, Any]], float]) -> float | None:
    return median(map(value, rows)) if rows else None


def _ratio(first: float | None, second: float | None) -> str | None:
    return f"{first / second:.3f}" if first and second else None


def _promised(results: Results) -> str:
    rows: list[Sequence[object]] = []
    sets = _by_flags(results)
    for flags, passes in sets.items():
        rows += [(f"{flags}: {what}" if len(sets) > 1 else what, *rest) for what, *rest in _load_promises(passes)]
    rows += _boot_promises(results)
    return "## What was promised (medians)\n" + table(("what", "measured", "of", "ratio", "promised"), rows)


def _by_flags(results: Results) -> dict[str, Results]:
    """The passes, by those of their server's flags that not all servers had."""
    flags = {one["label"]: one.get("engine_args", []) for one in of(results, "up")}
    shared = [flag for flag in next(iter(flags.values()), []) if all(flag in each for each in flags.values())]
    found: dict[str, Results] = {}
    for one in of(results, "pass"):
        own = [flag for flag in flags.get(one.get("server"), []) if flag not in shared]
        found.setdefault(" ".join(own) or "no more flags", []).append(one)
    return found


def _load_promises(results: Results) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for form in ("free", "schema"):
        for question, words in ((0, "new passages"), (1, "asked again")):
            how = {"form": form, "question": question, "fast": False, "proxy": False, "stream": False}
            ours, theirs = of(results, "pass", client="batch", **how), of(results, "pass", client="bench", **how)
            for what, name, wanted in (
                ("input tok/s", "input_tokens_per_second", ">= 0.98"),
                ("CPU s, sending", "cpu_sending", "<= 0.5"),
                ("CPU s, whole process", "cpu_whole", "<= 0.5"),
            ):
                first = _middle(ours, lambda one, n=name: one[n] or 0.0)  # type: ignore[misc]
                second = _middle(theirs, lambda one, n=name: one[n] or 0.0)  # type: ignore[misc]
                if first is not None:
                    rows.append((f"{form}, {words}: {what}", first, second, _ratio(first, second), wanted))
        gains = _gains(of(results, "pass", client="batch", form=form, fast=False, proxy=False, stream=False))
        if gains:
            rows.append((f"{form}: second pass sooner", [round(one, 2) for one in gains], "", median(gains), ">= 8"))
    return rows


def _gains(passes: Results) -> list[float]:
    """How much sooner each second pass was than the first before it over the same passages."""
    first: dict[int, float] = {}
    found = []
    for one in passes:  # in the order in which they were made: a later run in the same folder takes the seeds again
        if one["question"] == 0:
            first[one["seed"]] = one["seconds"]
        elif one["seed"] in first:
            found.append(first[one["seed"]] / one["seconds"])
    return found


def _boot_promises(results: Results) -> list[Sequence[object]]:
    bare = [one for one in of(results, "bare_boot") if one["label"].startswith("bare")]
    ups = [one for one in of(results, "up", fast=False) if one["status"] == 0]
    rows: list[Sequence[object]] = []
    alone, through = _middle(bare, lambda one: one["seconds"]), _middle(ups, lambda one: one["seconds"])
    if through:
        rows.append(("up beside the engine alone, s", through, alone, _ratio(through, alone), "< 1.02"))
        added = _middle([one for one in ups if "added" in one], lambda one: one["added"])
        rows.append(("what up adds before and after, s", added, through, _ratio(added, through), "< 3 s, < 0.02"))
    for label in ("fast", "fork", "spawn"):
        quick = [one for one in of(results, "up", fast=True, status=0) if one["label"].startswith(label)]
        if quick:
            seconds = _middle(quick, lambda one: one["seconds"])
            rows.append((f"up --fast-boot ({label}), s", seconds, through, _ratio(seconds, through), "about 0.5"))
    return rows


def _trouble(results: Results) -> str:
    rows = [
        (one["kind"], one["step"], one.get("error", f"{one.get('left')} s left")) for one in results if "step" in one
    ]
    return "## Left out or failed\n" + table(("what", "step", "why"), rows) if rows else ""


if __name__ == "__main__":
    print(report(read(Path(sys.argv[1]))))
