"""Short words that the control-plane, preview and daemon tests share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
from daytona import CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig, Image

from gpuserve.host.daemon import HostInfo


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until ``condition`` holds; fail the test when it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def image(reference: str = "python:3.12", **options: Any) -> CreateSandboxFromImageParams:
    """Parameters for a sandbox from an image."""
    return CreateSandboxFromImageParams(image=Image.base(reference), **options)


def plain(**options: Any) -> CreateSandboxFromSnapshotParams:
    """Parameters for a sandbox without an image."""
    return CreateSandboxFromSnapshotParams(**options)


def call(host: HostInfo, method: str, path: str, **options: Any) -> httpx.Response:
    """A request to the API with the host's key."""
    headers = {"Authorization": f"Bearer {host.key}"}
    return httpx.request(method, f"{host.url}{path}", headers=headers, timeout=30, **options)


def client_of(info: HostInfo) -> Daytona:
    """The real SDK, pointed at a host."""
    return Daytona(DaytonaConfig(api_key=info.key, api_url=info.url, target="us-east-1"))
