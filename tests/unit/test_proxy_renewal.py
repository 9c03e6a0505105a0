"""What the platform's proxy says in the engine's place, and how a credential that ended is replaced."""
# ruff: noqa: SIM117  # nested: who serves, who is between, who asks

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from fakes.wire import Heard, Wire
from gpuserve.errors import NotFound
from gpuserve.proxy.body import KEPT
from gpuserve.proxy.server import Proxy
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import Endpoint

OLD, NEW = "old-token-0123456789", "new-token-0123456789"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
UNAUTHORIZED = {"statusCode": 401, "message": "unauthorized: authentication failed: Invalid or expired token"}


class Renewal:
    """A way in that is renewed; counts how often."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.count = 0
        self.url = ""

    def __call__(self) -> Upstream:
        self.count += 1
        if not self.tokens:
            raise NotFound("the deployment is gone")
        return self.upstream(self.tokens.pop(0))

    def upstream(self, token: str) -> Upstream:
        return Upstream(Endpoint(url=self.url, served_model="m", headers={"x-daytona-preview-token": token}))


class Platform:
    """A server that lets in who shows the new token; ``refuse`` is how it answers others."""

    def __init__(self, refuse: tuple[int, bytes, dict[str, str]]) -> None:
        self.refuse = refuse
        self.bodies: list[bytes] = []

    async def __call__(self, heard: Heard) -> None:
        body = await heard.body()
        if heard.headers["x-daytona-preview-token"] == NEW:
            self.bodies.append(body)
            await heard.say(200, b'{"ok": true}', Content_Type="application/json")
        else:
            status, said, headers = self.refuse
            await heard.say(status, said, **headers)


REFUSALS = {
    "401": (401, json.dumps(UNAUTHORIZED).encode(), {"Content_Type": "application/json"}),
    "403": (403, b"", {}),
    "307 to a login page": (307, b"", {"Location": "https://login.example/authorize?state=secret"}),
    "302 to itself": (302, b"", {"Location": "/login"}),
    "a login page as 400": (400, b"<!doctype html><html>Sign in", {"Content_Type": "text/html"}),
    "a login page as 200": (200, b"<html>Log in...", {"Content_Type": "text/html"}),
}


async def ask(renewal: Renewal, platform: Platform, count: int = 1, **options: Any) -> list[tuple[int, str]]:
    """Status and text of ``count`` requests at once, through a proxy that starts with the old token."""
    options = options or {"json": CHAT}
    async with Wire(platform) as wire:
        renewal.url = wire.url
        way = Way("it", renewal.upstream(OLD), renewal)
        async with Proxy({"": way}) as proxy, aiohttp.ClientSession(proxy.url) as client:

            async def one() -> tuple[int, str]:
                async with client.post("/v1/chat/completions", allow_redirects=False, **options) as reply:
                    assert "location" not in reply.headers
                    return reply.status, await reply.text()

            return list(await asyncio.gather(*(one() for _ in range(count))))


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refused_credential_is_renewed_and_the_request_sent_again(refusal: tuple[int, bytes, dict[str, str]]) -> None:
    renewal, platform = Renewal(NEW), Platform(refusal)
    assert asyncio.run(ask(renewal, platform)) == [(200, '{"ok": true}')]
    assert renewal.count == 1
    assert [json.loads(body) for body in platform.bodies] == [CHAT]


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_what_can_not_be_renewed_is_told_as_our_side_s_failure(refusal: tuple[int, bytes, dict[str, str]]) -> None:
    # The platform knows no deployment any more, or only the credential that is refused.
    for renewal, said in ((Renewal(), "it: the deployment is gone"), (Renewal(OLD), "it: the platform refuses")):
        ((status, text),) = asyncio.run(ask(renewal, Platform(refusal)))
        assert (status, renewal.count) == (502, 1)
        error = json.loads(text)["error"]
        assert error["code"] == "upstream_refused"
        assert error["message"].startswith(said)
        assert OLD not in text
        assert renewal.url.split(":")[-1] not in text
        assert "login.example" not in text


def test_many_refused_at_once_ask_the_platform_once() -> None:
    renewal, platform = Renewal(NEW), Platform(REFUSALS["401"])
    assert asyncio.run(ask(renewal, platform, 50)) == [(200, '{"ok": true}')] * 50
    assert renewal.count == 1


def test_many_that_can_not_be_helped_ask_the_platform_once() -> None:
    renewal, platform = Renewal(), Platform(REFUSALS["401"])
    assert {status for status, _ in asyncio.run(ask(renewal, platform, 50))} == {502}
    assert renewal.count == 1


@pytest.mark.parametrize("size", [100_000, 1_000_000], ids=str)
def test_a_long_body_is_sent_again_whole(size: int) -> None:
    body = bytes(range(256)) * (size // 256)
    renewal, platform = Renewal(NEW), Platform(REFUSALS["401"])
    assert asyncio.run(ask(renewal, platform, data=body))[0][0] == 200
    assert platform.bodies == [body]


def test_a_body_that_came_only_in_part_is_sent_again_and_goes_on() -> None:
    """The platform refuses before it has read the body, as it does."""
    refused = asyncio.Event()
    half = b"x" * 200_000

    async def answer(heard: Heard) -> None:
        if heard.headers["x-daytona-preview-token"] == OLD:
            await heard.reader.readexactly(1000)
            await heard.say(401, json.dumps(UNAUTHORIZED).encode(), Connection="close")
            heard.writer.close()
            refused.set()
        else:
            assert await heard.body() == half + half
            await heard.say(200, b"{}")

    async def body() -> AsyncIterator[bytes]:
        yield half
        await refused.wait()
        yield half

    async def told() -> None:
        renewal = Renewal(NEW)
        async with Wire(answer) as wire:
            renewal.url = wire.url
            async with Proxy({"": Way("it", renewal.upstream(OLD), renewal)}) as proxy:
                async with aiohttp.ClientSession() as client:
                    headers = {"Content-Length": str(2 * len(half))}
                    async with client.post(f"{proxy.url}/v1/x", data=body(), headers=headers) as reply:
                        assert reply.status == 200

    asyncio.run(asyncio.wait_for(told(), 60))


def test_a_body_too_long_to_keep_is_not_sent_again() -> None:
    renewal, platform = Renewal(NEW), Platform(REFUSALS["401"])
    ((status, text),) = asyncio.run(ask(renewal, platform, data=io.BytesIO(bytes(KEPT + 1))))
    assert (status, json.loads(text)["error"]["code"]) == (502, "upstream_refused")
    assert platform.bodies == []


ENGINE_SAYS = [
    (401, b'{"error": "Unauthorized"}'),
    (400, b'{"error": {"message": "maximum context length is 2048 tokens", "code": 400}}'),
    (404, b'{"error": {"message": "The model `x` does not exist."}}'),
    (422, b'{"detail": []}'),
    (500, b'{"error": {"message": "boom"}}'),
    (502, b'{"error": {"message": "a tool of mine failed"}}'),
    (503, b'{"error": {"message": "Loading model", "code": 503}}'),
    (304, b""),
]


@pytest.mark.parametrize(("status", "body"), ENGINE_SAYS, ids=lambda value: str(value)[:4])
def test_what_the_engine_says_is_passed_on(status: int, body: bytes) -> None:
    renewal = Renewal(OLD)
    refusal = (status, body, {"Content_Type": "application/json", "X_Engine": "1"})
    got = asyncio.run(ask(renewal, Platform(refusal)))
    assert got == [(status, body.decode())]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (502, b"", "nothing listens behind it"),
        (
            400,
            b'{"statusCode": 400, "message": "bad request: no IP address found. Is the Sandbox started?"}',
            "stopped",
        ),
    ],
    ids=["engine not up", "sandbox stopped"],
)
def test_what_the_platform_says_is_put_into_words(status: int, body: bytes, words: str) -> None:
    ((code, text),) = asyncio.run(ask(Renewal(OLD), Platform((status, body, {"Content_Type": "application/json"}))))
    error = json.loads(text)["error"]
    assert (code, error["code"]) == (502, "upstream_unavailable")
    assert words in error["message"]


def test_a_credential_is_renewed_before_it_ends() -> None:
    renewal, platform = Renewal(NEW, NEW), Platform(REFUSALS["401"])

    async def told() -> None:
        async with Wire(platform) as wire:
            renewal.url = wire.url
            soon = replace(renewal.upstream(OLD), expires_at=datetime.now(UTC) + timedelta(seconds=30))
            async with Proxy({"": Way("it", soon, renewal)}) as proxy, aiohttp.ClientSession() as client:
                for _ in range(3):
                    async with client.post(f"{proxy.url}/v1/x", json=CHAT) as reply:
                        assert reply.status == 200
            assert {heard.headers["x-daytona-preview-token"] for heard in wire.heard} == {NEW}

    asyncio.run(told())
    assert renewal.count == 1


def test_a_credential_that_can_not_be_renewed_ahead_is_used_to_its_end() -> None:
    renewal, platform = Renewal(), Platform(REFUSALS["401"])

    async def told() -> None:
        async with Wire(platform) as wire:
            renewal.url = wire.url
            soon = replace(renewal.upstream(NEW), expires_at=datetime.now(UTC) + timedelta(seconds=30))
            async with Proxy({"": Way("it", soon, renewal)}) as proxy, aiohttp.ClientSession() as client:
                async with client.post(f"{proxy.url}/v1/x", json=CHAT) as reply:
                    assert reply.status == 200

    asyncio.run(told())
