"""``cache-check``: whether the prefix cache of a deployment works, and what it saves."""

from __future__ import annotations

from collections.abc import Callable

from gpuserve.client.cacheprobe import CacheReport, Pair, measure
from gpuserve.errors import EngineError, UsageError
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.reach import reach_fresh

#: The most that is asked: a measurement, not a load test.
MOST_PAIRS = 50
MOST_TOKENS = 200_000


def cache_check(
    context: Context, wanted: str | None, *, pairs: int, tokens: int, emit: Callable[[Pair], None]
) -> tuple[Deployment, CacheReport]:
    """Measures the deployment that ``wanted`` means; hands over each pair as it is measured.

    Raises:
        UsageError: ``pairs`` or ``tokens`` (of a prompt, about) out of range.
        NotFound, Conflict: no deployment, or several.
        EngineError, NetworkError, NotAuthenticated, TimedOut: as ``client.chat.ask``.
    """
    if not 1 <= pairs <= MOST_PAIRS:
        raise UsageError(f"{pairs} pairs are out of range", hint=f"use 1 to {MOST_PAIRS}")
    if not 16 <= tokens <= MOST_TOKENS:
        raise UsageError(f"a prompt of {tokens} tokens is out of range", hint=f"use 16 to {MOST_TOKENS}")
    deployment, endpoint = reach_fresh(context, wanted)
    try:
        return deployment, measure(endpoint, pairs=pairs, tokens=tokens, emit=emit)
    except EngineError as error:
        if error.hint.startswith("shorten the prompt"):
            raise EngineError(error.message, hint="use a shorter prompt: --tokens 300") from error
        raise
