"""Reads an engine's log with tables: one of what its boot says, one of how it fails.

In both tables a pattern's named groups fill the sentence beside it, so a row is all that a new line or
failure needs. Of the lines the first row that matches counts; of the failures the one that the log tells first.

Logs come from elsewhere, shuffled, cut and with lines of any length, so every pattern runs on clipped lines,
and none starts with an unbounded repetition: the time grows with the length of the log, and no faster.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gpuserve.records import BootFact, Diagnosis

NUMBER = r"\d+(?:\.\d+)?"
COUNT = r"\d+(?:,\d{3})*"

#: A progress bar's count of bytes, as tqdm writes it: "482M", "4.80G", "977".
BYTES = r"\d+(?:\.\d+)?[kKMGTP]?"

#: Of a line longer than both together, only so many characters at its start and at its end are read.
_HEAD, _TAIL = 3000, 3000
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")

#: Named groups that become figures of a ``BootFact``, and what turns their text into the figure.
_FIGURES: dict[str, tuple[str, Callable[[str], float]]] = {
    "kv_cache_tokens": ("kv_cache_tokens", lambda text: float(text.replace(",", ""))),
    "max_context": ("max_context", lambda text: float(text.replace(",", ""))),
    "weights_gib": ("weights_gib", float),
    "weights_mib": ("weights_gib", lambda text: float(text) / 1024),
    "kv_cache_gib": ("kv_cache_gib", float),
    "seconds": ("seconds", float),
    "percent": ("percent", float),
    "requests": ("requests", float),
    "bytes_done": ("bytes_done", lambda text: _bytes(text)),
    "bytes_all": ("bytes_all", lambda text: _bytes(text)),
    "bytes_rate": ("bytes_rate", lambda text: _bytes(text)),
    "mib_done": ("bytes_done", lambda text: float(text) * 2**20),
    "mib_all": ("bytes_all", lambda text: float(text) * 2**20),
    "files_done": ("files_done", float),
    "files_all": ("files_all", float),
    "shards_done": ("shards_done", float),
    "shards_all": ("shards_all", float),
}


def _bytes(text: str) -> float:
    """Bytes of a count as tqdm writes it, whose prefixes are powers of 1000."""
    power = "kMGTP".find(text[-1].replace("K", "k")) + 1
    return float(text[:-1]) * 1000**power if power else float(text)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a boot log: the phase it belongs to, and a few words about it.

    ``needs`` is a piece of text without which the pattern isn't tried; it spares slow patterns most lines.
    """

    pattern: re.Pattern[str]
    phase: str
    detail: str = ""
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure that is certain once its pattern is in the log.

    ``general`` is for one that only counts where no other is in the log, since others bring it about.
    """

    pattern: re.Pattern[str]
    cause: str
    remedy: str = ""
    general: bool = False


def line(phase: str, pattern: str, detail: str = "", *, needs: str = "") -> Line:
    """A row of the reading table."""
    return Line(re.compile(pattern, re.ASCII), phase, detail, needs)


def fault(pattern: str, cause: str, remedy: str = "", *, general: bool = False) -> Fault:
    """A row of the diagnosis table."""
    return Fault(re.compile(pattern, re.ASCII | re.MULTILINE), cause, remedy, general)


def readable(text: str) -> str:
    """``text`` without terminal codes, and with the middle of its very long lines left out."""
    most = _HEAD + _TAIL
    if "\x1b" in text:
        text = _TERMINAL_CODE.sub("", text)
    if len(text) <= most:
        return text
    lines = (one if len(one) <= most else f"{one[:_HEAD]} … {one[-_TAIL:]}" for one in text.split("\n"))
    return "\n".join(lines)


def read(table: Sequence[Line], text: str) -> BootFact | None:
    """What ``text``, one line, says of the boot.

    A progress bar redraws itself within one line, so the last match in it counts.
    """
    text = readable(text)
    for row in table:
        found = deque(row.pattern.finditer(text), maxlen=1) if row.needs in text else None
        if found:
            groups = {name: value for name, value in found[0].groupdict().items() if value is not None}
            return BootFact(row.phase, row.detail.format_map(groups), MappingProxyType(_figures(groups)))
    return None


def _figures(groups: dict[str, str]) -> dict[str, float]:
    known = ((_FIGURES[name], value) for name, value in groups.items() if name in _FIGURES)
    return {figure: convert(value) for (figure, convert), value in known}


def diagnose(table: Sequence[Fault], log: str) -> Diagnosis | None:
    """The root cause: the failure of ``table`` that ``log`` tells first, for those after it are mostly its doing.

    Of several on the same line the first row counts, and the general rows only if there is no other. None if
    the log bears out no row: never a guess.
    """
    text = readable(log)
    first: tuple[tuple[bool, int], Fault, re.Match[str]] | None = None
    for row in table:
        found = row.pattern.search(text)
        if found is None:
            continue
        place = (row.general, 0 if row.general else text.rfind("\n", 0, found.start()) + 1)
        if first is None or place < first[0]:
            first = (place, row, found)
    if first is None:
        return None
    _, row, found = first
    groups = {name: (value or "").strip().rstrip(".") for name, value in found.groupdict().items()}
    return Diagnosis(row.cause.format_map(groups), row.remedy.format_map(groups))


#: What a process writes before a line of its own, in vLLM.
_PREFIX = r"(?:\(\w{1,40} pid=\d+\)\s{0,4})?"


def _bar(name: str, between: str = "/") -> str:
    """A bar of tqdm that counts bytes, up to its counts; ``name`` matches what is downloaded."""
    return (
        rf"{_PREFIX}(?P<file>{name}):\s{{1,9}}(?P<percent>\d{{1,3}})%\|[^|\r\n]{{0,400}}\|\s{{0,6}}"
        rf"(?P<bytes_done>{BYTES}){between}(?P<bytes_all>{BYTES})"
    )


_ANY_NAME = r"[^\s|:][^\r\n|:]{0,119}"

#: Progress of a download from the Hugging Face Hub, as its client draws it: each file, or all as one, and how many.
HUB_LINES = (
    line(
        "downloading",
        _bar(_ANY_NAME) + rf" \[[^\]\r\n]{{0,40}}, {{0,4}}(?:(?P<bytes_rate>{BYTES})|\?)B/s",
        "{file} {bytes_done}/{bytes_all}",
        needs="B/s",
    ),
    # All as one, with units beside the counts, as the Hub's client 2.4.0 draws it.
    line(
        "downloading",
        _bar(_ANY_NAME, "B / {0,6}") + rf"B(?:[ ,]{{1,20}}(?P<bytes_rate>{BYTES})B/s)?",
        "{file} {bytes_done}/{bytes_all}",
        needs="B / ",
    ),
    # Without its rate, where the line was cut, only the name tells that bytes are counted.
    line(
        "downloading",
        _bar(r"[\w.-]{1,120}\.(?:safetensors|gguf|bin)"),
        "{file} {bytes_done}/{bytes_all}",
        needs="%|",
    ),
    line(
        "downloading",
        r"Fetching (?P<files>\d+) files:\s+(?P<percent>\d+)%"
        r"(?:\|[^|\r\n]{0,400}\|\s*(?P<files_done>\d+)/(?P<files_all>\d+))?",
        "{files} files",
        needs="Fetching",
    ),
)

#: The engines that read safetensors count the files of a checkpoint alike.
SHARDS_LINE = line(
    "loading",
    r"[Ll]oading (?:[\w.]{1,40} checkpoint )?shards:\s+(?P<percent>\d+)% Completed"
    r" \| (?P<shards_done>\d+)/(?P<shards_all>\d+)",
    "{shards_done} of {shards_all} shards",
    needs="shards:",
)
