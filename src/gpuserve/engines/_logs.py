"""Reads an engine's log with tables: one of what its boot says, one of how it fails.

In both tables a pattern's named groups fill the sentence beside it, so a row is all that a new line or
failure needs. The first row that matches counts.
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

#: Named groups that become figures of a ``BootFact``, and what turns their text into the figure.
_FIGURES: dict[str, tuple[str, Callable[[str], float]]] = {
    "kv_cache_tokens": ("kv_cache_tokens", lambda text: float(text.replace(",", ""))),
    "max_context": ("max_context", lambda text: float(text.replace(",", ""))),
    "weights_gib": ("weights_gib", float),
    "weights_mib": ("weights_gib", lambda text: float(text) / 1024),
    "kv_cache_gib": ("kv_cache_gib", float),
    "seconds": ("seconds", float),
    "percent": ("percent", float),
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a boot log: the phase it belongs to, and a few words about it."""

    pattern: re.Pattern[str]
    phase: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure that is certain once its pattern is in the log."""

    pattern: re.Pattern[str]
    cause: str
    remedy: str = ""


def line(phase: str, pattern: str, detail: str = "") -> Line:
    """A row of the reading table."""
    return Line(re.compile(pattern, re.ASCII), phase, detail)


def fault(pattern: str, cause: str, remedy: str = "") -> Fault:
    """A row of the diagnosis table."""
    return Fault(re.compile(pattern, re.ASCII | re.MULTILINE), cause, remedy)


def read(table: Sequence[Line], text: str) -> BootFact | None:
    """What ``text``, one line, says of the boot.

    A progress bar redraws itself within one line, so the last match in it counts.
    """
    for row in table:
        found = deque(row.pattern.finditer(text), maxlen=1)
        if found:
            groups = {name: value for name, value in found[0].groupdict().items() if value is not None}
            return BootFact(row.phase, row.detail.format_map(groups), MappingProxyType(_figures(groups)))
    return None


def _figures(groups: dict[str, str]) -> dict[str, float]:
    known = ((_FIGURES[name], value) for name, value in groups.items() if name in _FIGURES)
    return {figure: convert(value) for (figure, convert), value in known}


def diagnose(table: Sequence[Fault], log: str) -> Diagnosis | None:
    """The first row of ``table`` that ``log`` bears out, or None: never a guess."""
    for row in table:
        found = row.pattern.search(log)
        if found is not None:
            groups = {name: (value or "").strip() for name, value in found.groupdict().items()}
            return Diagnosis(row.cause.format_map(groups), row.remedy.format_map(groups))
    return None


#: Progress of a download from the Hugging Face Hub, as its client draws it for each file.
HUB_LINES = (
    line(
        "downloading",
        rf"(?P<file>[\w.-]+\.(?:safetensors|gguf|bin)):\s+(?P<percent>\d+)%\|[^|]*\|\s*(?P<done>{NUMBER}\w?)/(?P<all>{NUMBER}\w?)",
        "{file} {done}/{all}",
    ),
    line("downloading", r"Fetching (?P<files>\d+) files:\s+(?P<percent>\d+)%", "{files} files"),
)

#: Failures of the Hugging Face Hub, the disk and the port, which read the same in vLLM and SGLang.
HUB_FAULTS = (
    fault(
        r"Access to model (?P<model>\S+) is restricted and you are not in the authorized list",
        "{model} is gated, and the Hugging Face account of your token has no access to it.",
        "Ask for access on the model's page; once it is granted, run the same command again.",
    ),
    fault(
        r"Access to model (?P<model>\S+) is restricted",
        "{model} is gated, and no valid Hugging Face token was sent.",
        "Accept the terms on the model's page and set HF_TOKEN to a token of that account.",
    ),
    fault(
        r"GatedRepoError|You are trying to access a gated repo",
        "The model is gated, and no Hugging Face token with access to it was sent.",
        "Accept the terms on the model's page and set HF_TOKEN to a token of that account.",
    ),
    fault(
        r"(?P<model>\S+) is not a local folder and is not a valid model identifier",
        "Hugging Face knows no model {model} that can be read with your token.",
        "Check the spelling; if the model is private, set HF_TOKEN to a token that may read it.",
    ),
    fault(
        r"Invalid repository ID or local directory specified: '(?P<model>[^'\n]*)'",
        "{model} is neither a model on Hugging Face nor a folder with a config.json.",
        "Check the spelling, or that the folder holds the whole model.",
    ),
    fault(
        r"RevisionNotFoundError",
        "The model's repository has no such revision.",
        "Give --revision a branch, tag or commit that the repository has.",
    ),
    fault(
        r"outgoing traffic has been disabled",
        "HF_HUB_OFFLINE is set and the model isn't in the cache.",
        "Leave HF_HUB_OFFLINE out, or download the model into the cache first.",
    ),
    fault(
        r"We couldn't connect to '(?P<hub>[^'\n]+)'",
        "The sandbox can't reach {hub} to download the model.",
        "Check its network access, or serve a model that is already on its disk.",
    ),
    fault(
        r"No space left on device",
        "The disk is full.",
        "Ask for a larger one with --disk, in GiB.",
    ),
)

PORT_FAULT = fault(
    r"\[Errno 98\][^\n]*address already in use|\[Errno 98\] Address already in use",
    "The port is taken by another program.",
    "Choose another with --port.",
)

WEIGHTS_FAULT = fault(
    r"SafetensorError: (?P<why>[^\n]+)",
    "The model's weights are damaged or incomplete: {why}.",
    "Delete the downloaded files and start again; a fresh sandbox does that by itself.",
)

GPU_MEMORY_FAULT = fault(
    r"OutOfMemoryError: CUDA out of memory",
    "The GPU ran out of memory.",
    "Take a GPU with more, or a smaller or quantised model.",
)
