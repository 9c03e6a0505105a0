"""One look at a health route: which answer means what."""

from __future__ import annotations

import socket
import threading

import pytest

from fakes.scripted import CUT, RESET, Reply, Scripted, as_json
from gpuserve.client.health import Health, HealthState, Prober, probe
from gpuserve.client.transport import open_client
from gpuserve.records import Endpoint

TOKEN, SIGNED = "preview-token-abc", "a1b2c3d4e5f6g7h8"


def endpoint_of(server: Scripted, path: str = "") -> Endpoint:
    return Endpoint(url=server.url + path, served_model="m", headers={"x-daytona-preview-token": TOKEN})


def look(reply: Reply, path: str = "") -> Health:
    with Scripted(reply) as server, Prober(endpoint_of(server, path), "/health") as prober:
        health = prober.probe()
    assert TOKEN not in health.detail
    assert SIGNED not in health.detail
    return health


def proxy(status: int, message: str) -> Reply:
    return as_json({"statusCode": status, "message": message}, status)


def test_ready() -> None:
    health = look(Reply(200))
    assert health == Health(HealthState.READY, status=200)
    assert health.ready


@pytest.mark.parametrize(
    ("reply", "state", "word"),
    [
        (Reply(204), HealthState.NOT_YET, "204"),
        (Reply(502), HealthState.NOT_YET, "nothing listens"),
        (as_json({"error": {"message": "Loading model"}}, 503), HealthState.NOT_YET, "Loading model"),
        (Reply(503), HealthState.NOT_YET, "HTTP 503"),
        (Reply(500, body=TOKEN.encode()), HealthState.NOT_YET, "***"),
        (as_json({"detail": "Not Found"}, 404), HealthState.NOT_YET, "has no /health"),
        (Reply(400), HealthState.NOT_YET, "HTTP 400"),
        (proxy(401, "unauthorized: authentication failed: bad"), HealthState.REFUSED, "refuses"),
        (as_json({"error": "Unauthorized"}, 401), HealthState.REFUSED, "API key"),
        (Reply(403), HealthState.REFUSED, "refuses"),
        (Reply(307, {"Location": "/login"}), HealthState.REFUSED, "sign-in"),
        (Reply(302, {"Location": "/login"}), HealthState.REFUSED, "sign-in"),
        (proxy(400, "bad request: no IP address found. Is the Sandbox started?"), HealthState.GONE, "gone"),
        (proxy(400, "bad request: failed to get runner info: x"), HealthState.GONE, "gone"),
        (proxy(404, "not found: not found"), HealthState.GONE, "gone"),
        (Reply(0, chunks=[RESET]), HealthState.UNREACHABLE, "broke"),
        (Reply(0, chunks=[CUT]), HealthState.UNREACHABLE, "broke"),
    ],
)
def test_answers(reply: Reply, state: HealthState, word: str) -> None:
    health = look(reply)
    assert health.state is state
    assert word in health.detail
    assert not health.ready


def test_an_expired_signed_url_is_said_to_be_that() -> None:
    health = look(proxy(401, "unauthorized: authentication failed: bad"), f"/preview/8000-{SIGNED}")
    assert health.state is HealthState.REFUSED
    assert "signed URL has expired" in health.detail


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with Prober(Endpoint(url=url, served_model="m"), "/health") as prober:
        assert prober.probe().state is HealthState.UNREACHABLE


def test_an_address_that_is_none_is_unreachable() -> None:
    with Prober(Endpoint(url="nonsense", served_model="m"), "/health") as prober:
        assert prober.probe().state is HealthState.UNREACHABLE


def test_silence_is_not_yet() -> None:
    gate = threading.Event()
    with Scripted(Reply(chunks=[gate])) as server:
        with open_client(server.url, silence=20) as client:
            health = probe(client, endpoint_of(server), "/health", timeout=0.2)
        gate.set()
    assert health == Health(HealthState.NOT_YET, "no answer within 0.2 s")


def test_the_request_is_no_activity_and_the_connection_is_kept() -> None:
    with Scripted(Reply(503, body=b"not yet"), Reply(502), Reply(200, body=b"{}")) as server:
        with Prober(endpoint_of(server), "/health_generate") as prober:
            states = [prober.probe().state for _ in range(3)]
        assert server.connections == 1
        seen = server.requests[0]
    assert states == [HealthState.NOT_YET, HealthState.NOT_YET, HealthState.READY]
    assert (seen.method, seen.path) == ("GET", "/health_generate")
    assert seen.headers["x-daytona-preview-token"] == TOKEN
    assert seen.headers["x-daytona-skip-last-activity-update"] == "true"


def test_no_cookie_is_kept() -> None:
    """The proxy's cookie would keep an expired signed URL alive for this client alone."""
    cookie = {"Set-Cookie": "daytona-sandbox-auth-x=secret; Path=/; Max-Age=3600"}
    with Scripted(Reply(200, cookie), Reply(200)) as server:
        with Prober(endpoint_of(server), "/health") as prober:
            assert prober.probe().ready
            assert prober.probe().ready
        assert "cookie" not in server.requests[1].headers
