"""What a batch reports on its way. The core reports, the command line draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """The input is being checked; ``rows`` so far."""

    rows: int


@dataclass(frozen=True, slots=True)
class Checked:
    """The input is valid. ``before`` rows were answered by an earlier run; ``mended`` bytes were cut off the output."""

    rows: int
    before: int
    failed_before: int
    mended: int
    again: int = 0
    """Rows that failed and are asked again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. ``eta`` in seconds, None while it can't be told; rates by the second, lately."""

    rows: int
    done: int
    failed: int
    in_flight: int
    retries: int
    seconds: float
    eta: float | None
    requests_per_second: float
    prompt_tokens_per_second: float
    completion_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Draining:
    """Nothing more is sent; ``in_flight`` answers are waited for."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class Said:
    """A remark for a person."""

    text: str


BatchEvent = Reading | Checked | Progress | Draining | Said
Emit = Callable[[BatchEvent], None]


def ignore(_: BatchEvent) -> None:
    """The listener of a caller that wants none of it."""
