"""Who gets through the preview, for how long, and what the loopback port refuses to web pages."""

from __future__ import annotations

import re

import httpx
import pytest
from daytona import Daytona, Sandbox, SessionExecuteRequest
from daytona.common.errors import DaytonaBadRequestError, DaytonaNotFoundError

from gpuserve.host.daemon import HostInfo
from host_tools import plain, until

SERVER = (
    'python3 -c \'import http.server as h; s = h.ThreadingHTTPServer(("127.0.0.1", 0), h.SimpleHTTPRequestHandler); '
)
SERVER += 'open("port", "w").write(str(s.server_port) + "\\n"); s.serve_forever()\''
NEVER_PUBLIC = (22222, 2280, 33333)


def serve(sandbox: Sandbox) -> int:
    """Start a file server in the sandbox; its port."""
    sandbox.process.create_session("server")
    sandbox.process.execute_session_command("server", SessionExecuteRequest(command=SERVER, run_async=True))
    text = ""

    def written() -> bool:
        nonlocal text
        text = sandbox.process.exec("cat port 2>/dev/null || true").result
        return text.endswith("\n")

    until(written)
    return int(text)


@pytest.fixture
def port(sandbox: Sandbox) -> int:
    return serve(sandbox)


@pytest.mark.parametrize(
    ("headers", "query", "message"),
    [
        ({}, "", "unauthorized: missing authentication"),
        ({"X-Daytona-Preview-Token": "wrong"}, "", "Invalid or expired token"),
        ({"Authorization": "Bearer EMPTY"}, "", "Invalid or expired token"),
        ({"Authorization": "Bearer schön"}, "", "Invalid or expired token"),
        ({}, "?DAYTONA_SANDBOX_AUTH_KEY=wrong", "Invalid or expired token"),
    ],
)
def test_without_a_good_credential_it_is_a_401_in_json(
    sandbox: Sandbox, headers: dict[str, str], query: str, message: str
) -> None:
    url = sandbox.get_preview_link(8000).url
    answer = httpx.get(f"{url}/x{query}", headers=[(name.encode(), value.encode()) for name, value in headers.items()])
    body = answer.json()
    assert (answer.status_code, body["statusCode"], body["code"]) == (401, 401, "UNAUTHORIZED")
    assert (body["method"], message in body["message"]) == ("GET", True)
    assert "set-cookie" not in answer.headers


def test_each_kind_of_credential_opens_the_port(host: HostInfo, sandbox: Sandbox, port: int) -> None:
    link = sandbox.get_preview_link(port)
    signed = sandbox.create_signed_preview_url(port)
    assert re.fullmatch(r"[a-z0-9]{16}", signed.token)
    token = {"X-Daytona-Preview-Token": link.token}
    for url, headers in [
        (link.url, token),
        (link.url, {"Authorization": f"Bearer {host.key}"}),
        (f"{link.url}?DAYTONA_SANDBOX_AUTH_KEY={link.token}", {}),
        (signed.url, {}),
        (signed.url, {"Authorization": "Bearer EMPTY"}),
    ]:
        assert httpx.get(url, headers=headers).status_code == 200
    assert "set-cookie" not in httpx.get(signed.url).headers


def test_a_signed_address_opens_one_port_until_it_is_revoked(sandbox: Sandbox, port: int) -> None:
    signed = sandbox.create_signed_preview_url(port, expires_in_seconds=3600)
    elsewhere = signed.url.replace(f"/{port}-", "/2280-")
    assert httpx.get(elsewhere).status_code == 401
    sandbox.expire_signed_preview_url(2280, signed.token)
    assert httpx.get(signed.url).status_code == 200
    sandbox.expire_signed_preview_url(port, signed.token)
    assert httpx.get(signed.url).status_code == 401
    sandbox.expire_signed_preview_url(port, signed.token)


def test_a_signed_address_expires(sandbox: Sandbox, port: int) -> None:
    signed = sandbox.create_signed_preview_url(port, expires_in_seconds=1)
    until(lambda: httpx.get(signed.url).status_code == 401)


@pytest.mark.parametrize("seconds", [0, -1, 86_401])
def test_a_signed_address_lasts_at_most_a_day(sandbox: Sandbox, seconds: int) -> None:
    with pytest.raises(DaytonaBadRequestError, match="between 1 second and 24 hours"):
        sandbox.create_signed_preview_url(8000, expires_in_seconds=seconds)


@pytest.mark.parametrize("number", ["0", "65536", "x", "-1"])
def test_an_impossible_port_is_refused(host: HostInfo, sandbox: Sandbox, number: str) -> None:
    url = f"{host.url}/sandbox/{sandbox.id}/ports/{number}/preview-url"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {host.key}"})
    assert (answer.status_code, answer.json()["message"]) == (400, "Invalid port")


