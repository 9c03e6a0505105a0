"""Asking an endpoint that answers badly or not at all: which error it is, and that no credential shows in it."""

from __future__ import annotations

import socket
import threading
import traceback

import pytest

from fakes.scripted import CUT, RESET, Reply, Scripted, as_json, sse, stream
from gpuserve.client.chat import ChatReply, ChatRequest, ask
from gpuserve.errors import (
    EngineError,
    GpuserveError,
    NetworkError,
    NotAuthenticated,
    NotFound,
    PlatformError,
    RateLimited,
    TimedOut,
    UsageError,
)
from gpuserve.records import Endpoint

HI = ChatRequest(prompt="hi")
TOKEN, KEY, SIGNED = "preview-token-abc", "engine-key-xyz", "a1b2c3d4e5f6g7h8"
SSE = {"Content-Type": "text/event-stream"}
PIECE = sse({"choices": [{"index": 0, "delta": {"content": "x"}}]})
PROXY_401 = {
    "statusCode": 401,
    "message": "unauthorized: authentication failed: Invalid or expired token",
    "code": "UNAUTHORIZED",
    "path": "/v1/chat/completions",
    "method": "POST",
}


def ask_for_error(server: Scripted, path: str = "", timeout: float = 20, **more: object) -> GpuserveError:
    endpoint = Endpoint(url=server.url + path, served_model="tiny", **more)  # type: ignore[arg-type]
    with pytest.raises(GpuserveError) as caught:
        ask(endpoint, HI, timeout=timeout)
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in (TOKEN, KEY, SIGNED) if secret in shown]
    return caught.value


def check_refusal(reply: Reply, kind: type[GpuserveError], *words: str, **more: object) -> None:
    with Scripted(reply) as server:
        error = ask_for_error(server, **more)  # type: ignore[arg-type]
    assert type(error) is kind, error
    for word in words:
        assert word in f"{error.message} {error.hint}"


def check_fault(reply: Reply, kind: type[GpuserveError], *words: str) -> None:
    check_refusal(reply, kind, *words, headers={"X-Daytona-Preview-Token": TOKEN}, api_key=KEY)


def test_the_proxy_refuses_a_preview_token() -> None:
    check_fault(as_json(PROXY_401, 401), NotAuthenticated, "preview token", "Invalid or expired")


@pytest.mark.parametrize("status", [401, 403])
def test_the_proxy_refuses_a_signed_url(status: int) -> None:
    check_refusal(
        as_json(PROXY_401, status),
        NotAuthenticated,
        "signed URL has expired",
        "gpuserve share",
        path=f"/preview/8000-{SIGNED}",
    )


def test_the_proxy_wants_a_credential() -> None:
    body = b"unauthorized: missing authentication: provide a preview access token"
    check_refusal(Reply(401, body=body), NotAuthenticated, "wants a credential", "missing authentication")


@pytest.mark.parametrize(
    "content",
    [{"error": "Unauthorized"}, {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}],
)
def test_the_engine_refuses_its_key(content: object) -> None:
    check_fault(as_json(content, 401), NotAuthenticated, "the engine refuses its API key")
    check_refusal(
        as_json(content, 401), NotAuthenticated, "the engine wants an API key", path=f"/preview/8000-{SIGNED}"
    )


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_a_sign_in_page_is_not_followed(status: int) -> None:
    page = Reply(status, {"Location": "/login", "Content-Type": "text/html"}, b'<a href="/login">Found</a>')
    check_fault(page, NotAuthenticated, "sign-in page")


def test_a_sign_in_page_with_status_400() -> None:
    check_fault(Reply(400, body=b"<!DOCTYPE html><title>Auth0</title>"), NotAuthenticated, "sign-in page")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "bad request: no IP address found. Is the Sandbox started?"),
        (400, "bad request: failed to get runner info: no such sandbox"),
        (404, "not found: not found"),
    ],
)
def test_the_sandbox_is_gone(status: int, message: str) -> None:
    check_fault(as_json({"statusCode": status, "message": message}, status), NotFound, "sandbox", "gpuserve status")


def test_nothing_listens() -> None:
    check_fault(Reply(502), NetworkError, "nothing listens", "gpuserve logs")
    check_fault(Reply(502, body=b"<html>Bad Gateway</html>"), NetworkError, "nothing listens")


@pytest.mark.parametrize(
    "content",
    [
        {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}},
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
        {"detail": "The model `x` does not exist."},
    ],
)
def test_an_unknown_model(content: object) -> None:
    check_fault(as_json(content, 404), NotFound, "`x` does not exist", "'tiny'")


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "request (3001 tokens) exceeds the available context size (512 tokens), try increasing it",
    ],
)
def test_a_prompt_that_is_too_long(message: str) -> None:
    check_fault(as_json({"error": {"message": message, "code": 400}}, 400), EngineError, message, "shorten the prompt")


