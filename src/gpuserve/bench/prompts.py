"""Prompts of a length in tokens, each of chance words: the engine's own count says how many words that takes.

No two prompts begin alike, so no cache of prefixes helps, unless they shall share a beginning.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Short common words: with the blank before it, each is one token in the usual tokenizers.
_WORDS = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head house
service friend father power hour game line end member law car city community name president team minute idea
body information
"""
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a prompt costs in tokens: so many for what stands around it, and so many a word."""

    around: float
    word: float

    def words(self, tokens: int) -> int:
        """How many words make a prompt of ``tokens``; at least one."""
        return max(1, round((tokens - self.around) / self.word))


def gauge(few: tuple[int, int], many: tuple[int, int]) -> Gauge:
    """The gauge through two pairs of words and tokens."""
    slope = (many[1] - few[1]) / (many[0] - few[0])
    return Gauge(few[1] - slope * few[0], slope) if slope > 0 else Gauge(0.0, 1.0)


class Prompts:
    """Prompts of ``words`` words; the first ``shared`` (share, 0 to 1) of them are the same in all."""

    def __init__(self, words: int, shared: float, chance: random.Random) -> None:
        self._chance = chance
        self._common = chance.choices(WORDS, k=round(words * shared))
        self._own = words - len(self._common)

    def __next__(self) -> str:
        return " ".join([*self._common, *self._chance.choices(WORDS, k=self._own)])
