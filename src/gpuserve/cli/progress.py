"""Draws the events of ``up``: live bars on a terminal, one plain line a phase off it, JSON lines with ``--json``."""

from __future__ import annotations

import sys
import time
from dataclasses import fields, is_dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gpuserve.cli.bars import Board, terminal_console
from gpuserve.cli.narrator import SANDBOX_PHASES, Change, Narrator, Phase, count
from gpuserve.cli.output import Output, shown_path
from gpuserve.durations import format_clock, format_duration
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
    from rich.console import Console

#: What the platform's states mean to a person.
STATES = {
    "pending_build": "waiting for capacity",
    "building_snapshot": "preparing the image",
    "pulling_snapshot": "pulling the image",
    "creating": "creating",
    "starting": "starting",
    "started": "created",
}
#: What an engine does in each phase of its boot, by the narrator's names.
PHASES = {
    "download": "downloading weights",
    "weights": "loading weights",
    "compile": "compiling",
    "KV cache": "sizing the KV cache",
    "graphs": "capturing graphs",
    "port": "opening its port",
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
        f"served as {launch.served_model}, port {launch.port}, {ends}",
        *(f"access {request.access or 'token'}: {sentence}" for sentence in plan.who[:1]),
        *plan.who[1:],
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
    room = f"weights {fit.weights_gib:.1f} GiB, KV room {fit.kv_room_gib:.0f} GiB, about {count(fit.kv_tokens)} tokens"
    return ", ".join([f"{room} on {fit.gpu} ({fit.confidence} confidence)", *parsers])


class Progress:
    """One ``up`` on the screen. A terminal shows a phase while it runs and when it ended; elsewhere, when it begins."""

    def __init__(self, output: Output, *, log_on_terminal: bool = False, console: Console | None = None) -> None:
        self._output = output
        self._show_log = log_on_terminal
        self._began = time.monotonic()
        self._narrator = Narrator()
        self._board: Board | None = None
        if console is not None or output.lively:
            self._board = Board(self._narrator, console or terminal_console(), began=self._began)

    def __enter__(self) -> Self:
        if self._board is not None:
            self._board.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._still()

    def _still(self) -> None:
        """Ends the live drawing, if there is one: what follows are plain lines."""
        if self._board is not None:
            self._board.stop()
            self._board = None

    def draw(self, event: Event) -> None:
        """Shows one event."""
        if self._output.as_json:
            self._output.line({"event": event_dict(event)})
            return
        change = self._narrator.take(event, time.monotonic() - self._began)
        if self._board is not None and change.ended is not None:
            self._ended(change.ended, self._board)
        match event:
            case EngineLog(text):
                self._engine_log(text)
            case Boot(_, seconds):
                self._boot(change, seconds)
            case BuildLog(line):
                self._build_log(line, change)
            case Warned(text):
                self._output.warn(text)
            case _:
                self._step(event, change)

    def _step(self, event: Event, change: Change) -> None:
        match event:
            case Planned(plan):
                for line in plan_lines(plan):
                    self._say("plan", line)
            case PickedUp(deployment):
                self._say("sandbox", f"{deployment.name} is there already ({deployment.state}): going on with it")
            case SandboxState(name, state, seconds):
                if state not in SANDBOX_PHASES or (self._board is None and change.began is not None):
                    self._say("sandbox", f"{name} {STATES.get(state, state)}", seconds)
            case Launched(_, log_file, seconds):
                self._say(
                    "engine", "started" + (f", its log goes to {shown_path(log_file)}" if log_file else ""), seconds
                )
            case Ready(_, _, seconds):
                self._ready(seconds)
            case Removed(name):
                self._say("sandbox", f"{name} deleted, it is gone")

    @property
    def _text_width(self) -> int:
        """Columns between a line's label and its clock."""
        return 70 if self._board is None else max(20, self._board.console.width - 20)

    def _say(self, label: str, text: str, seconds: float | None = None, after: str = "") -> None:
        clock = "" if seconds is None else f"  {format_clock(seconds)}"
        self._output.say(label, (f"{text:<{self._text_width}}{clock}" if clock else text) + after)

    def _ended(self, phase: Phase, board: Board) -> None:
        """A phase that is over: what came of it, and the time it took."""
        board.note("")
        if phase.spent >= 1 or (phase.detail and phase.name in PHASES):
            self._say(phase.name, _cropped(phase.detail, self._text_width), phase.spent)

    def _ready(self, seconds: float) -> None:
        summary, times = self._narrator.summary(), self._narrator.times()
        if self._board is None:
            self._say("ready", summary, seconds, f"  ({times})" if times else "")
        else:
            self._say("ready", summary, seconds, f"\n({times})" if times else "")

    def _engine_log(self, text: str) -> None:
        if self._show_log:
            self._output.raw(text)
        elif self._board is not None and text.strip():
            self._board.note(text.rstrip("\r\n").rsplit("\n", 1)[-1].rsplit("\r", 1)[-1])

    def _build_log(self, line: str, change: Change) -> None:
        if self._board is not None:
            self._board.note(line)
        elif change.began is not None:
            self._say("image", f"downloading weights: {change.began.detail}")
        else:
            self._output.detail("image", line)

    def _boot(self, change: Change, seconds: float) -> None:
        phase = change.began
        if phase is None or self._board is not None:
            return
        what = PHASES.get(phase.name, phase.name)
        told = phase.detail and phase.detail != what
        self._say("engine", f"{what}: {phase.detail}" if told else what, seconds)

    def ask_keep(self, name: str) -> bool:
        """At Ctrl-C: says what still runs and asks whether to keep it. A second Ctrl-C ends at once."""
        self._still()
        self._output.raw(f"\n{name} is still running and costs money. Delete it? [Y/n] ")
        answer = sys.stdin.readline()
        return answer.strip().lower() in ("n", "no", "keep")


def _cropped(text: str, width: int) -> str:
    """``text`` on one line of ``width`` columns."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


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
