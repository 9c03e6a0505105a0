"""Plain HTTP to a sandbox's toolbox, for what the SDK does not send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from daytona import Sandbox

from gpuserve.host.daemon import HostInfo


@dataclass(frozen=True)
class Toolbox:
    """One sandbox's toolbox, with the host's API key."""

    host: HostInfo
    sandbox: Sandbox

    @property
    def base(self) -> str:
        """Where its routes begin."""
        return f"{self.sandbox.toolbox_proxy_url}/{self.sandbox.id}"

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        """One request; ``more`` goes to httpx."""
        headers = {"Authorization": f"Bearer {self.host.key}"} | (headers or {})
        return httpx.request(method, self.base + path, headers=headers, timeout=30, **more)