def test_public_opens_every_port_but_three(sandbox: Sandbox, port: int) -> None:
    url = sandbox.get_preview_link(port).url
    assert httpx.get(url).status_code == 401
    sandbox.set_public(True)
    assert httpx.get(url).status_code == 200
    for number in NEVER_PUBLIC:
        assert httpx.get(sandbox.get_preview_link(number).url).status_code == 401
    sandbox.set_public(False)
    assert httpx.get(url).status_code == 401


def test_a_stopped_sandbox_says_so_and_a_start_makes_a_new_token(daytona: Daytona) -> None:
    sandbox = daytona.create(plain(), timeout=30)
    before = sandbox.get_preview_link(8000)
    sandbox.stop(timeout=30)
    answer = httpx.get(before.url, headers={"X-Daytona-Preview-Token": before.token})
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "bad request: no IP address found. Is the Sandbox started?",
    )
    sandbox.start(timeout=30)
    assert sandbox.get_preview_link(8000).token != before.token
    assert httpx.get(before.url, headers={"X-Daytona-Preview-Token": before.token}).status_code == 401


def test_a_sandbox_that_is_gone_takes_its_addresses_with_it(host: HostInfo, daytona: Daytona) -> None:
    sandbox = daytona.create(plain(ephemeral=True), timeout=30)
    link, signed = sandbox.get_preview_link(8000), sandbox.create_signed_preview_url(8000)
    sandbox.delete(timeout=30, wait=True)
    assert httpx.get(signed.url).status_code == 401
    assert httpx.get(link.url, headers={"X-Daytona-Preview-Token": link.token}).status_code == 401
    answer = httpx.get(link.url, headers={"Authorization": f"Bearer {host.key}"})
    assert (answer.status_code, "failed to get runner info" in answer.json()["message"]) == (400, True)
    with pytest.raises(DaytonaNotFoundError):
        sandbox.get_preview_link(8000)


def test_a_preview_counts_as_activity_unless_it_asks_not_to(sandbox: Sandbox, port: int) -> None:
    link = sandbox.get_preview_link(port)
    token = {"X-Daytona-Preview-Token": link.token}

    def last_activity() -> str:
        sandbox.refresh_data()
        assert sandbox.last_activity_at is not None
        return sandbox.last_activity_at

    first = last_activity()
    httpx.get(link.url, headers=token | {"X-Daytona-Skip-Last-Activity-Update": "true"})
    httpx.get(link.url)
    assert last_activity() == first
    httpx.get(link.url, headers=token)
    assert last_activity() > first


@pytest.mark.parametrize(("fault", "status"), [("dead-proxy", 502), ("login-redirect", 307)])
def test_injected_preview_faults(sandbox: Sandbox, port: int, fault: str, status: int) -> None:
    link = sandbox.get_preview_link(port)
    token = {"X-Daytona-Preview-Token": link.token}
    sandbox.set_labels({"host/fault": fault})
    answer = httpx.get(link.url, headers=token)
    assert answer.status_code == status
    assert ("login" in answer.headers.get("location", "")) is (status == 307)
    sandbox.set_labels({})
    assert httpx.get(link.url, headers=token).status_code == 200


@pytest.mark.parametrize(
    ("name", "status"),
    [
        *[("localhost:{port}", 200), ("LOCALHOST", 200), ("[::1]:{port}", 200), ("evil.example:{port}", 403)],
        *[("127.0.0.1.evil.example", 403), ("", 403), ("8000x-y.localhost", 403), ("user@127.0.0.1", 403)],
    ],
)
def test_only_loopback_names_are_answered(host: HostInfo, name: str, status: int) -> None:
    given = name.format(port=httpx.URL(host.url).port)
    answer = httpx.get(f"{host.url}/config", headers={"Host": given})
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("path", "refused"), [("/api/sandbox", True), ("/toolbox/x/files", True), ("/preview/1-x", False)]
)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_other_origins_reach_neither_api_nor_toolbox(
    host: HostInfo, path: str, refused: bool, origin: str
) -> None:
    base = host.url.removesuffix("/api")
    answer = httpx.get(f"{base}{path}", headers={"Origin": origin, "Authorization": f"Bearer {host.key}"})
    assert (answer.status_code == 403) is refused


def test_the_own_origin_is_let_in(host: HostInfo) -> None:
    headers = {"Origin": host.url.removesuffix("/api"), "Authorization": f"Bearer {host.key}"}
    assert httpx.get(f"{host.url}/sandbox", headers=headers).status_code == 200
