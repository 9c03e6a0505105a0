"""Reads the load of an engine from its Prometheus route.

The reader is our own because the three numbers need one expression, while ``prometheus_client``'s parser rejects a
whole page for one odd line and is a dependency more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gpuserve.client.transport import UNSEEN, open_client, request_headers
from gpuserve.records import Endpoint

# name{label="value",...} value; a label's value may hold anything, with \" for a quote
_SAMPLE = re.compile(r'([A-Za-z_:][\w:]*)(?:\{(?:[^"{}]|"(?:[^"\\]|\\.)*")*\})?[ \t]+(\S+)', re.ASCII)

# vLLM, SGLang and llama.cpp call it so, each with its own name before the colon.
_TOKENS = ":prompt_tokens_total"


class LoadNames(Protocol):
    """Which metrics mean what; ``kv_usage`` is "" where the engine has none (``engines.base.MetricNames`` fits)."""

    @property
    def running(self) -> str: ...
    @property
    def waiting(self) -> str: ...
    @property
    def kv_usage(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in work and in the queue, and the share (0 to 1) of the KV cache in use; None where it isn't told.

    ``cache_hit_rate`` is the share (0 to 1) of prompt tokens that were found in the prefix cache, as the engine counts.
    ``tokens`` counts the prompts' tokens since the engine started: a look at health or metrics doesn't raise it.
    """

    running: int
    waiting: int
    kv_usage: float | None = None
    cache_hit_rate: float | None = field(default=None, compare=False)
    tokens: int | None = field(default=None, compare=False)


def samples(text: str) -> dict[str, list[float]]:
    """The finite values in ``text`` by metric name, one per set of labels; every other line is left out."""
    found: dict[str, list[float]] = {}
    for line in text.split("\n"):  # a label may hold other line ends
        if sample := _SAMPLE.match(line):
            value = _number(sample[2])
            if math.isfinite(value):
                found.setdefault(sample[1], []).append(value)
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def load_from(text: str, names: LoadNames) -> Load | None:
    """The load that a page of metrics tells; None if it doesn't tell the requests.

    Requests are summed over label sets (an engine with several workers counts each), the KV share is averaged.
    """
    found = samples(text)
    if names.running not in found or names.waiting not in found:
        return None
    shares = found.get(names.kv_usage)
    counters = [sum(values) for name, values in found.items() if name.endswith(_TOKENS)]
    return Load(
        running=round(sum(found[names.running])),
        waiting=round(sum(found[names.waiting])),
        kv_usage=sum(shares) / len(shares) if shares else None,
        cache_hit_rate=_hit_rate(found),
        tokens=round(sum(counters)) if counters else None,
    )


def _hit_rate(found: Mapping[str, list[float]]) -> float | None:
    """SGLang tells the rate, vLLM what it is made of; llama.cpp says nothing."""
    if told := found.get("sglang:cache_hit_rate"):
        return sum(told) / len(told)
    asked = sum(found.get("vllm:prefix_cache_queries_total", ()))
    return sum(found.get("vllm:prefix_cache_hits_total", ())) / asked if asked else None


def read_load(endpoint: Endpoint, path: str, names: LoadNames, *, timeout: float = 3.0) -> Load | None:
    """The engine's load now; None if its metrics can't be read within ``timeout`` seconds of silence.

    Load is a figure to show beside others: that it is missing is no error. Looking doesn't count as activity.

    Raises:
        UsageError: a credential of ``endpoint`` holds what no HTTP header can.
    """
    import httpx

    headers = request_headers(endpoint) | UNSEEN
    try:
        with open_client(endpoint.url, silence=timeout, connect=timeout) as client:
            response = client.get(endpoint.url + path, headers=headers)
    except (httpx.RequestError, httpx.InvalidURL):
        return None
    return load_from(response.text, names) if response.status_code == 200 else None
