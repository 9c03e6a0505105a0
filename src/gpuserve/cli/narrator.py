"""The story of a boot, from its events: which phase runs, how long each took, how far a download is.

It draws nothing: ``progress`` does. Seconds count from the start of ``up``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuserve.durations import format_clock
from gpuserve.records import BootFact
from gpuserve.serving.events import Boot, BuildLog, Event, Launched, Planned, Ready, SandboxState

#: The phase that each of the platform's states belongs to. Others, such as "started" or "error", belong to none.
SANDBOX_PHASES = {
    "pending_build": "queue",
    "building_snapshot": "image",
    "pulling_snapshot": "image",
    "creating": "sandbox",
    "starting": "sandbox",
}
#: What the phases of a ``BootFact`` are called here, in the order in which an engine goes through them.
ENGINE_PHASES = {
    "downloading": "download",
    "loading": "weights",
    "compiling": "compile",
    "kv_cache": "KV cache",
    "graphs": "graphs",
    "serving": "port",
}
_ORDER = {name: place for place, name in enumerate(ENGINE_PHASES.values())}
#: Phases that go on after a download has interrupted them.
_INTERRUPTIBLE = ("image", "weights")
#: "model-00001-of-00012.safetensors": the number of files stands in the name of each.
_PART = re.compile(r"-\d{2,6}-of-(\d{2,6})\b")
#: The time that a platform may write before a line of a build log.
_STAMP = re.compile(r"^\s*\d{4}-\d\d-\d\dT\S{0,30}\s")
_DOWNLOAD_LOG = re.compile(r"downloading weights: (?P<what>.+)")
GIB = 2**30


@dataclass(slots=True)
class Bar:
    """One file, or all as one, that is being downloaded: bytes, and bytes per second."""

    done: float = 0.0
    total: float = 0.0
    rate: float = 0.0

    @property
    def share(self) -> float | None:
        """From 0 to 1; None as long as the size is unknown."""
        return min(1.0, self.done / self.total) if self.total else None


@dataclass(slots=True)
class Download:
    """All the bars of a download, by the name that stands beside each."""

    bars: dict[str, Bar] = field(default_factory=dict)
    files_done: int = 0
    files_all: int = 0

    def take(self, fact: BootFact) -> None:
        """Takes one update of one bar."""
        figures = fact.figures
        self.files_done = int(figures.get("files_done", self.files_done))
        self.files_all = int(figures.get("files_all", self.files_all))
        if "bytes_all" in figures:
            name = fact.detail.rpartition(" ")[0]
            before = self.bars.get(name, Bar())
            rate = figures.get("bytes_rate", before.rate)
            self.bars[name] = Bar(figures.get("bytes_done", before.done), figures["bytes_all"], rate)

    def running(self) -> dict[str, Bar]:
        """The bars that have not come to their end."""
        return {name: bar for name, bar in self.bars.items() if bar.done < bar.total}

    @property
    def _unseen(self) -> float:
        """By how much the files of the same model that have no bar yet raise the total; they are about as large."""
        parts = [(int(found[1]), bar) for name, bar in self.bars.items() if (found := _PART.search(name))]
        if not parts:
            return 0.0
        missing = max(count for count, _ in parts) - len(parts)
        return max(0, missing) * sum(bar.total for _, bar in parts) / len(parts)

    def whole(self) -> Bar:
        """All bars as one; only those that still run have a rate."""
        done = sum(bar.done for bar in self.bars.values())
        total = sum(bar.total for bar in self.bars.values()) + self._unseen
        return Bar(done, total, sum(bar.rate for bar in self.running().values()))

    def text(self) -> str:
        """GiB done and in all ("~" for an estimate), rate, time left, files."""
        bar, parts = self.whole(), []
        if bar.total:
            about = "~" if self._unseen else ""
            parts.append(f"{bar.done / GIB:.1f} of {about}{bar.total / GIB:.1f} GiB")
        if bar.rate:
            parts.append(f"{bar.rate / 2**20:.0f} MiB/s")
            parts.append(f"{format_clock((bar.total - bar.done) / bar.rate)} left")
        if self.files_all:
            parts.append(f"{self.files_done}/{self.files_all} files")
        return ", ".join(parts)


@dataclass(slots=True)
class Phase:
    """``spent`` seconds so far, without those since ``entered`` if it runs. ``share`` from 0 to 1, if known."""

    name: str
    detail: str = ""
    share: float | None = None
    spent: float = 0.0
    entered: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """What an event changed: the phase that ended for good, and the one that began and had not begun before."""

    ended: Phase | None = None
    began: Phase | None = None


class Narrator:
    """Follows one boot."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self.current: Phase | None = None
        self.download = Download()
        self.figures: dict[str, float] = {}

    def take(self, event: Event, now: float) -> Change:
        """Takes one event; ``now`` counts where the event tells no time of its own."""
        match event:
            case Planned():
                return self._go("sandbox", "asking for one", now)
            case SandboxState(_, state, seconds):
                return self._go(SANDBOX_PHASES.get(state, ""), "", seconds)
            case BuildLog(line):
                return self._build(line, now)
            case Launched(_, _, seconds):
                return self._go("engine", "starting", seconds)
            case Boot(fact, seconds):
                return self._boot(fact, seconds)
            case Ready(_, _, seconds):
                return self._go("", "", seconds)
        return Change()

    def seconds(self, phase: Phase, now: float) -> float:
        """How long ``phase`` has taken so far."""
        return phase.spent + (max(0.0, now - phase.entered) if phase is self.current else 0.0)

    def _go(self, name: str, detail: str, now: float, share: float | None = None) -> Change:
        """Into the phase ``name``, or on with it; "" is between two phases."""
        before = self.current
        if before is not None and before.name == name:
            before.detail, before.share = detail or before.detail, share
            return Change()
        if before is not None:
            before.spent = self.seconds(before, now)
        interrupted = before is not None and name == "download" and before.name in _INTERRUPTIBLE
        if not name:
            self.current = None
            return Change(ended=before)
        new = name not in self.phases
        phase = self.phases.setdefault(name, Phase(name))
        phase.detail, phase.share, phase.entered = detail or phase.detail, share, now
        self.current = phase
        return Change(ended=None if interrupted else before, began=phase if new else None)

    def _build(self, line: str, now: float) -> Change:
        found = _DOWNLOAD_LOG.search(line)
        if found is None:
            if self.current is not None and self.current.name == "image":
                self.current.detail = _STAMP.sub("", line).strip()
            return Change()
        back = found["what"].startswith("done") and "image" in self.phases
        return self._go("image", "", now) if back else self._go("download", found["what"], now)

    def _boot(self, fact: BootFact, now: float) -> Change:
        name = ENGINE_PHASES.get(fact.phase, fact.phase)
        self.figures.update(fact.figures)
        if name == "download":
            return self._downloading(fact, now)
        if not self._may_follow(name):
            return Change()
        return self._go(name, fact.detail, now, _share(fact.figures))

    def _may_follow(self, name: str) -> bool:
        """Engines tell some of a phase's facts late; that takes nobody back to it. Only a download may come late."""
        here = _ORDER.get(self.current.name) if self.current is not None else None
        there = _ORDER.get(name)
        if here is None or there is None or there >= here:
            return True
        return name == "download" and self.current is not None and self.current.name in _INTERRUPTIBLE

    def _downloading(self, fact: BootFact, now: float) -> Change:
        if "seconds" in fact.figures:
            self._downloaded_in(fact, now)
            return Change()
        self.download.take(fact)
        if not self._may_follow("download"):
            return Change()
        bar = self.download.whole()
        share = bar.share if bar.total else _share(fact.figures)
        return self._go("download", self.download.text() or fact.detail, now, share)

    def _downloaded_in(self, fact: BootFact, now: float) -> None:
        """An engine that drew no bars tells at its end how long the download took: the running phase had the time."""
        here = self.current
        if "download" in self.phases or here is None:
            return
        took = min(fact.figures["seconds"], max(0.0, now - here.entered))
        self.phases["download"] = Phase("download", fact.detail, spent=took)
        here.entered += took

    def times(self) -> str:
        """Each phase with the time it took, those of less than a second left out."""
        spent = [(phase.name, phase.spent) for phase in self.phases.values() if phase.spent >= 1]
        return ", ".join(f"{name} {format_clock(seconds)}" for name, seconds in spent)

    def summary(self) -> str:
        """What came up: the KV cache, the context, and how many requests of that context fit."""
        parts = []
        if tokens := self.figures.get("kv_cache_tokens"):
            parts.append(f"{count(tokens)}-token KV cache")
        if context := self.figures.get("max_context"):
            parts.append(f"{count(context)} context")
            if requests := self.figures.get("requests"):
                parts.append(f"room for {requests:.1f} requests of it")
        return ", ".join(parts) or "the model answers"


def _share(figures: Mapping[str, float]) -> float | None:
    """How much of its phase a fact reports as done, from 0 to 1."""
    percent = figures.get("percent")
    return None if percent is None else min(1.0, percent / 100)


def count(number: float) -> str:
    """A count of tokens, short: 1.2M, 131k, 512."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            shown = f"{number / size:.1f}" if number < 10 * size else f"{number / size:.0f}"
            return shown.removesuffix(".0") + unit
    return f"{number:.0f}"
