"""What ``up`` and its kin report while they work: frozen records, handed to one callback.

The command line draws them; a test passes ``list.append``; everybody else ignores them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpuserve.records import BootFact, Deployment, Endpoint
from gpuserve.serving.plan import Plan


@dataclass(frozen=True, slots=True)
class Planned:
    """Everything is decided; nothing exists yet."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class PickedUp:
    """A deployment of that name is there already, and serves the same plan: ``up`` goes on with it."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class SandboxState:
    """The sandbox changed its state; ``seconds`` since ``up`` began."""

    name: str
    state: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildLog:
    """One line of the image's build log."""

    line: str


@dataclass(frozen=True, slots=True)
class Launched:
    """The engine's process was started (or found running); its log is saved in ``log_file``."""

    deployment: Deployment
    log_file: str
    seconds: float


@dataclass(frozen=True, slots=True)
class EngineLog:
    """New lines of the engine's log, complete, redacted, each with its line end."""

    text: str


@dataclass(frozen=True, slots=True)
class Boot:
    """The engine's log told something of its boot."""

    fact: BootFact
    seconds: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine answers. ``seconds`` since ``up`` began."""

    deployment: Deployment
    endpoint: Endpoint
    seconds: float


@dataclass(frozen=True, slots=True)
class Warned:
    """Something a person should know, which stops nothing."""

    text: str


@dataclass(frozen=True, slots=True)
class Removed:
    """A sandbox was deleted, and is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class Noted:
    """What was done with a worker of a fleet, in words."""

    text: str


Event = Planned | PickedUp | SandboxState | BuildLog | Launched | EngineLog | Boot | Ready | Warned | Removed | Noted
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drops the event."""