@pytest.mark.parametrize(
    ("reply", "kind", "word"),
    [
        (as_json({"detail": [{"loc": ["body"], "msg": "field required"}]}, 422), EngineError, "field required"),
        (as_json({"error": {"code": 503, "message": "Loading model"}}, 503), EngineError, "Loading model"),
        (Reply(500, body=b"Internal Server Error"), EngineError, "Internal Server Error"),
        (Reply(500), EngineError, "no explanation"),
        (Reply(500, body=b'"out of luck"'), EngineError, "out of luck"),
        (Reply(500, body=b"[7]"), EngineError, "[7]"),
        (Reply(400, body=b"a" * 100_000), EngineError, "…"),
        (Reply(400, body=b"[" * 60_000), EngineError, "…"),
        (Reply(400, body=b"\x1b[31mred\x00"), EngineError, "[31mred"),
        (Reply(504), TimedOut, "504"),
        (as_json({"statusCode": 504, "message": "gateway timeout"}, 504), TimedOut, "proxy"),
        (as_json({"statusCode": 429, "message": "slow down"}, 429), RateLimited, "slow down"),
        (as_json({"statusCode": 500, "message": "oops"}, 500), PlatformError, "oops"),
    ],
)  # fmt: skip
def test_other_statuses(reply: Reply, kind: type[GpuserveError], word: str) -> None:
    check_fault(reply, kind, word)


def test_a_server_that_repeats_the_credentials_does_not_leak_them() -> None:
    words = f"bad header {TOKEN}, key {KEY}"
    check_fault(as_json({"error": {"message": words}}, 400), EngineError, "bad header ***, key ***")
    check_fault(stream({"error": {"message": words}}), EngineError, "***")
    check_fault(Reply(body=words.encode()), EngineError, "***")


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "CUDA went away", "code": 500}},
        {"error": "CUDA went away"},
        {"object": "error", "message": "CUDA went away"},
    ],
)
def test_an_error_inside_the_stream(error: object) -> None:
    check_fault(Reply(headers=SSE, chunks=[PIECE, sse(error), sse("[DONE]")]), EngineError, "CUDA went away")
    check_fault(as_json(error), EngineError, "CUDA went away")


def test_a_stream_that_just_ends_was_cut_off() -> None:
    check_fault(Reply(headers=SSE, chunks=[PIECE]), EngineError, "cut off after 1 piece")
    check_fault(Reply(headers=SSE, chunks=[]), EngineError, "cut off")
    check_fault(Reply(headers=SSE, chunks=[PIECE, PIECE[:20]]), EngineError, "cut off")


@pytest.mark.parametrize("ending", [RESET, CUT])
def test_a_connection_that_breaks(ending: object) -> None:
    check_fault(Reply(headers=SSE, chunks=[PIECE, ending]), NetworkError, "broke")  # type: ignore[list-item]
    check_fault(Reply(0, chunks=[ending]), NetworkError, "broke")  # type: ignore[list-item]


def test_a_connection_that_breaks_after_the_model_had_finished_loses_nothing() -> None:
    last = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    with Scripted(Reply(headers=SSE, chunks=[PIECE, last, CUT])) as server:
        reply = ask(Endpoint(url=server.url, served_model="tiny"), HI)
    assert isinstance(reply, ChatReply)
    assert (reply.content, reply.usage) == ("x", None)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (Reply(body=b"OK"), "OK"),
        (Reply(body=b""), "nothing"),
        (Reply(body=b"<!doctype html><p>Warning</p>"), "a web page"),
        (Reply(headers=SSE, chunks=[b"data: {oops\n\n"]), "{oops"),
        (as_json(["no", "object"]), "no chat completion"),
        (as_json({"hello": "world"}), "no chat completion"),
        (as_json({"choices": []}), "no chat completion"),
    ],
)
def test_an_answer_that_is_no_chat_completion(reply: Reply, word: str) -> None:
    check_fault(reply, EngineError, word)


def test_silence() -> None:
    gate = threading.Event()
    with Scripted(Reply(headers=SSE, chunks=[PIECE, gate])) as server:
        error = ask_for_error(server, timeout=0.2)
        gate.set()
    assert isinstance(error, TimedOut)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NetworkError, match=r"can't connect to http://127\.0\.0\.1:\d+: .*refused"):
        ask(Endpoint(url=f"http://127.0.0.1:{port}", served_model="tiny"), HI)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://[::1", "http://x:port"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        ask(Endpoint(url=url, served_model="tiny"), HI)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX-Evil: 1", f"{KEY}é", f"{KEY}\x00"])
def test_a_credential_that_no_header_can_hold_is_not_shown(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask(Endpoint(url="http://127.0.0.1:9", served_model="tiny", api_key=key), HI)
    assert "Authorization" in caught.value.message
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_proxy_from_the_environment_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    done = stream({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]})
    with Scripted(done) as server:
        assert ask(Endpoint(url=server.url, served_model="tiny"), HI).content == "x"
