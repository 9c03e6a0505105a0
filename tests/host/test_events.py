"""Events and REST answers tell one story, in one order."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from daytona import Sandbox, SessionExecuteRequest

from gpuserve.host.daemon import HostInfo
from gpuserve.host.events import Events


def test_an_answer_waits_until_the_events_before_it_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that came after the answer to a deletion made the SDK's wait for it fail with the state of before.

    Here the sending is slow. (The SDK reads events in a thread of its own: under load it may still see one late.)
    """
    sent: list[str] = []

    async def emit(event: str, *_: object, **__: object) -> None:
        await asyncio.sleep(0.05)
        sent.append(event)

    async def story() -> None:
        events = Events("key")
        monkeypatch.setattr(events._server, "emit", emit)
        work = asyncio.create_task(events.run())
        for name in ("one", "two", "three"):
            events.publish(name, {})
        await events.sent(within=30)
        assert sent == ["one", "two", "three"]
        work.cancel()

    asyncio.run(story())


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
