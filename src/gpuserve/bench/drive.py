"""Puts a load on an endpoint until enough was measured.

Closed (``concurrency``): so many requests are in flight at all times, a new one as soon as one is answered. Open
(``rate``): requests come by chance as those of many people do, whether the server keeps up or not, and each is timed
from the moment at which it was due. Either load is full before the first measured request and stays so until the last
measured one is answered: warm-up and tail count for nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from gpuserve.bench.shooter import Shooter
from gpuserve.bench.stats import Shot, Window, percentile
from gpuserve.bench.wanted import Load

#: Seconds between two looks at how late the event loop is.
BEAT = 0.02
#: Requests of the warm-up, at least; in an open load, those of so many seconds too.
WARM, WARM_SECONDS = 3, 1.0
#: This side is the limit where it takes so much of one core, or is late by so much of the time to the first token.
BUSY, LATE, LATE_SECONDS = 0.85, 0.1, 0.010


@dataclass(frozen=True, slots=True)
class Client:
    """How this side did: its share of a core while measuring, and how late (p50, p99) it noticed what happened."""

    cpu_share: float
    lag: float
    worst_lag: float

    def limited(self, ttft: float | None) -> bool:
        """Whether the figures may say more of this machine than of the server; ``ttft`` is the median."""
        late = max(LATE_SECONDS, LATE * (ttft or 0.0))
        return self.cpu_share > BUSY or self.worst_lag > late


@dataclass(frozen=True, slots=True)
class Volley:
    """What one point's load made."""

    shots: list[Shot]
    window: Window
    client: Client
    grown: int
    """How many more requests were in flight at the window's end than at its begin."""


class Driver:
    """One point: ``requests`` measured ones, or those of ``duration`` seconds if that isn't 0.

    ``next_body`` makes a request, ``arrivals`` is the chance by which they come in an open load; ``tell`` gets how
    many measured ones are answered, after each.
    """

    def __init__(
        self,
        shooter: Shooter,
        load: Load,
        next_body: Callable[[], bytes],
        *,
        requests: int,
        duration: float,
        arrivals: random.Random,
        tell: Callable[[int], None],
    ) -> None:
        self._shooter, self._load, self._next_body = shooter, load, next_body
        self._requests, self._duration = requests, duration
        self._arrivals, self._tell = arrivals, tell
        self._warm = max(WARM, load.concurrency, int(load.rate * WARM_SECONDS))
        self._started = self._open = self._answered = self._in_flight = self._before = self._after = 0
        self._began: float | None = None
        self._ended: float | None = None
        self._cpu = 0.0
        self._cpu_share = 0.0
        self._shots: list[Shot] = []
        self._lags: list[float] = []

    async def run(self) -> Volley:
        """Runs it to its end."""
        self._over = asyncio.Event()
        beat = asyncio.create_task(self._beat())
        try:
            async with asyncio.TaskGroup() as self._group:
                count = self._load.concurrency
                works = [self._work() for _ in range(count)] if count else [self._arrive()]
                self._tasks: set[asyncio.Task[None]] = set()
                for work in works:
                    self._start(work)
                await self._over.wait()
                for task in list(self._tasks):
                    task.cancel()
        finally:
            beat.cancel()
        assert self._began is not None
        assert self._ended is not None
        lags = sorted(self._lags) or [0.0]
        client = Client(self._cpu_share, percentile(lags, 0.5), percentile(lags, 0.99))
        return Volley(self._shots, Window(self._began, self._ended), client, self._after - self._before)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while not self._over.is_set():
            body = self._next_body()
            now = time.perf_counter()
            await self._shoot(Shot(due=now, measured=self._take(now)), body)

    async def _arrive(self) -> None:
        due = time.perf_counter()
        while not self._over.is_set():
            due += self._arrivals.expovariate(self._load.rate)
            body = self._next_body()
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            shot = Shot(due=due, measured=self._take(due))
            self._start(self._shoot(shot, body))

    def _take(self, now: float) -> bool:
        """Whether the request that starts now is measured; opens and closes the window."""
        self._started += 1
        if self._started <= self._warm or self._ended is not None:
            return False
        if self._began is None:
            self._began, self._cpu, self._before = now, time.process_time(), self._in_flight
            self._lags.clear()
        over = now - self._began >= self._duration if self._duration else self._started > self._warm + self._requests
        if not over or now <= self._began:
            self._open += 1
            return True
        self._ended, self._after = now, self._in_flight
        self._cpu_share = (time.process_time() - self._cpu) / (now - self._began)
        if not self._open:
            self._over.set()
        return False

    async def _shoot(self, shot: Shot, body: bytes) -> None:
        self._in_flight += 1
        try:
            await self._shooter.shoot(shot, body)
        finally:
            self._in_flight -= 1
        shot.sent = shot.sent or shot.done
        self._shots.append(shot)
        if shot.error:
            await asyncio.sleep(BEAT)  # an endpoint that refuses at once isn't hammered
        if shot.measured:
            self._open -= 1
            self._answered += 1
            self._tell(self._answered)
            if not self._open and self._ended is not None:
                self._over.set()

    async def _beat(self) -> None:
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            if self._ended is None:
                self._lags.append(time.perf_counter() - due)
