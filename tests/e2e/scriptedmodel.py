"""A deployment whose model says what a test scripted: the platform, its sandbox and the command are real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.usershell import Shell
from fakes.scripted import Reply, Scripted, stream
from gpuserve.records import Deployment, Endpoint
from gpuserve.state import Cache, Remembered

if TYPE_CHECKING:
    from daytona import Daytona, Sandbox


def piece(finish: str | None = None, **fields: object) -> dict[str, object]:
    """One piece of an answer."""
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def says(*parts: str) -> Reply:
    """An answer in pieces."""
    return stream(*(piece(content=part) for part in parts), piece("stop"))


def calls(*asked: tuple[str, str]) -> Reply:
    """Calls: name and arguments."""
    listed = [
        {"index": at, "id": f"id{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(asked)
    ]
    return stream(piece(tool_calls=listed), piece("tool_calls"))


@contextmanager
def scripted(shell: Shell, *replies: Reply, name: str = "scripted", token: str = "") -> Iterator[Scripted]:
    """A model that answers so, remembered in the shell's cache as a live deployment; ``token`` is its preview token."""
    host = shell.ok("host", "status", "--show-key", "--json").data
    cache = Cache(Path(shell.env["XDG_CACHE_HOME"]) / "gpuserve" / "deployments.json")
    with Scripted(*replies) as server:
        deployment = Deployment(
            name=name, sandbox_id=f"{name}-id", place="local", state="started", engine="llamacpp", model="m",
            served_model="m", port=8000, session="s", run_id="r",
        )  # fmt: skip
        headers = {"x-daytona-preview-token": token} if token else {}
        endpoint = Endpoint(url=server.url, served_model="m", headers=headers)
        cache.remember(Remembered(deployment=deployment, endpoint=endpoint, api_url=host["api_url"]))
        assert not cache.warning
        try:
            yield server
        finally:
            cache.forget(deployment.sandbox_id)


def client(shell: Shell) -> Daytona:
    """The real SDK on the shell's host."""
    from daytona import Daytona, DaytonaConfig

    host = shell.ok("host", "status", "--show-key", "--json").data
    return Daytona(DaytonaConfig(api_key=host["api_key"], api_url=host["api_url"], target="local"))


def rooms(daytona: Daytona) -> list[Sandbox]:
    """The sandboxes of conversations that there are now."""
    from daytona import ListSandboxesQuery

    found = daytona.list(ListSandboxesQuery(labels={"gpuserve/tools": "1"}))
    return [one for one in found if str(getattr(one.state, "value", one.state)) not in ("destroyed", "destroying")]
