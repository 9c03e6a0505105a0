"""How fast: the number of requests in flight, and the pauses before a question is asked again. Pure; no clock."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: The pause before the first repetition doubles from one to the next, up to the longest, in seconds; each is drawn
#: between half of that and all, so that what failed together doesn't come back together.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: A server that asks for a longer wait than this, in seconds, isn't given it.
LONGEST_WAIT = 300.0
#: What is kept of the limit when the server has too much, and by how much more a wider limit has to answer.
SHRINK, GAIN = 0.7, 1.05


class Limiter:
    """How many requests may be in flight.

    Adaptive (``fixed`` 0): it grows by one with each answer while a wider limit answers more in the same time, shrinks
    by a third when the server refuses or gives up, once for what was in flight together, and then grows slowly.
    """

    def __init__(self, *, start: int, most: int, fixed: int = 0) -> None:
        self._fixed = bool(fixed)
        self._most = fixed or most
        self._limit = float(fixed or min(start, most))
        self._growing = True
        self._round_began: float | None = None
        self._round_count = 0
        self._best = 0.0
        self._shrunk_at = float("-inf")

    @property
    def limit(self) -> int:
        """The most requests that may be in flight now."""
        return max(1, int(self._limit))

    def answered(self, now: float) -> None:
        """An answer came, at ``now`` in seconds of any clock."""
        if self._fixed:
            return
        if self._round_began is None:
            self._round_began = now
        self._round_count += 1
        if self._round_count > self.limit:
            self._judge_round(now)
        if self._limit < self._most:
            self._limit += 1.0 if self._growing else 1.0 / self._limit

    def _judge_round(self, now: float) -> None:
        """As many answers came as were in flight: growing fast goes on only if that was faster than before."""
        assert self._round_began is not None
        rate = self._round_count / max(now - self._round_began, 1e-6)
        if rate < self._best * GAIN:
            self._growing = False
        self._best = max(self._best, rate)
        self._round_began, self._round_count = now, 0

    def refused(self, sent: float, now: float) -> None:
        """The server had too much of a request that was sent at ``sent``."""
        self._growing = False
        if not self._fixed and sent > self._shrunk_at:
            self._limit = max(1.0, self._limit * SHRINK)
            self._shrunk_at = now


def pause(attempt: int, asked_for: float | None) -> float:
    """Seconds to wait before attempt number ``attempt`` + 1; ``asked_for`` is the server's Retry-After."""
    own = min(FIRST_PAUSE * 2.0 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    return max(own, min(asked_for or 0.0, LONGEST_WAIT))


def retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, be it a number or a date; None without a valid one."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment: datetime = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    left: float = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, left)
