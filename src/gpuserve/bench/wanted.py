"""What is to be measured: loads, lengths, and the limits that an answer must keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuserve.errors import UsageError

#: The longest list of one kind, the most requests in flight and a second, and the most tokens of a prompt or answer.
MOST_POINTS, MOST_IN_FLIGHT, MOST_RATE, MOST_TOKENS = 64, 16384, 10_000.0, 1_000_000
#: Requests that a point measures where nothing else is said: so many for each in flight, and at least so many.
TURNS, FEWEST = 4, 32
#: What a limit can be on, and the field of a point that tells it.
LIMITS = {"ttft": "ttft", "itl": "itl", "e2e": "latency"}
_UNITS = {"ms": 0.001, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Load:
    """Either ``concurrency`` requests in flight at all times, or ``rate`` arrivals a second by chance (Poisson)."""

    concurrency: int = 0
    rate: float = 0.0

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.rate:g}/s" if self.rate else f"{self.concurrency} in flight"


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement. ``prompt`` and ``output`` in tokens; ``shared`` is the share of a prompt that all begin with."""

    load: Load
    prompt: int
    output: int
    shared: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A whole benchmark. ``slo`` has limits in seconds by the names of ``LIMITS``; ``duration`` is in seconds, 0: none.

    ``requests`` 0 means ``TURNS`` for each in flight.

    Raises:
        UsageError: a value out of range.
    """

    loads: tuple[Load, ...]
    prompts: tuple[int, ...] = (512,)
    outputs: tuple[int, ...] = (128,)
    shared: float = 0.0
    requests: int = 0
    duration: float = 0.0
    slo: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.loads:
            raise UsageError("no load is given", hint="for example --concurrency 1,8,64")
        if not 0.0 <= self.shared < 1.0:
            raise UsageError("the shared share of a prompt is from 0 to 1", hint="for example --shared-prefix 0.8")

    @property
    def points(self) -> list[Point]:
        """Every measurement, in order; where prompts shall share a beginning, each is made without that first."""
        shares = (0.0, self.shared) if self.shared else (0.0,)
        return [
            Point(load, prompt, output, share)
            for prompt in self.prompts
            for output in self.outputs
            for load in self.loads
            for share in shares
        ]

    def number(self, load: Load) -> int:
        """How many requests a point measures at ``load``, where the time doesn't say."""
        return self.requests or max(FEWEST, TURNS * load.concurrency)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "requests": self.requests or None,
            "duration": self.duration or None,
            "slo": dict(self.slo) or None,
        }


def loads(concurrency: str, rate: str) -> tuple[Load, ...]:
    """The loads in ``1,8,64`` and in ``0.5,2``; both may be given.

    Raises:
        UsageError: no such numbers.
    """
    closed = [Load(concurrency=one) for one in whole_numbers("--concurrency", concurrency, MOST_IN_FLIGHT)]
    return (*closed, *(Load(rate=one) for one in _numbers("--rate", rate, MOST_RATE)))


def whole_numbers(option: str, text: str, most: int) -> tuple[int, ...]:
    """The numbers from 1 to ``most`` in ``1,8,64``.

    Raises:
        UsageError: something else.
    """
    found = _numbers(option, text, float(most))
    if any(one != int(one) or one < 1 for one in found):
        raise UsageError(f"{option} {text}: whole numbers from 1 are wanted", hint=f"for example {option} 1,8,64")
    return tuple(int(one) for one in found)


def _numbers(option: str, text: str, most: float) -> tuple[float, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    try:
        found = tuple(float(part) for part in parts)
    except ValueError as error:
        raise UsageError(
            f"{option} {text}: numbers with commas are wanted", hint=f"for example {option} 1,8"
        ) from error
    if len(found) > MOST_POINTS or any(not 0 < one <= most for one in found):
        raise UsageError(f"{option} {text} is out of range", hint=f"at most {MOST_POINTS} numbers up to {most:g}")
    return found


def slo(text: str) -> Mapping[str, float]:
    """The limits in ``ttft=500ms,itl=50ms,e2e=4s``, in seconds.

    Raises:
        UsageError: another name, or no time.
    """
    found = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        unit = "ms" if value.endswith("ms") else "s"
        try:
            seconds = float(value.removesuffix(unit)) * _UNITS[unit]
        except ValueError:
            seconds = 0.0
        if name not in LIMITS or not 0 < seconds < float("inf") or not value.endswith(unit):
            raise UsageError(f"--slo {part} is no limit", hint="for example --slo ttft=500ms,itl=50ms,e2e=10s")
        found[name] = seconds
    return found
