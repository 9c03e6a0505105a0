"""What a run counts, in constant memory: requests, tokens, and how long things took."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

_STEP = 1.02  # one bucket to the next: percentiles are right to 1 %
_SHORTEST = 1e-5
_BUCKETS = 1200  # up to 2e5 seconds


class Times:
    """Durations in seconds, kept as a histogram."""

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * _BUCKETS))
        self._total = 0
        self._scale = 1.0 / math.log(_STEP)

    def add(self, seconds: float) -> None:
        """Takes one."""
        place = int(math.log(max(seconds, _SHORTEST) / _SHORTEST) * self._scale)
        self._counts[min(place, _BUCKETS - 1)] += 1
        self._total += 1

    def at(self, share: float) -> float | None:
        """The duration that ``share`` (0 to 1) of all don't exceed, to 1 %; None of none."""
        if not self._total:
            return None
        wanted = max(1, math.ceil(share * self._total))
        place = next(place for place, seen in enumerate(accumulate(self._counts)) if seen >= wanted)
        return float(f"{_SHORTEST * _STEP ** (place + 0.5):.3g}")

    def as_dict(self) -> dict[str, float | None]:
        """The usual percentiles."""
        return {"p50": self.at(0.5), "p90": self.at(0.9), "p99": self.at(0.99)}


@dataclass(slots=True)
class Tally:
    """The counts of one run. Rows are of the whole batch, everything else is of this run only."""

    rows: int = 0
    before: int = 0
    before_failed: int = 0
    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    retries: int = 0
    cut_short: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int | None = None
    whole: Times = field(default_factory=Times)
    queued: Times = field(default_factory=Times)
    served: Times = field(default_factory=Times)
    lag: Times = field(default_factory=Times)
    clock: Callable[[], float] = time.perf_counter
    began: float = 0.0
    ended: float | None = None
    cpu_began: float = 0.0

    def start(self) -> None:
        """The first request is about to be sent."""
        self.began, self.cpu_began = self.clock(), time.process_time()

    def stop(self) -> None:
        """The last answer has come."""
        self.ended = self.clock()

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return (self.clock() if self.ended is None else self.ended) - self.began if self.began else 0.0

    @property
    def left(self) -> int:
        """Rows that have no answer yet."""
        return self.rows - self.before - self.answered - self.failed

    def count_usage(self, usage: object) -> None:
        """Adds an answer's ``usage``, as the OpenAI API writes it; /v1/responses has other names for the same."""
        if not isinstance(usage, Mapping):
            return
        self.prompt += _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        self.completion += _count(usage.get("completion_tokens", usage.get("output_tokens")))
        details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
        if isinstance(details, Mapping) and isinstance(details.get("cached_tokens"), int):
            self.cached = (self.cached or 0) + _count(details["cached_tokens"])

    def summary(self) -> dict[str, Any]:
        """All of it for ``--json``; times in seconds, rates by the second unless named otherwise."""
        seconds = self.seconds
        rate = 1.0 / seconds if seconds > 0 else 0.0
        return {
            "rows": self.rows,
            "requests": self.answered + self.failed,
            "answered": self.answered,
            "failed": self.failed,
            "answered_before": self.before - self.before_failed,
            "failed_before": self.before_failed,
            "left": self.left,
            "retries": self.retries,
            "cut_short": self.cut_short,
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "cached_tokens": self.cached,
            "seconds": round(seconds, 3),
            "requests_per_second": _rounded((self.answered + self.failed) * rate),
            "prompt_tokens_per_second": _rounded(self.prompt * rate),
            "completion_tokens_per_second": _rounded(self.completion * rate),
            "prompt_tokens_per_hour": round(self.prompt * rate * 3600),
            "completion_tokens_per_hour": round(self.completion * rate * 3600),
            "latency": self.whole.as_dict(),
            "server": self.served.as_dict(),
            "queueing": self.queued.as_dict(),
            "client_lag": self.lag.as_dict(),
            "client_cpu_seconds": round(time.process_time() - self.cpu_began, 3) if self.began else 0.0,
            "concurrency": self.most_in_flight,
        }


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def was_cut_short(content: Mapping[str, Any]) -> bool:
    """Whether the most tokens that were allowed ended the answer."""
    choices = content.get("choices")
    if content.get("status") == "incomplete":  # as /v1/responses says it
        return True
    return isinstance(choices, list) and any(
        isinstance(one, dict) and one.get("finish_reason") == "length" for one in choices
    )
