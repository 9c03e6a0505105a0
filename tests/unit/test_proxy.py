"""The proxy between two ends that are watched: what passes, when it passes, and what never does."""
# ruff: noqa: SIM117  # nested: who serves, who is between, who asks

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from yarl import URL

from fakes.wire import Answer, Heard, Wire
from gpuserve.errors import Conflict
from gpuserve.proxy.server import Proxy
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import Endpoint

TOKEN = "preview-token-0123456789"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAMS = 200


def upstream(url: str, token: str = TOKEN, **more: Any) -> Upstream:
    return Upstream(Endpoint(url=url, served_model="m", headers={"x-daytona-preview-token": token}, **more))


@asynccontextmanager
async def between(answer: Answer, key: str = "", **more: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, Wire]]:
    """A client whose base address is a proxy in front of a server."""
    async with Wire(answer) as wire, Proxy({"": Way("it", upstream(wire.url, **more))}, key=key) as proxy:
        async with aiohttp.ClientSession(proxy.url) as client:
            yield client, wire


def story(told: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A test that is a coroutine."""

    def run() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await told()

        asyncio.run(bounded())

    run.__name__, run.__doc__ = told.__name__, told.__doc__
    return run


async def hello(heard: Heard) -> None:
    await heard.body()
    await heard.say(200, b'{"ok": true}', Content_Type="application/json")


@story
async def test_credentials_are_exchanged() -> None:
    """The client's go no further, the endpoint's are added; cookies pass in neither direction."""

    async def answer(heard: Heard) -> None:
        await heard.body()
        await heard.say(
            200, b"{}", Set_Cookie="daytona-sandbox-auth-x=secret", X_Kept="yes", Connection="x-gone", X_Gone="1"
        )

    mine = {
        "Authorization": "Bearer sk-mine",
        "x-api-key": "sk-mine",
        "Cookie": "a=b",
        "X-Daytona-Preview-Token": "other",
    }
    more = {"Connection": "keep-alive, x-hop", "X-Hop": "1", "X-Title": "kept"}
    async with between(answer, api_key="engine-key") as (client, wire):
        async with client.post(
            URL("/v1/chat/completions?a=%2Fb", encoded=True), json=CHAT, headers=mine | more
        ) as reply:
            assert reply.status == 200
            assert "set-cookie" not in reply.headers
            assert "x-gone" not in reply.headers
            assert reply.headers["x-kept"] == "yes"
        (heard,) = wire.heard
    assert heard.target == "/v1/chat/completions?a=%2Fb"
    assert heard.headers["x-daytona-preview-token"] == TOKEN
    assert heard.headers["authorization"] == "Bearer engine-key"
    assert heard.headers["x-title"] == "kept"
    assert heard.headers["host"] == wire.url.removeprefix("http://")
    assert {"cookie", "x-api-key", "x-hop"}.isdisjoint(heard.headers)


@story
async def test_without_a_key_of_the_engine_none_is_sent() -> None:
    async with between(hello) as (client, wire):
        async with client.post("/v1/x", json={}, headers={"Authorization": "Bearer sk-mine"}) as reply:
            assert reply.status == 200
        assert "authorization" not in wire.heard[0].headers


@story
async def test_each_event_arrives_before_the_next_is_sent() -> None:
    """The server waits for the client's word that it has an event before it sends another."""
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def answer(heard: Heard) -> None:
        await heard.body()
        await heard.begin()
        for number in range(20):
            await heard.chunk(b"data: %d\n\n" % number)
            assert await seen.get() == number
        await heard.chunk(b"")

    async with between(answer) as (client, _), client.post("/v1/chat/completions", json=CHAT) as reply:
        got = []
        while line := await reply.content.readline():
            if line.startswith(b"data: "):
                got.append(int(line[6:]))
                seen.put_nowait(got[-1])
    assert got == list(range(20))


@story
async def test_a_body_goes_up_as_it_comes() -> None:
    """The client sends its second half only after the server has the first."""
    has_first = asyncio.Event()
    half = b"x" * 100_000

    async def answer(heard: Heard) -> None:
        assert heard.headers["content-length"] == str(2 * len(half))
        assert await heard.reader.readexactly(len(half)) == half
        has_first.set()
        assert await heard.reader.readexactly(len(half)) == half
        await heard.say(200, b"{}")

    async def body() -> AsyncIterator[bytes]:
        yield half
        await has_first.wait()
        yield half

    async with between(answer) as (client, _):
        headers = {"Content-Length": str(2 * len(half))}
        async with client.post("/v1/files", data=body(), headers=headers) as reply:
            assert reply.status == 200


@story
async def test_many_streams_at_once() -> None:
    """No stream gets its second event before all have their first: none waits for another to end."""
    open_now = 0
    all_open = asyncio.Event()

    async def answer(heard: Heard) -> None:
        nonlocal open_now
        await heard.body()
        await heard.begin()
        await heard.chunk(b"data: 1\n\n")
        open_now += 1
        if open_now == STREAMS:
            all_open.set()
        await all_open.wait()
        await heard.chunk(b"data: 2\n\n")
        await heard.chunk(b"")

    async with Wire(answer) as wire, Proxy({"": Way("it", upstream(wire.url))}) as proxy:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

            async def one() -> bytes:
                async with client.post(f"{proxy.url}/v1/chat/completions", json=CHAT) as reply:
                    return await reply.read()

            answers = await asyncio.gather(*(one() for _ in range(STREAMS)))
    assert answers == [b"data: 1\n\ndata: 2\n\n"] * STREAMS


@story
async def test_a_stream_cut_upstream_is_cut_here() -> None:
    async def answer(heard: Heard) -> None:
        await heard.body()
        await heard.begin()
        await heard.chunk(b"data: 1\n\n")
        heard.writer.close()

    async with between(answer) as (client, wire), client.post("/v1/chat/completions", json=CHAT) as reply:
        assert await reply.content.readline() == b"data: 1\n"
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()
        assert len(wire.heard) == 1


@story
async def test_an_answer_shorter_than_promised_is_cut_here() -> None:
    async def answer(heard: Heard) -> None:
        await heard.body()
        heard.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        heard.writer.close()

    async with between(answer) as (client, _), client.post("/v1/chat/completions", json=CHAT) as reply:
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()


@pytest.mark.parametrize("before", ["the head", "the end"])
def test_a_client_that_goes_away_ends_its_request(before: str) -> None:
    ended = asyncio.Event()
    arrived = asyncio.Event()

    async def answer(heard: Heard) -> None:
        await heard.body()
        if before == "the end":
            await heard.begin()
            await heard.chunk(b"data: 1\n\n")
        arrived.set()
        assert await heard.reader.read() == b""
        ended.set()

    async def told() -> None:
        async with Wire(answer) as wire:
            way = Way("it", upstream(wire.url))
            async with Proxy({"": way}) as proxy:
                async with aiohttp.ClientSession() as client:
                    asked = asyncio.create_task(client.post(f"{proxy.url}/v1/chat/completions", json=CHAT))
                    await arrived.wait()
                    assert way.in_flight == 1
                    if before == "the end":
                        (await asked).close()
                    asked.cancel()
                await ended.wait()
                while way.in_flight:  # noqa: ASYNC110  # a plain number, which nobody announces
                    await asyncio.sleep(0.01)

    story(told)()


FOREIGN = [
    ({"Host": "evil.example"}, "foreign_host"),
    ({"Host": "127.0.0.1.evil.example:8000"}, "foreign_host"),
    ({"Host": "localhost@evil.example"}, "foreign_host"),
    ({"Host": ""}, "foreign_host"),
    ({"Origin": "https://evil.example"}, "foreign_origin"),
    ({"Origin": "http://localhost.evil.example"}, "foreign_origin"),
    ({"Origin": "null"}, "foreign_origin"),
    ({"Sec-Fetch-Site": "cross-site"}, "foreign_origin"),
]


@pytest.mark.parametrize(("headers", "code"), FOREIGN, ids=lambda value: str(value))
def test_pages_of_others_are_refused(headers: dict[str, str], code: str) -> None:
    @story
    async def told() -> None:
        async with between(hello) as (client, wire):
            for ask in (client.get, client.post, client.options):
                async with ask("/v1/models", headers=headers) as reply:
                    assert reply.status == 403
                    error = (await reply.json())["error"]
                    assert error["code"] == code
                    assert error["message"]
            assert wire.heard == []

    told()


@pytest.mark.parametrize(
    "headers", [{"Host": "localhost:1234"}, {"Host": "[::1]:9"}, {"Origin": "http://localhost:3000"}, {}], ids=str
)
def test_programs_of_this_machine_are_served(headers: dict[str, str]) -> None:
    @story
    async def told() -> None:
        async with between(hello) as (client, _), client.get("/v1/models", headers=headers) as reply:
            assert reply.status == 200

    told()


ESCAPES = [
    "/v1/../../toolbox",
    "/..",
    "/v1/%2e%2E/x",
    "/v1/%252e%252e/x",
    "/v1/..%2fx",
    "/v1/..\\x",
    "/./x",
    "http://a/",
]


@pytest.mark.parametrize("target", ESCAPES)
def test_no_path_leads_out(target: str) -> None:
    """A preview address may be a path, and the credential opens all that stands beside it."""

    @story
    async def told() -> None:
        async with Wire(hello) as wire, Proxy({"": Way("it", upstream(f"{wire.url}/preview/8000-x"))}) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readline()
            writer.close()
            assert b" 400 " in head
            assert wire.heard == []

    told()


@story
async def test_a_key_is_asked_for_where_there_is_one() -> None:
    async with between(hello, key="local-0123456789") as (client, wire):
        for wrong in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "local-0123456789"}, {"x-api-key": "ü"}):
            async with client.get("/v1/models", headers=wrong) as reply:
                assert reply.status == 401
                assert (await reply.json())["error"]["code"] == "invalid_api_key"
        assert wire.heard == []
        for right in ({"Authorization": "Bearer local-0123456789"}, {"x-api-key": "local-0123456789"}):
            async with client.get("/v1/models", headers=right) as reply:
                assert reply.status == 200
        assert all("local-" not in str(heard.headers) for heard in wire.heard)


