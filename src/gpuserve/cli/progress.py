"""Draws the events of ``up``: a live line on a terminal, one plain line a change off it, JSON lines with ``--json``."""

from __future__ import annotations

import sys
import time
from dataclasses import fields, is_dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gpuserve.cli.output import Output, shown_path
from gpuserve.durations import format_clock, format_duration
from gpuserve.records import BootFact
from gpuserve.serving.events import (
    Boot,
    BuildLog,
    EngineLog,
    Event,
    Launched,
    PickedUp,
    Planned,
    Ready,
    Removed,
    SandboxState,
    Warned,
)
from gpuserve.serving.plan import Plan

if TYPE_CHECKING:
    from rich.status import Status

#: What the platform's states mean to a person.
STATES = {
    "pending_build": "waiting for capacity",
    "building_snapshot": "preparing the image",
    "pulling_snapshot": "pulling the image",
    "creating": "creating",
    "starting": "starting",
    "started": "created",
}
#: What an engine does in each phase of its boot.
PHASES = {
    "downloading": "downloading weights",
    "loading": "loading weights",
    "compiling": "compiling",
    "kv_cache": "sizing the KV cache",
    "graphs": "capturing graphs",
    "serving": "opening its port",
}


def plan_lines(plan: Plan) -> list[str]:
    """The plan for a person: what on what, by when it ends, and the reasons."""
    request, launch = plan.request, plan.launch
    where = "this machine" if plan.place == "local" else request.target
    gpus = " else ".join(request.gpus)
    hardware = f"{request.gpu_count}x {gpus}" if gpus else "CPU"
    ends = "never deleted by itself" if request.ttl is None else f"deleted after {format_duration(request.ttl)}"
    return [
        f"{launch.model} on {launch.engine} ({launch.image}), {hardware}, {where}",
        f"served as {launch.served_model}, port {launch.port}, {ends}" + (", PUBLIC" if request.public else ""),
        *([_fit_line(plan)] if plan.fit is not None else []),
        *plan.notes,
    ]


def _fit_line(plan: Plan) -> str:
    """The estimate in one line, as a person thinks of it."""
    fit = plan.fit
    assert fit is not None
    parsers = [
        f"{what} {name}"
        for what, name in (("tools", plan.facts.tool_parser), ("reasoning", plan.facts.reasoning_parser))
        if name
    ]
    room = f"weights {fit.weights_gib:.1f} GiB, KV room {fit.kv_room_gib:.0f} GiB, about {_count(fit.kv_tokens)} tokens"
    return ", ".join([f"{room} on {fit.gpu} ({fit.confidence} confidence)", *parsers])


class Progress:
    """One ``up`` on the screen."""

    def __init__(self, output: Output, *, log_on_terminal: bool = False) -> None:
        self._output = output
        self._show_log = log_on_terminal
        self._began = time.monotonic()
        self._status: Status | None = None
        self._phase = ""
        self._figures: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._output.lively:
            self._status = self._output.console().status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pause()
        self._status = None

    def _pause(self) -> None:
        if self._status is not None:
            self._status.stop()

    def draw(self, event: Event) -> None:
        """Shows one event."""
        if self._output.as_json:
            self._output.line({"event": event_dict(event)})
            return
        match event:
            case EngineLog(text):
                self._engine_log(text)
            case Boot(fact, seconds):
                self._boot(fact, seconds)
            case BuildLog(line):
                self._live("sandbox", line)
            case Warned(text):
                self._pause()
                self._output.warn(text)
            case _:
                self._step(event)

    def _step(self, event: Event) -> None:
        match event:
            case Planned(plan):
                for line in plan_lines(plan):
                    self._say("plan", line)
            case PickedUp(deployment):
                self._say("sandbox", f"{deployment.name} is there already ({deployment.state}): going on with it")
            case SandboxState(name, state, seconds):
                self._say("sandbox", f"{name} {STATES.get(state, state)}", seconds)
            case Launched(_, log_file, seconds):
                self._say(
                    "engine", "started" + (f", its log goes to {shown_path(log_file)}" if log_file else ""), seconds
                )
            case Ready(_, _, seconds):
                self._say("ready", self._summary(), seconds)
            case Removed(name):
                self._say("sandbox", f"{name} deleted, it is gone")

    def _say(self, label: str, text: str, seconds: float | None = None) -> None:
        clock = "" if seconds is None else f"  {format_clock(seconds)}"
        self._output.say(label, f"{text:<70}{clock}" if clock else text)
        self._live(label, text, remember=False)

    def _live(self, label: str, text: str, *, remember: bool = True) -> None:
        if self._status is not None:
            clock = format_clock(time.monotonic() - self._began)
            self._status.update(f"{label:<8}{text[:100]}  {clock}")
        elif remember:
            self._output.detail(label, text)

    def _engine_log(self, text: str) -> None:
        if self._show_log:
            self._output.raw(text)
        elif self._status is not None and text.strip():
            self._live("engine", text.rstrip("\n").rsplit("\n", 1)[-1], remember=False)

    def _boot(self, fact: BootFact, seconds: float) -> None:
        self._figures.update(fact.figures)
        if fact.phase != self._phase:
            self._phase = fact.phase
            what = PHASES.get(fact.phase, fact.phase)
            told = fact.detail and fact.detail != what
            self._say("engine", f"{what}: {fact.detail}" if told else what, seconds)

    def _summary(self) -> str:
        parts = []
        if tokens := self._figures.get("kv_cache_tokens"):
            parts.append(f"{_count(tokens)}-token KV cache")
        if context := self._figures.get("max_context"):
            parts.append(f"{_count(context)} context")
        return ", ".join(parts) or "the model answers"

    def ask_keep(self, name: str) -> bool:
        """At Ctrl-C: says what still runs and asks whether to keep it. A second Ctrl-C ends at once."""
        self._pause()
        self._output.raw(f"\n{name} is still running and costs money. Delete it? [Y/n] ")
        answer = sys.stdin.readline()
        return answer.strip().lower() in ("n", "no", "keep")


def _count(number: float) -> str:
    """A count of tokens, short: 1.2M, 131k, 512."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            shown = f"{number / size:.1f}" if number < 10 * size else f"{number / size:.0f}"
            return shown.removesuffix(".0") + unit
    return f"{number:.0f}"


def event_dict(event: Event) -> dict[str, object]:
    """An event for ``--json``: its kind, and its fields without any credential."""
    shown: dict[str, object] = {"kind": type(event).__name__.lower()}
    match event:
        case Planned(plan):
            return {**shown, "plan": plan.as_dict()}
        case Boot(fact, seconds):
            return {**shown, "phase": fact.phase, "detail": fact.detail, "figures": dict(fact.figures), "at": seconds}
    assert is_dataclass(event)
    for item in fields(event):
        value = getattr(event, item.name)
        if isinstance(value, str | int | float | bool):
            shown[item.name] = value
        elif item.name == "deployment":
            shown |= {"name": value.name, "sandbox_id": value.sandbox_id, "state": value.state}
    return shown
