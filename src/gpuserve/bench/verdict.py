"""What follows from the figures: one sentence or two, the gain of shared prefixes, and one run beside another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpuserve.errors import UsageError

#: The share of requests that must keep the limits for a load to be called bearable.
BEARABLE = 0.9
#: Standard errors by which two means must differ to be told apart.
APART = 2.0
#: What runs are compared by: the field, its name, and whether more is better.
COMPARED = (
    ("output_tokens_per_second", "", True),
    ("input_tokens_per_second", "", True),
    ("requests_per_second", "", True),
    *((name, part, False) for name in ("ttft", "itl", "latency") for part in ("p50", "p99")),
    ("goodput", "requests_per_second", True),
    ("cost_per_million_output_tokens", "", False),
)
Figures = Mapping[str, Any]


def load_words(point: Figures) -> str:
    """A point's load for a person."""
    load = point["load"]
    return f"{load['rate']:g}/s" if load["rate"] else f"{load['concurrency']} in flight"


def point_words(point: Figures) -> str:
    """Load and lengths of a point for a person."""
    asked = point["asked"]
    shared = f", {asked['shared_prefix']:.0%} shared" if asked["shared_prefix"] else ""
    return f"{load_words(point)}, {asked['prompt_tokens']} + {asked['output_tokens']} tokens{shared}"


def verdict(points: Sequence[Figures], slo: Mapping[str, float]) -> str:
    """What the points say, in sentences."""
    said = [_goodput(points, slo) if slo else _throughput(points)]
    behind = [load_words(point) for point in points if point["kept_up"] is False]
    if behind:
        said.append(
            f"The endpoint doesn't keep up with {', '.join(behind)}: latencies there only tell how long it ran."
        )
    limited = sum(point["client"]["limited"] for point in points)
    if limited:
        which = "At all points" if limited == len(points) else f"At {limited} of {len(points)} points"
        said.append(f"{which} this machine may have been the limit, not the endpoint.")
    return " ".join(said)


def _throughput(points: Sequence[Figures]) -> str:
    best = max(points, key=lambda point: float(point["output_tokens_per_second"]))
    return (
        f"Most output: {best['output_tokens_per_second']:.4g} tokens/s with {point_words(best)}; first token after "
        f"{seconds(best['ttft']['p50'])}, {seconds(best['itl']['p50'])} from token to token (medians)."
    )


def _goodput(points: Sequence[Figures], slo: Mapping[str, float]) -> str:
    limits = ", ".join(f"{name} {seconds(limit)}" for name, limit in slo.items())
    best = max(points, key=lambda point: float(point["goodput"]["requests_per_second"]))
    if not best["goodput"]["share"]:
        return f"No request at any point kept {limits}."
    told = (
        f"Best goodput: {best['goodput']['requests_per_second']:.4g} requests/s with {point_words(best)}, where "
        f"{best['goodput']['share']:.0%} of the requests keep {limits}."
    )
    if best["goodput"]["share"] >= BEARABLE:
        return told
    good = [point for point in points if point["goodput"]["share"] >= BEARABLE]
    if not good:
        return f"{told} At no point did {BEARABLE:.0%} keep them."
    most = max(good, key=lambda point: float(point["goodput"]["requests_per_second"]))
    rate = most["goodput"]["requests_per_second"]
    return f"{told} {BEARABLE:.0%} keep them up to {rate:.4g} requests/s with {point_words(most)}."


def seconds(value: float | None) -> str:
    """A time for a person."""
    if value is None:
        return "-"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def gains(points: Sequence[Figures]) -> list[dict[str, Any]]:
    """What a shared beginning of the prompts saves, at each point that was measured with and without it."""
    found = []
    for warm in points:
        share = warm["asked"]["shared_prefix"]
        cold = next((one for one in points if share and _key(one) == (*_key(warm)[:-1], 0.0)), None)
        if cold is not None:
            found.append(
                {
                    "load": warm["load"],
                    "asked": warm["asked"],
                    "cached_share": warm["cached_share"],
                    "ttft_times_sooner": _ratio(cold["ttft"]["p50"], warm["ttft"]["p50"]),
                    "output_times_more": _ratio(warm["output_tokens_per_second"], cold["output_tokens_per_second"]),
                }
            )
    return found


def _key(point: Figures) -> tuple[object, ...]:
    load, asked = point["load"], point["asked"]
    return load["concurrency"], load["rate"], asked["prompt_tokens"], asked["output_tokens"], asked["shared_prefix"]


def _ratio(value: float | None, other: float | None) -> float | None:
    return float(f"{value / other:.4g}") if value is not None and other else None


def compare(first: Figures, second: Figures) -> list[dict[str, Any]]:
    """Each point that both runs have, by each figure: both values, their ratio, and which is better.

    ``better`` is "first", "second" or, where two medians may differ by chance, "": see ``APART``.

    Raises:
        UsageError: they have no point in common.
    """
    others = {_key(point): point for point in second["points"]}
    found = []
    for point in first["points"]:
        other = others.get(_key(point))
        if other is not None:
            rows = [_row(point, other, *figure) for figure in COMPARED]
            figures = [row for row in rows if row is not None]
            found.append({"load": point["load"], "asked": point["asked"], "figures": figures})
    if not found:
        raise UsageError("the two runs have no load and lengths in common", hint="measure both with the same options")
    return found


def _row(point: Figures, other: Figures, name: str, part: str, more: bool) -> dict[str, Any] | None:
    values = [_value(one, name, part) for one in (point, other)]
    if values[0] is None or values[1] is None:
        return None
    ratio = _ratio(values[1], values[0])
    better = "" if values[0] == values[1] else ("second" if (values[1] > values[0]) == more else "first")
    if isinstance(point[name], Mapping) and "sd" in point[name] and not _apart(point, other, name):
        better = ""
    return {
        "figure": f"{name}.{part}" if part else name,
        "first": values[0],
        "second": values[1],
        "ratio": ratio,
        "better": better,
    }


def _value(point: Figures, name: str, part: str) -> float | None:
    value = point.get(name)
    value = value.get(part) if part and isinstance(value, Mapping) else value
    return float(value) if isinstance(value, (int, float)) else None


def _apart(point: Figures, other: Figures, name: str) -> bool:
    """Whether the means differ by more than ``APART`` standard errors: roughly, since requests aren't independent."""
    one, two = point[name], other[name]
    error = math.hypot(
        *(each[name]["sd"] / max(each["requests"] - each["failed"], 1) ** 0.5 for each in (point, other))
    )
    return abs(float(one["mean"]) - float(two["mean"])) > APART * error
