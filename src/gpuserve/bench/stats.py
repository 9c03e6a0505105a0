"""From single requests to the figures of a point. Pure: moments come from one clock, in seconds."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(slots=True)
class Shot:
    """One request. ``due`` is when it should have been sent, ``sent`` when it was, ``done`` when its answer was whole.

    ``times`` are the moments at which pieces with tokens came; ``error`` is "" for a whole answer. ``measured``: its
    latencies count; those of the warm-up and of the load after the last measured one don't.
    """

    due: float = 0.0
    measured: bool = False
    sent: float = 0.0
    done: float = 0.0
    times: array[float] = field(default_factory=lambda: array("d"))
    prompt: int = 0
    completion: int = 0
    cached: int | None = None
    error: str = ""

    @property
    def ttft(self) -> float | None:
        """Seconds to the first token; None if none came."""
        return self.times[0] - self.due if self.times else None

    @property
    def itl(self) -> float | None:
        """Mean seconds from token to token after the first; None with fewer than two."""
        if self.completion < 2 or len(self.times) < 2:
            return None
        return (self.times[-1] - self.times[0]) / (self.completion - 1)

    @property
    def stall(self) -> float | None:
        """The longest pause between two pieces."""
        pauses = (late - early for early, late in pairwise(self.times))
        return max(pauses, default=None)

    @property
    def latency(self) -> float:
        """Seconds to the whole answer."""
        return self.done - self.due


@dataclass(frozen=True, slots=True)
class Window:
    """The time over which rates are taken: the load was full from its begin to its end."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began

    def holds(self, moment: float) -> bool:
        """Whether ``moment`` is in it."""
        return self.began <= moment < self.ended

    def share(self, times: Sequence[float]) -> float:
        """The share of ``times``, which are in order, that is in it."""
        if not times:
            return 0.0
        return (bisect_left(times, self.ended) - bisect_left(times, self.began)) / len(times)

    def overlap(self, start: float, end: float) -> float:
        """Seconds that the time from ``start`` to ``end`` has in common with it."""
        return max(0.0, min(end, self.ended) - max(start, self.began))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``ordered`` lies, linear between neighbours, as NumPy has it."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Percentiles, mean and standard deviation of those that aren't None, in seconds."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return dict.fromkeys(("p50", "p90", "p99", "mean", "sd"))
    mean = math.fsum(known) / len(known)
    variance = math.fsum((value - mean) ** 2 for value in known) / max(len(known) - 1, 1)
    found = {name: percentile(known, share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return {name: rounded(value) for name, value in {**found, "mean": mean, "sd": math.sqrt(variance)}.items()}


def rounded(value: float) -> float:
    """Five digits: more than a measurement has."""
    return float(f"{value:.5g}")


def keeps(shot: Shot, slo: Mapping[str, float]) -> bool:
    """Whether an answer kept every limit. One token alone has no time between tokens to be too long."""
    if shot.error or shot.ttft is None:
        return False
    told = {"ttft": shot.ttft, "itl": shot.itl or 0.0, "e2e": shot.latency}
    return all(told[name] <= limit for name, limit in slo.items())


def figures(shots: Sequence[Shot], window: Window, slo: Mapping[str, float]) -> dict[str, Any]:
    """What ``shots`` amount to.

    Rates count what came in ``window``, whoever asked for it; latencies are of the measured requests that succeeded.
    """
    measured = [shot for shot in shots if shot.measured]
    good = [shot for shot in measured if not shot.error]
    whole = [shot for shot in shots if not shot.error]
    finished = sum(window.holds(shot.done) for shot in whole)
    ended = sum(window.holds(shot.done) for shot in shots)
    per_second = 1.0 / window.seconds if window.seconds > 0 else 0.0
    taken = sum(shot.prompt for shot in whole if shot.times and window.holds(shot.times[0]))
    made = math.fsum(shot.completion * window.share(shot.times) for shot in whole)
    kept = sum(keeps(shot, slo) for shot in measured) / len(measured) if measured else 0.0
    return {
        "requests": len(measured),
        "failed": len(measured) - len(good),
        "seconds": rounded(window.seconds),
        "in_flight": rounded(math.fsum(window.overlap(shot.due, shot.done) for shot in shots) * per_second),
        "requests_per_second": rounded(finished * per_second),
        "input_tokens_per_second": rounded(taken * per_second),
        "output_tokens_per_second": rounded(made * per_second),
        "prompt_tokens": lengths([shot.prompt for shot in good]),
        "output_tokens": lengths([shot.completion for shot in good]),
        "cached_share": _cached(good),
        "ttft": spread([shot.ttft for shot in good]),
        "itl": spread([shot.itl for shot in good]),
        "stall": spread([shot.stall for shot in good]),
        "latency": spread([shot.latency for shot in good]),
        "queueing": spread([shot.sent - shot.due for shot in good]),
        "goodput": {"requests_per_second": rounded(kept * ended * per_second), "share": rounded(kept)} if slo else None,
    }


def lengths(tokens: Sequence[int]) -> dict[str, float] | None:
    """Least, mean and most; None of none."""
    if not tokens:
        return None
    return {"least": min(tokens), "mean": rounded(sum(tokens) / len(tokens)), "most": max(tokens)}


def _cached(shots: Sequence[Shot]) -> float | None:
    """The share of the prompts' tokens that came from the cache. Engines leave the count out where it is 0."""
    prompt = sum(shot.prompt for shot in shots)
    if not prompt or all(shot.cached is None for shot in shots):
        return None
    return rounded(sum(shot.cached or 0 for shot in shots) / prompt)
