"""Events and REST answers tell one story, in one order."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from daytona import CreateSandboxFromImageParams, Daytona, DaytonaError, Sandbox, SessionExecuteRequest

from gpuserve.host.daemon import HostInfo


def test_a_deletion_right_after_a_failed_build_is_not_told_of_the_failure(daytona: Daytona) -> None:
    """An event that came after the answer to the deletion made the SDK's wait fail, about one time in eight."""
    for number in range(25):
        name = f"failing-{number}"
        with pytest.raises(DaytonaError):
            daytona.create(
                CreateSandboxFromImageParams(name=name, image="nobody/nothing:1", ephemeral=True), timeout=30
            )
        daytona.get(name).delete(timeout=30, wait=True)


def test_a_log_stream_answers_to_the_sdks_version(host: HostInfo, sandbox: Sandbox) -> None:
    """The TypeScript SDK offers its version as a subprotocol where it can set no header, and wants it back."""
    sandbox.process.create_session("s")
    command = sandbox.process.execute_session_command("s", SessionExecuteRequest(command="echo seen", run_async=True))
    path = f"/process/session/s/command/{command.cmd_id}/logs?follow=true"
    url = host.url.removesuffix("/api") + f"/toolbox/{sandbox.id}{path}"

    async def follow() -> tuple[str | None, bytes]:
        headers = {"Authorization": f"Bearer {host.key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as client,
            client.ws_connect(url, protocols=("other", "X-Daytona-SDK-Version~0.216.0")) as socket,
        ):
            return socket.protocol, await socket.receive_bytes(timeout=20)

    protocol, first = asyncio.run(follow())
    assert protocol == "X-Daytona-SDK-Version~0.216.0"
    assert b"seen" in first
