"""The preview proxy, driven with real clients against a real server in a real sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
from daytona import Sandbox, SessionExecuteRequest

from gpuserve.host.daemon import HostInfo
from host_tools import client_of, plain, until

SERVER = Path(__file__).parents[1] / "data" / "preview_server.py"
STEPS = 4


class Served:
    """A sandbox with the test server in it."""

    def __init__(self, info: HostInfo, sandbox: Sandbox) -> None:
        self.info, self.sandbox = info, sandbox
        self.home = Path(str(sandbox.get_work_dir()))
        sandbox.fs.upload_file(SERVER.read_bytes(), "server.py")
        sandbox.process.create_session("server")
        sandbox.process.execute_session_command(
            "server", SessionExecuteRequest(command="python3 server.py", run_async=True)
        )
        until((self.home / "port").exists)
        self.port = int((self.home / "port").read_text())
        link = sandbox.get_preview_link(self.port)
        self.url, self.token = link.url, link.token
        self.headers = {"X-Daytona-Preview-Token": self.token}

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=30, **options)  # type: ignore[arg-type]

    def clear(self) -> None:
        for name in ("hanging", "let-go", "socket-closed", "received", *(f"go-{step}" for step in range(STEPS))):
            (self.home / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def shared(host: HostInfo) -> Iterator[Served]:
    sandbox = client_of(host).create(plain(ephemeral=True), timeout=30)
    yield Served(host, sandbox)
    sandbox.delete(timeout=30, wait=True)


@pytest.fixture
def served(shared: Served) -> Served:
    shared.clear()
    return shared


def test_the_address_is_path_style_on_loopback(served: Served) -> None:
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/preview/{served.port}-{served.sandbox.id}", served.url)
    assert re.fullmatch(r"[a-z0-9]{32}", served.token)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_method_target_and_body_arrive_unchanged(served: Served, method: str) -> None:
    with served.client() as client:
        seen = client.request(method, "/a%2Fb/ü?x=1&x=2&y=%20z", content=b"body").json()
    assert (seen["method"], seen["body"]) == (method, "body")
    assert seen["target"] == "/a%2Fb/%C3%BC?x=1&x=2&y=%20z"
    assert seen["headers"]["content-length"] == "4"


def test_the_bare_address_is_the_servers_root(served: Served) -> None:
    with served.client() as client:
        assert client.get(served.url).json()["target"] == "/"
        assert client.get(f"{served.url}?q=1").json()["target"] == "/?q=1"


def test_own_credentials_stay_outside_and_others_go_through(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:
        with_key = client.get("/", headers={"Authorization": f"Bearer {served.info.key}"}).json()
        in_query = client.get(f"/x?a=1&DAYTONA_SANDBOX_AUTH_KEY={served.token}&b=%202").json()
        both = client.get("/", headers=served.headers | {"Authorization": "Bearer engine-key"}).json()
    assert "authorization" not in with_key["headers"]
    assert in_query["target"] == "/x?a=1&b=%202"
    assert both["headers"]["authorization"] == "Bearer engine-key"
    assert "x-daytona-preview-token" not in both["headers"]


def test_hop_by_hop_headers_stay_outside(served: Served) -> None:
    with served.client() as client:
        sent = {"Connection": "keep-alive, X-Mine", "X-Mine": "1", "TE": "trailers", "X-Kept": "yes"}
        headers = client.get("/", headers=sent).json()["headers"]
    assert not {"x-mine", "te"} & set(headers)
    assert headers["x-kept"] == "yes"
    assert headers["host"] == f"127.0.0.1:{served.port}"
    assert headers["x-forwarded-host"] == httpx.URL(served.url).netloc.decode()


def test_each_piece_of_a_stream_arrives_before_the_next_is_sent(served: Served) -> None:
    with served.client() as client, client.stream("GET", "/stream") as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = response.iter_lines()
        for step in range(STEPS):
            (served.home / f"go-{step}").touch()
            assert next(line for line in lines if line).endswith(f'"content": "{step}"}}}}]}}')


def test_the_openai_client_streams_with_a_signed_address(served: Served) -> None:
    from openai import OpenAI

    url = served.sandbox.create_signed_preview_url(served.port, 60).url
    with (
        OpenAI(base_url=f"{url}/v1", api_key="EMPTY") as client,
        client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "count"}], stream=True
        ) as stream,
    ):
        for step in range(STEPS):
            (served.home / f"go-{step}").touch()
            assert next(stream).choices[0].delta.content == str(step)


def test_a_large_body_streams_up_with_its_length(served: Served) -> None:
    body = os.urandom(5 << 20)
    with served.client() as client:
        seen = client.post("/digest", content=body).json()
    assert seen == {"sha256": hashlib.sha256(body).hexdigest(), "length": len(body), "chunked": ""}


def test_an_upload_is_passed_on_while_it_is_still_being_sent(served: Served) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"first"
        until((served.home / "received").exists)
        assert (served.home / "received").read_text() == "5"
        yield b"second"

    with served.client() as client:
        seen = client.post("/digest", content=pieces()).json()
    assert (seen["length"], seen["chunked"]) == (11, "chunked")


def test_a_client_that_leaves_ends_the_request_inside(served: Served) -> None:
    with served.client() as client, pytest.raises(httpx.ReadTimeout):
        client.get("/hang", timeout=httpx.Timeout(30, read=0.5))
    assert (served.home / "hanging").exists()
    until((served.home / "let-go").exists)


def test_a_server_that_breaks_off_does_not_look_complete(served: Served) -> None:
    with served.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/break")


@pytest.mark.parametrize(
    ("to", "outside"),
    [
        ("/other?x=1", "/preview/{port}-{id}/other?x=1"),
        ("http://127.0.0.1:{port}/other", "/preview/{port}-{id}/other"),
        ("relative", "relative"),
        ("https://example.org/x", "https://example.org/x"),
        ("//example.org/x", "//example.org/x"),
    ],
)
def test_redirects_are_passed_on_and_lead_back_through_the_preview(served: Served, to: str, outside: str) -> None:
    names = {"port": served.port, "id": served.sandbox.id}
    with served.client() as client:
        answer = client.get("/redirect", params={"to": to.format(**names)})
    assert (answer.status_code, answer.headers["location"]) == (302, outside.format(**names))


def test_repeated_headers_stay_repeated_and_head_has_no_body(served: Served) -> None:
    with served.client() as client:
        assert client.get("/cookies").headers.get_list("set-cookie") == ["a=1", "b=2"]
        head = client.head("/anything")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


def test_the_host_form_of_the_address(served: Served) -> None:
    base = httpx.URL(served.url)
    names = {"Host": f"{served.port}-{served.sandbox.id}.proxy.localhost:{base.port}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{base.port}", headers=served.headers | names) as client:
        assert client.get("/api/config?x=1").json()["target"] == "/api/config?x=1"
        assert client.get("/redirect", params={"to": "/y"}).headers["location"] == "/y"
        client.headers.pop("X-Daytona-Preview-Token")
        assert client.get("/").status_code == 401


def test_nothing_listening_is_a_502_without_a_body(served: Served) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = served.sandbox.get_preview_link(free.getsockname()[1]).url
        answer = httpx.get(url, headers=served.headers)
    assert (answer.status_code, answer.content) == (502, b"")


def test_a_port_of_another_program_is_not_reached(served: Served, host: HostInfo, sandbox: Sandbox) -> None:
    own_port = httpx.URL(host.url).port
    assert own_port is not None
    daemon_itself = served.sandbox.get_preview_link(own_port)
    assert httpx.get(f"{daemon_itself.url}/api/config", headers=served.headers).status_code == 502
    neighbour = sandbox.get_preview_link(served.port)
    answer = httpx.get(neighbour.url, headers={"X-Daytona-Preview-Token": neighbour.token})
    assert (answer.status_code, answer.content) == (502, b"")


async def _echo(url: str, headers: dict[str, str]) -> None:
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(url, protocols=("other", "chat"), max_msg_size=0, autoping=False) as ws,
    ):
        assert ws.protocol == "chat"
        for text in ("hello", "x" * (2 << 20)):
            await ws.send_str(text)
            assert await ws.receive_str(timeout=20) == text
        await ws.send_bytes(b"\0\xff")
        assert await ws.receive_bytes(timeout=20) == b"\0\xff"
        await ws.ping(b"beat")
        answer = await ws.receive(timeout=20)
        assert (answer.type, bytes(answer.data)) == (aiohttp.WSMsgType.PONG, b"beat")
        await ws.send_str("close")
        closed = await ws.receive(timeout=20)
        assert (closed.type, closed.data, closed.extra) == (aiohttp.WSMsgType.CLOSE, 4321, "as asked")


def test_a_websocket_carries_everything_both_ways(served: Served) -> None:
    asyncio.run(_echo(f"{served.url}/ws", served.headers))


def test_the_close_code_of_a_client_reaches_the_server(served: Served) -> None:
    async def leave() -> None:
        async with aiohttp.ClientSession(headers=served.headers) as session:
            ws = await session.ws_connect(f"{served.url}/ws")
            await ws.close(code=4000, message=b"enough")

    asyncio.run(leave())
    until((served.home / "socket-closed").exists)
    until((served.home / "socket-closed").read_text)
    assert (served.home / "socket-closed").read_text() == "4000"


@pytest.mark.parametrize(("query", "with_token", "status"), [("?refuse", True, 418), ("", False, 401)])
def test_a_refused_websocket_shows_its_status(served: Served, query: str, with_token: bool, status: int) -> None:
    async def knock() -> None:
        async with aiohttp.ClientSession(headers=served.headers if with_token else {}) as session:
            await session.ws_connect(f"{served.url}/ws{query}")

    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        asyncio.run(knock())
    assert refused.value.status == status
