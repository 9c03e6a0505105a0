"""The host's GPUs: declared by type for development and tests, or found with ``nvidia-smi``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass

KNOWN = ("H100", "H200", "B200", "B300", "RTX-PRO-6000", "RTX-4090", "RTX-5090", "MI355X")
"""The types that Daytona's client 0.226 knows."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: an ID of ours, its type in Daytona's spelling, and its index for CUDA when it is real."""

    id: str
    type: str
    index: str | None = None


@dataclass(frozen=True)
class Pool:
    """All GPUs of the host. Which of them are held is written in the sandboxes, so that it survives a restart."""

    gpus: tuple[Gpu, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """The types in it, in order."""
        return tuple(dict.fromkeys(gpu.type for gpu in self.gpus))

    @property
    def largest(self) -> int:
        """How many GPUs of one type one sandbox can hold at most."""
        return max((self.count(kind) for kind in self.types), default=0)

    def count(self, kind: str, held: Collection[str] = ()) -> int:
        """How many GPUs of a type there are beside those in ``held``."""
        return sum(gpu.type == kind and gpu.id not in held for gpu in self.gpus)

    def choose(self, kinds: Sequence[str], count: int, held: Collection[str]) -> tuple[Gpu, ...]:
        """``count`` free GPUs of the first type in ``kinds`` that has them; empty when none has."""
        for kind in kinds or self.types:
            free = [gpu for gpu in self.gpus if gpu.type == kind and gpu.id not in held]
            if len(free) >= count:
                return tuple(free[:count])
        return ()

    def indices(self, ids: Collection[str]) -> str | None:
        """The value for CUDA_VISIBLE_DEVICES, or None when the GPUs are declared and not real."""
        chosen = [gpu.index for gpu in self.gpus if gpu.id in ids and gpu.index is not None]
        return ",".join(chosen) if chosen else None


def declared(text: str) -> Pool:
    """The pool written as ``H100:2,RTX-PRO-6000``.

    Raises:
        ValueError: an unknown type, or a number that is no positive integer.
    """
    gpus: list[Gpu] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kind, _, number = part.partition(":")
        if kind not in KNOWN:
            raise ValueError(f"unknown GPU type {kind!r}; known are {', '.join(KNOWN)}")
        if number and not (number.isdigit() and int(number) > 0):
            raise ValueError(f"{number!r} is no number of GPUs in {part!r}")
        first = sum(gpu.type == kind for gpu in gpus)
        gpus.extend(Gpu(f"{kind}/{first + n}", kind) for n in range(int(number or 1)))
    return Pool(tuple(gpus))


def daytona_name(product: str) -> str | None:
    """Daytona's name for a GPU that ``nvidia-smi`` calls ``product``; None when Daytona has none."""
    words = product.upper().replace("-", " ")
    return next((kind for kind in KNOWN if f" {kind.replace('-', ' ')} " in f" {words} "), None)


def detected() -> Pool:
    """The NVIDIA GPUs of this machine that Daytona has a name for; empty without ``nvidia-smi``."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Pool()
    command = [program, "--query-gpu=index,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return Pool()
    return from_listing(done.stdout)


def from_listing(listing: str) -> Pool:
    """The pool in the lines ``index, name`` that ``nvidia-smi`` prints."""
    gpus = []
    for line in listing.splitlines():
        index, _, product = line.partition(",")
        kind = daytona_name(product.strip())
        if kind is not None:
            gpus.append(Gpu(f"{kind}/{index.strip()}", kind, index.strip()))
    return Pool(tuple(gpus))