@story
async def test_several_ways_have_a_path_each() -> None:
    async with Wire(hello) as one, Wire(hello) as two:
        ways = {"/w/a": Way("a", upstream(one.url, "token-a")), "/w/b": Way("b", upstream(two.url, "token-b"))}
        async with Proxy(ways) as proxy, aiohttp.ClientSession() as client:
            for path, status in {
                "/w/a/v1/x": 200,
                "/w/b/v1/y?z": 200,
                "/w/c/v1": 404,
                "/v1": 404,
                "/w/ab/v1": 404,
            }.items():
                async with client.get(proxy.url + path) as reply:
                    assert reply.status == status
        assert [(heard.target, heard.headers["x-daytona-preview-token"]) for heard in one.heard] == [
            ("/v1/x", "token-a")
        ]
        assert [(heard.target, heard.headers["x-daytona-preview-token"]) for heard in two.heard] == [
            ("/v1/y?z", "token-b")
        ]


def test_a_port_in_use_is_told() -> None:
    @story
    async def told() -> None:
        async with Proxy({}) as proxy:
            with pytest.raises(Conflict, match=str(proxy.port)):
                await Proxy({}, port=proxy.port).__aenter__()

    told()


@story
async def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    """The server closes just as the second request arrives; a first request on a new connection isn't repeated."""

    async def answer(heard: Heard) -> None:
        await heard.body()
        if len([one for one in wire.heard if one.connection == heard.connection]) == 1:
            await heard.say(200, json.dumps({"connection": heard.connection}).encode())
        else:
            heard.writer.close()

    async with between(answer) as (client, wire):
        answers = []
        for _ in range(2):
            async with client.post("/v1/chat/completions", json=CHAT) as reply:
                assert reply.status == 200
                answers.append(json.loads(await reply.read())["connection"])
        assert answers == [1, 2]
        assert [heard.connection for heard in wire.heard] == [1, 1, 2]


@story
async def test_a_server_that_hangs_up_is_told_and_not_asked_again() -> None:
    async def answer(heard: Heard) -> None:
        await heard.body()
        heard.writer.close()

    async with between(answer) as (client, wire), client.post("/v1/chat/completions", json=CHAT) as reply:
        assert reply.status == 502
        text = await reply.text()
        assert json.loads(text)["error"]["code"] == "upstream_unreachable"
        assert wire.url.split(":")[-1] not in text
        assert len(wire.heard) == 1


@story
async def test_nobody_there() -> None:
    async with Proxy({"": Way("it", upstream("http://127.0.0.1:9"))}) as proxy, aiohttp.ClientSession() as client:
        async with client.post(f"{proxy.url}/v1/chat/completions", json=CHAT) as reply:
            assert reply.status == 502
            said = (await reply.json())["error"]["message"]
            assert said == "it can't be reached: Connection refused"  # and not where it is
