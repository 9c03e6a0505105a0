"""Turns a Hugging Face model ID into a live OpenAI-compatible endpoint on a GPU sandbox.

The public names load on first use, so that ``import gpuserve`` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuserve.api import BatchOptions, Live, batch, up
    from gpuserve.bulk.answers import Answer, Batch
    from gpuserve.errors import GpuserveError
    from gpuserve.records import Deployment, Endpoint

__all__ = ["Answer", "Batch", "BatchOptions", "Deployment", "Endpoint", "GpuserveError", "Live", "batch", "up"]

_HOMES = {
    "Answer": "gpuserve.bulk.answers",
    "Batch": "gpuserve.bulk.answers",
    "BatchOptions": "gpuserve.api",
    "Deployment": "gpuserve.records",
    "Endpoint": "gpuserve.records",
    "GpuserveError": "gpuserve.errors",
    "Live": "gpuserve.api",
    "batch": "gpuserve.api",
    "up": "gpuserve.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpuserve' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
