"""What an engine is to gpuserve.

An engine is a set of pure functions of a request: no network, no files, no clock. Third parties add one
through the entry-point group ``gpuserve.engines``; the built-in ones use the same door.

Everything in ``Engine`` is required. What only some engines can do is a type of its own below, looked
for with ``isinstance``; there is no method that exists only to say that it isn't supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gpuserve.records import BootFact, Diagnosis, KeyPass, LaunchPlan, ModelFacts, ServeRequest


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
class ChecksKey(Protocol):
    """An engine that can ask for an API key of its own."""

    @property
    def key_check(self) -> KeyCheck:
        """How it gets the key, and what it guards with it."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """How an engine gets its key. ``uncovered`` says, as a sentence, which routes answer without it."""

    how: KeyPass
    uncovered: str


@runtime_checkable
class StartsFaster(Protocol):
    """An engine that can leave out work of its start, for ``ServeRequest.fast_boot``, and then answers more slowly."""

    @property
    def fast_boot(self) -> str:
        """What it leaves out then, as the object of a sentence."""


@runtime_checkable
class Reasons(Protocol):
    """An engine that hands a model's reasoning back apart from its answer."""

    @property
    def reasoning_field(self) -> str:
        """The field of a message or delta that carries the reasoning."""

    def reasoning_body(self, effort: str) -> Mapping[str, object]:
        """What to add to a chat request's body so that the model reasons with ``effort`` (none, low, medium, high)."""


class Wanted(Protocol):
    """What an answer must be (``client.constraints.Constraint`` fits): ``kind`` says which of the others holds it.

    "schema": ``document``, a JSON schema. "regex": ``regex``, for the whole answer. "choice": ``choices``, and the same
    as ``regex``. "grammar": ``grammar``, in GBNF or, if ``lark``, in Lark's notation. ``gbnf`` is a regex or a choice
    as a grammar of one rule.
    """

    @property
    def kind(self) -> str: ...
    @property
    def document(self) -> Mapping[str, object]: ...
    @property
    def regex(self) -> str: ...
    @property
    def choices(self) -> Sequence[str]: ...
    @property
    def grammar(self) -> str: ...
    @property
    def lark(self) -> bool: ...
    @property
    def gbnf(self) -> str: ...


@runtime_checkable
class Constrains(Protocol):
    """An engine that holds a model to a form of answer."""

    def constraint_body(self, wanted: Wanted) -> Mapping[str, object]:
        """What to add to the body of a chat request so that the answer is as ``wanted``.

        Raises:
            UsageError: this engine doesn't take such a constraint.
        """


@runtime_checkable
class Continues(Protocol):
    """An engine that continues bare text, without a chat template."""

    @property
    def text_route(self) -> str:
        """Where: "completions" (the OpenAI API's, below /v1) or "generate" (SGLang's own)."""

    def text_body(self, wanted: Wanted) -> Mapping[str, object]:
        """What to add there so that the text is as ``wanted``; to the sampling parameters, of "generate".

        Raises:
            UsageError: this engine doesn't take such a constraint.
        """


def schema_body(document: Mapping[str, object]) -> Mapping[str, object]:
    """The OpenAI API's way of asking for JSON of a schema, which every engine takes."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(document)}}}
