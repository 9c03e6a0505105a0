"""Measures an engine's prefix cache from outside: the same long prompt twice, the first time never seen before."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from gpuserve.client.chat import ChatRequest, ask
from gpuserve.client.reply import ChatReply
from gpuserve.records import Endpoint

#: The guides' sentence, about 16 tokens long in every tokenizer that was looked at; they repeat it 60 times.
SENTENCE = "The Daytona platform provides isolated sandboxes for AI agents to safely execute code. "
SENTENCE_TOKENS = 16
QUESTION = "Summarize the above in one sentence."
#: A share of the prompt: less of it in the cache is the template's own beginning, more is a hit.
HIT = 0.5
#: How many times sooner the first token must come for a cache to be believed that reports no tokens.
SOONER = 1.5


@dataclass(frozen=True, slots=True)
class Shot:
    """One request: seconds to the first token (of the whole answer, where none was seen) and in all, and tokens."""

    ttft: float
    total: float
    prompt_tokens: int | None
    cached_tokens: int | None

    @property
    def share(self) -> float | None:
        """How much of the prompt was in the cache; None where the engine doesn't tell."""
        if self.cached_tokens is None or not self.prompt_tokens:
            return None
        return self.cached_tokens / self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt asked twice."""

    cold: Shot
    warm: Shot


@dataclass(frozen=True, slots=True)
class CacheReport:
    """All pairs, and what follows from them. ``works`` is None where that can't be told.

    ``speedup`` is the median over the pairs of cold TTFT over warm TTFT.
    """

    pairs: tuple[Pair, ...]
    works: bool | None
    speedup: float
    verdict: str


def measure(
    endpoint: Endpoint, *, pairs: int, tokens: int, emit: Callable[[Pair], None], max_tokens: int = 32
) -> CacheReport:
    """Asks ``pairs`` prompts of about ``tokens`` tokens, each twice, after one short question that isn't counted.

    Every prompt begins with a number of its own, drawn by chance, so that its first time is truly cold.

    Raises:
        as ``client.chat.ask``.
    """
    _shoot(endpoint, f"{_unique()}Say yes.", 1)
    found = []
    for _ in range(pairs):
        prompt = _unique() + SENTENCE * max(1, round(tokens / SENTENCE_TOKENS)) + QUESTION
        pair = Pair(_shoot(endpoint, prompt, max_tokens), _shoot(endpoint, prompt, max_tokens))
        found.append(pair)
        emit(pair)
    return judge(found)


def _unique() -> str:
    return f"Document {secrets.randbelow(10**12):012d}. "


def _shoot(endpoint: Endpoint, prompt: str, max_tokens: int) -> Shot:
    reply = ask(endpoint, ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=0.0))
    return shot(reply)


def shot(reply: ChatReply) -> Shot:
    """What one reply measured. An engine that leaves the cached tokens out tells them with others: see ``judge``."""
    usage, timing = reply.usage, reply.timing
    return Shot(
        ttft=timing.total if timing.ttft is None else timing.ttft,
        total=timing.total,
        prompt_tokens=usage.prompt_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
    )


def judge(pairs: Sequence[Pair]) -> CacheReport:
    """What the pairs say. Where warm requests tell cached tokens and cold ones don't, the cold had none: so do vLLM and
    SGLang say it.
    """
    if any(pair.warm.cached_tokens is not None for pair in pairs):
        pairs = [Pair(_told(pair.cold), _told(pair.warm)) for pair in pairs]
    speedup = median(pair.cold.ttft / pair.warm.ttft if pair.warm.ttft > 0 else 1.0 for pair in pairs)
    times = (
        f"the first token came after {median(pair.warm.ttft for pair in pairs):.3f} s instead of"
        f" {median(pair.cold.ttft for pair in pairs):.3f} s, {_factor(speedup)}"
    )
    works, told = _tokens_say(pairs)
    if not told:
        works = True if speedup >= SOONER else None
        told = _by_time(works)
    of = f" (medians of {len(pairs)} pairs)" if len(pairs) > 1 else ""
    return CacheReport(tuple(pairs), works, speedup, f"{told}; {times}{of}.")


def _told(one: Shot) -> Shot:
    return one if one.cached_tokens is not None else Shot(one.ttft, one.total, one.prompt_tokens, 0)


def _tokens_say(pairs: Sequence[Pair]) -> tuple[bool | None, str]:
    """Whether the counts of tokens prove the cache, in words too; no words where there are no counts."""
    cold = [pair.cold.share for pair in pairs if pair.cold.share is not None]
    warm = [pair.warm.share for pair in pairs if pair.warm.share is not None]
    if not cold or not warm:
        return None, ""
    cached = round(median(pair.warm.cached_tokens or 0 for pair in pairs))
    prompt = round(median(pair.warm.prompt_tokens or 0 for pair in pairs))
    if median(cold) > HIT:
        return None, "Whether the prefix cache works can't be told: new prompts were in it already"
    if median(warm) > HIT:
        return True, f"The prefix cache works: {cached} of {prompt} prompt tokens came from it the second time"
    return False, f"The prefix cache does not work for this model: {cached} of {prompt} prompt tokens came from it"


def _by_time(works: bool | None) -> str:
    if works:
        return "The prefix cache seems to work, though the engine tells no cached tokens"
    return "Whether the prefix cache works can't be told: the engine tells no cached tokens"


def _factor(speedup: float) -> str:
    return f"{speedup:.1f} times sooner" if speedup >= 1.1 else "no sooner"
