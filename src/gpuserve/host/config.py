"""The settings of one daemon, read once at its start."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from gpuserve.host import gpus
from gpuserve.host.gpus import Pool

REGIONS = ("us-east-1", "eu", "local")
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class Quota:
    """The most that one sandbox may ask for, and all of them together: units, GiB.

    The numbers per sandbox are the fixed slice of a GPU sandbox on the platform (16 vCPU, 256 GiB, 512 GiB disk); the
    totals are the host's own. Nothing is enforced on the processes: a sandbox takes what the machine gives.
    """

    cpu: int = 16
    memory: int = 256
    disk: int = 512
    total_cpu: int = 256
    total_memory: int = 4096
    total_disk: int = 8192
    total_gpu: int = 64


@dataclass(frozen=True)
class Config:
    """Where, with which key, with which GPUs."""

    state: Path
    key: str = field(repr=False)
    pool: Pool = field(default_factory=Pool)
    quota: Quota = field(default_factory=Quota)
    minute: float = 60.0
    """Seconds in a minute of every interval of the API; tests make it short."""


def pool_for(text: str) -> Pool:
    """The pool that ``text`` or else ``GPUSERVE_HOST_GPUS`` declares, else the GPUs found on the machine.

    Raises:
        ValueError: the declaration cannot be read.
    """
    wanted = text or os.environ.get("GPUSERVE_HOST_GPUS", "")
    return gpus.declared(wanted) if wanted else gpus.detected()


def minute_length() -> float:
    """Seconds that stand for one minute: 60 unless ``GPUSERVE_HOST_MINUTE`` says otherwise, for tests.

    Raises:
        ValueError: the variable holds no positive number.
    """
    text = os.environ.get("GPUSERVE_HOST_MINUTE", "60")
    length = float(text)
    if not length > 0:
        raise ValueError(f"GPUSERVE_HOST_MINUTE must be positive, not {text}")
    return length
