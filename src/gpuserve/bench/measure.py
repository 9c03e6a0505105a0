"""The whole of a benchmark: the lengths gauged, each point measured, and what follows from them."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping
from typing import Any

import aiohttp

from gpuserve.bench.drive import Driver, Volley
from gpuserve.bench.events import Emit, Measured, Measuring, Said
from gpuserve.bench.prompts import Gauge, Prompts, gauge
from gpuserve.bench.shooter import Broken, Refused, Shooter
from gpuserve.bench.stats import Shot, figures, rounded
from gpuserve.bench.verdict import gains, verdict
from gpuserve.bench.wanted import Point, Wanted
from gpuserve.bulk.process import most_connections, rare_collection
from gpuserve.bulk.send import failure
from gpuserve.client.faults import fault_error, read_fault
from gpuserve.client.transport import request_headers
from gpuserve.errors import EngineError, GpuserveError, NetworkError, UsageError
from gpuserve.records import Endpoint

#: Seconds without a byte after which a request has failed.
TIMEOUT = 600.0
#: What has an engine write as many tokens as it may; ``...`` stands for their number.
HOLD: Mapping[str, object] = {"ignore_eos": True, "min_tokens": ...}
#: Words of the prompts by which lengths are gauged.
_FEW, _MANY = 16, 128
#: How far an answer may be from the length asked for, as a share of it.
_EXACT = 0.02
#: An endpoint doesn't keep up if so many times what chance explains, and such a share of all, was left unanswered.
CHANCE, BEHIND = 2.5, 0.1
#: Statuses by which a server refuses a field that it doesn't know.
_NOT_TAKEN = frozenset({400, 422})


def measure(endpoint: Endpoint, wanted: Wanted, *, price: float | None = None, emit: Emit) -> dict[str, Any]:
    """Measures every point of ``wanted`` at ``endpoint``, one after the other; ``price`` is for an hour of it.

    Returns the fields ``settings``, ``points``, ``gains``, ``notes`` and ``verdict`` of ``gpuserve bench --json``.

    Raises:
        NotAuthenticated, NotFound, NetworkError: the endpoint can't be asked.
        EngineError: it answers with an error, not at all at one of the points, or doesn't tell its tokens.
    """
    most = max((point.load.concurrency for point in wanted.points), default=1)
    if most_connections(max(most, 1024)) < most:
        raise UsageError(f"this machine doesn't allow {most} connections", hint="raise ulimit -n")
    with rare_collection():
        try:
            return asyncio.run(_Bench(endpoint, wanted, price, emit).all())
        except BaseExceptionGroup as group:
            raise _first(group) from group


class _Bench:
    def __init__(self, endpoint: Endpoint, wanted: Wanted, price: float | None, emit: Emit) -> None:
        self._endpoint, self._wanted, self._price, self._emit = endpoint, wanted, price, emit
        # Another seed in each run: what an earlier run asked may still be in the cache.
        self._chance = random.Random(secrets.randbits(64))  # noqa: S311  # no secret
        self._notes: list[str] = []

    async def all(self) -> dict[str, Any]:
        endpoint, points = self._endpoint, []
        headers = request_headers(endpoint)
        async with Shooter(endpoint.url, endpoint.served_model, headers, TIMEOUT) as self._shooter:
            gauges = await self._gauges()
            for number, point in enumerate(self._wanted.points, 1):
                volley = await self._volley(point, gauges[point.prompt], number)
                found = self._figures(point, volley)
                points.append(found)
                self._emit(Measured(point, found))
        return {
            "settings": {**self._wanted.as_dict(), "outputs_held": bool(self._shooter.extra)},
            "points": points,
            "gains": gains(points),
            "notes": self._notes,
            "verdict": verdict(points, self._wanted.slo),
        }

    async def _gauges(self) -> dict[int, Gauge]:
        """How many words make a prompt, by its tokens. The first request also tells what the endpoint takes."""
        self._shooter.extra = HOLD
        try:
            few = await self._tokens(_FEW)
        except Refused as error:
            if error.status not in _NOT_TAKEN:
                raise self._fault(error) from error
            self._shooter.extra = {}
            self._note("the endpoint doesn't take ignore_eos: answers are as long as the model likes")
            few = await self._told(_FEW)
        rough = gauge((_FEW, few), (_MANY, await self._told(_MANY)))
        found = {}
        for prompt in self._wanted.prompts:
            words = max(rough.words(prompt), 2 * _FEW)
            found[prompt] = gauge((_FEW, few), (words, await self._told(words)))
            if prompt < few:
                self._note(f"a prompt of {prompt} tokens can't be made: {few - _FEW} or so stand around it")
        return found

    async def _told(self, words: int) -> int:
        try:
            return await self._tokens(words)
        except Refused as error:
            raise self._fault(error) from error

    async def _tokens(self, words: int) -> int:
        """How many tokens the engine counts in a prompt of ``words`` words."""
        shot = Shot()
        try:
            await self._shooter.exact(shot, self._shooter.body(next(Prompts(words, 0.0, self._chance)), 1))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = failure(error, TIMEOUT).message
            raise NetworkError(f"the endpoint doesn't answer: {message}", hint="gpuserve status") from error
        except Broken as error:
            raise EngineError(f"the endpoint's answer is no streamed one: {error}") from error
        return shot.prompt

    def _fault(self, error: Refused) -> GpuserveError:
        return fault_error(read_fault(error.status, error.body), self._endpoint)

    async def _volley(self, point: Point, held: Gauge, number: int) -> Volley:
        wanted, points = self._wanted, len(self._wanted.points)
        requests = 0 if wanted.duration else wanted.number(point.load)
        prompts = Prompts(held.words(point.prompt), point.shared, self._chance)
        self._emit(Measuring(point, number, points, 0, requests))
        driver = Driver(
            self._shooter,
            point.load,
            lambda: self._shooter.body(next(prompts), point.output),
            requests=requests,
            duration=wanted.duration,
            arrivals=random.Random(point.load.rate),  # noqa: S311  # the same in each run: they are to be compared
            tell=lambda answered: self._emit(Measuring(point, number, points, answered, requests)),
        )
        return await driver.run()

    def _figures(self, point: Point, volley: Volley) -> dict[str, Any]:
        found = figures(volley.shots, volley.window, self._wanted.slo)
        errors = [shot.error for shot in volley.shots if shot.measured and shot.error]
        if len(errors) == found["requests"]:
            raise EngineError(f"at {point.load.words} every request failed: {errors[0]}", hint="gpuserve logs")
        if errors:
            self._note(f"at {point.load.words} {len(errors)} of {found['requests']} requests failed: {errors[0]}")
        mean = found["output_tokens"]["mean"]
        if abs(mean - point.output) > _EXACT * point.output:
            self._note(f"answers of {point.output} tokens were asked for; at {point.load.words} they had {mean:g}")
        client = volley.client
        return {
            "load": {"concurrency": point.load.concurrency or None, "rate": point.load.rate or None},
            "asked": {"prompt_tokens": point.prompt, "output_tokens": point.output, "shared_prefix": point.shared},
            **found,
            **self._cost(found),
            "kept_up": kept_up(volley, found) if point.load.rate else None,
            "client": {
                "cpu_share": rounded(client.cpu_share),
                "lag": {"p50": rounded(client.lag), "p99": rounded(client.worst_lag)},
                "limited": client.limited(found["ttft"]["p50"]),
            },
        }

    def _cost(self, found: Mapping[str, Any]) -> dict[str, float | None]:
        """For a million tokens, in the currency of the price."""
        output = found["output_tokens_per_second"]
        both = output + found["input_tokens_per_second"]
        price = self._price
        return {
            "cost_per_million_output_tokens": None
            if price is None or not output
            else rounded(price / 3600 / output * 1e6),
            "cost_per_million_tokens": None if price is None or not both else rounded(price / 3600 / both * 1e6),
        }

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self._emit(Said(text))


def kept_up(volley: Volley, found: Mapping[str, Any]) -> bool:
    """Whether the endpoint answered as fast as requests came.

    Of N that came, N are answered in the same time but for chance, which is about the root of N where answers come by
    chance as well, and less where few are in flight.
    """
    requests = float(found["requests"])
    chance = min(requests, 2.0 * max(1.0, float(found["in_flight"]))) ** 0.5
    return bool(volley.grown <= max(CHANCE * chance, BEHIND * requests))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended it: the others only followed."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
