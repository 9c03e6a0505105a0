"""What a benchmark reports on its way. The core reports, the command line draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpuserve.bench.wanted import Point


@dataclass(frozen=True, slots=True)
class Said:
    """A remark for a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Measuring:
    """A point is under way: ``answered`` of ``requests`` measured ones (0: as many as the time allows)."""

    point: Point
    number: int
    points: int
    answered: int
    requests: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A point is done; ``figures`` are those of ``--json``."""

    point: Point
    figures: Mapping[str, Any]


BenchEvent = Said | Measuring | Measured
Emit = Callable[[BenchEvent], None]
