"""What an engine is to gpuserve.

An engine is a set of pure functions of a request: no network, no files, no clock. Third parties add one
through the entry-point group ``gpuserve.engines``; the built-in ones use the same door.

Everything in ``Engine`` is required. What only some engines can do is a type of its own below, looked
for with ``isinstance``; there is no method that exists only to say that it isn't supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gpuserve.records import BootFact, Diagnosis, LaunchPlan, ModelFacts, ServeRequest


@runtime_checkable
class Engine(Protocol):
    """An inference engine: how it is launched, and how its log is read."""

    @property
    def name(self) -> str:
        """What ``--engine`` calls it, such as "vllm"."""

    @property
    def title(self) -> str:
        """Its name as its makers write it, such as "vLLM"."""

    @property
    def default_image(self) -> str:
        """The container image, pinned to the version that the flags were checked against."""

    def plan(self, request: ServeRequest, facts: ModelFacts) -> LaunchPlan:
        """How to serve ``request.model``; ``request.engine_args`` stand last and untouched in ``argv``."""

    def read(self, line: str) -> BootFact | None:
        """What one line of the log (no line end, no stream markers) says of the boot; None for most lines."""

    def diagnose(self, log: str) -> Diagnosis | None:
        """Why the boot that wrote ``log`` failed; None rather than a guess."""


@runtime_checkable
class ReportsMetrics(Protocol):
    """An engine with a Prometheus route."""

    @property
    def metrics(self) -> MetricNames:
        """Which of its metrics mean what."""


@dataclass(frozen=True, slots=True)
class MetricNames:
    """Prometheus names. ``kv_usage`` is a share from 0 to 1; "" where the engine has no such metric."""

    running: str
    waiting: str
    kv_usage: str = ""


@runtime_checkable
class Reasons(Protocol):
    """An engine that hands a model's reasoning back apart from its answer."""

    @property
    def reasoning_field(self) -> str:
        """The field of a message or delta that carries the reasoning."""

    def reasoning_body(self, effort: str) -> Mapping[str, object]:
        """What to add to a chat request's body so that the model reasons with ``effort`` (none, low, medium, high)."""
