"""The ways in: what they say of themselves, and how they are handed to shells and other readers."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from dotenv import dotenv_values
from hypothesis import assume, given
from hypothesis import strategies as st

from gpuserve import access
from gpuserve.access import FORMATS, SHARE_MAX, SHARE_MIN, check_share_seconds, describe, github, render
from gpuserve.errors import UsageError
from gpuserve.records import ACCESS_MODES, Deployment, Endpoint

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SIGNED = "a1b2c3d4e5f6g7h8"
ODD = 'a\'b "c" $HOME `id` $(id) \\ ! * ; & | # ~ {x} %'


def deployment(**more: object) -> Deployment:
    fields: dict[str, object] = {
        "name": "tiny-7f3c", "sandbox_id": "0f5b1f6e-9d2a", "place": "daytona", "state": "started", "engine": "vllm",
        "model": "org/tiny", "served_model": "tiny", "port": 8000, "session": "serve", "run_id": "r1",
    }  # fmt: skip
    return Deployment(**(fields | more))  # type: ignore[arg-type]


def entered(token: str = "tok-123", **more: str) -> Endpoint:
    return access.token_endpoint("https://8000-sb.proxy.example/", token, "tiny", **more)


def by_bash(script: str) -> dict[str, str]:
    return _by_shell("bash", script)


def _by_shell(shell: str, script: str) -> dict[str, str]:
    print_all = 'printf \'%s\\0\' "$ENDPOINT" "$TOKEN" "$API_KEY"'
    done = subprocess.run(
        [shell],
        input=f"{script}\n{print_all}\n".encode(),
        capture_output=True,
        check=True,
        env={"HOME": "/wrong"},
        timeout=30,
    )
    assert not done.stderr
    return dict(zip(("ENDPOINT", "TOKEN", "API_KEY"), done.stdout.decode().split("\0"), strict=False))


def test_token_endpoint() -> None:
    endpoint = entered()
    assert endpoint.url == "https://8000-sb.proxy.example"
    assert endpoint.headers == {"x-daytona-preview-token": "tok-123"}
    assert access.preview_token(endpoint) == "tok-123"
    assert "tok-123" not in repr(endpoint)


def test_signed_endpoint() -> None:
    endpoint = access.signed_endpoint(f"https://8000-{SIGNED}.proxy.example/", "tiny")
    assert (endpoint.url, dict(endpoint.headers)) == (f"https://8000-{SIGNED}.proxy.example", {})
    assert access.preview_token(endpoint) == ""


@pytest.mark.parametrize("seconds", [SHARE_MIN, 60, SHARE_MAX])
def test_share_seconds_in_range(seconds: int) -> None:
    check_share_seconds(seconds)  # raises nothing
    assert 1 <= seconds <= 86400


@pytest.mark.parametrize("seconds", [-1, 0, 86401])
def test_share_seconds_out_of_range(seconds: int) -> None:
    with pytest.raises(UsageError) as caught:
        check_share_seconds(seconds)
    assert "1 to 86400" in caught.value.hint


def test_the_token_is_said_to_open_everything() -> None:
    [sentence] = describe(deployment())
    assert "whole sandbox" in sentence
    assert "shell" in sentence
    assert "can't be revoked" in sentence


def test_shares_say_how_long_they_last() -> None:
    ends = [NOW + timedelta(hours=1), NOW - timedelta(seconds=1)]
    lives, ended = describe(deployment(port=8123), token=False, shared_until=ends, now=NOW)
    assert "port 8123" in lives
    assert "for another 1h" in lives
    assert "expired" in ended


def test_public_and_engine_key_are_said() -> None:
    [public] = describe(deployment(public=True), token=False)
    assert "anybody" in public
    assert "without a credential" in public
    [key] = describe(deployment(keyed=True), token=False)
    assert "the engine's own API key" in key
    both, open_too = describe(deployment(public=True, keyed=True), token=False, uncovered="/health is open.")
    assert "anybody" in both
    assert "asks for its API key" in both
    assert open_too == "/health is open."
    assert describe(deployment(), token=False) == ()


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("token", "preview token"),
        ("signed", "until it expires or is revoked"),
        ("key", "still asks for its API key"),
        ("open", "without a credential"),
    ],
)
def test_each_way_in_is_told_beforehand(mode: str, says: str) -> None:
    assert set(ACCESS_MODES) == {"token", "signed", "key", "open"}
    [sentence] = access.planned(mode, keyed=mode == "key")
    assert says in sentence
    assert access.planned(mode, keyed=True, uncovered="Open.")[-1] == "Open."
    assert any("API key" in one for one in access.planned(mode, keyed=True)) is (mode != "open")


def test_env_is_the_guides_two_lines() -> None:
    text = render(entered(), deployment(), "env")
    assert text == "export ENDPOINT=https://8000-sb.proxy.example\nexport TOKEN=tok-123\n"
    assert by_bash(text) == {"ENDPOINT": "https://8000-sb.proxy.example", "TOKEN": "tok-123", "API_KEY": ""}


def test_an_engine_key_comes_along() -> None:
    values = by_bash(render(entered(api_key=ODD), deployment(), "env"))
    assert values["API_KEY"] == ODD


def test_a_signed_url_unsets_an_older_token() -> None:
    endpoint = access.signed_endpoint(f"https://8000-{SIGNED}.proxy.example", "tiny")
    assert by_bash("export TOKEN=old\n" + render(endpoint, deployment(), "env"))["TOKEN"] == ""


@pytest.mark.parametrize("token", [ODD, "line\nbreak", "-n", "", "é€😀", "a" * 5000])
def test_bash_reads_back_any_token(token: str) -> None:
    assert by_bash(render(entered(token), deployment(), "env"))["TOKEN"] == token


@pytest.mark.parametrize("token", [ODD, "line\nbreak", "\\'", "trailing\\", "$HOME", ""])
def test_fish_reads_back_any_token(token: str) -> None:
    text = render(entered(token), deployment(), "fish")
    assert text.startswith("set -gx ENDPOINT 'https://8000-sb.proxy.example'\nset -gx TOKEN '")
    quoted = text.split("set -gx TOKEN ", 1)[1].removesuffix("\n")
    assert quoted[1:-1].replace("\\'", "\0").replace("\\\\", "\1").replace("\0", "'").replace("\1", "\\") == token
    if shutil.which("fish"):
        assert _by_shell("fish", text)["TOKEN"] == token


@given(st.text())
def test_a_dotenv_value_reads_back_or_is_refused(token: str) -> None:
    try:
        text = render(entered(token, api_key="two words"), deployment(), "dotenv")
    except UsageError:
        assume(False)
    values = dotenv_values(stream=io.StringIO(text))
    assert values == {"ENDPOINT": "https://8000-sb.proxy.example", "TOKEN": token, "API_KEY": "two words"}


@pytest.mark.parametrize("token", ["tok-123", "a b", "a#b", "a = b", "$HOME", "", " outer ", '"quoted"'])
def test_dotenv_holds_what_it_can(token: str) -> None:
    values = dotenv_values(stream=io.StringIO(render(entered(token), deployment(), "dotenv")))
    assert values["TOKEN"] == token


@pytest.mark.parametrize("token", ["it's", "a\nb", "${HOME}", "back\\", "\x1b"])
def test_dotenv_refuses_what_readers_disagree_on(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(entered(token), deployment(), "dotenv")
    assert token not in caught.value.message


def test_github() -> None:
    export = github(entered(api_key="engine-key"), deployment())
    assert export.masks == "::add-mask::tok-123\n::add-mask::engine-key\n"
    assert export.outputs == (
        "endpoint=https://8000-sb.proxy.example\n"
        "token=tok-123\n"
        "name=tiny-7f3c\n"
        "sandbox-id=0f5b1f6e-9d2a\n"
        "model=tiny\n"
        "base-url=https://8000-sb.proxy.example/v1\n"
        "api-key=engine-key\n"
    )
    assert "api-key" not in github(entered(), deployment()).outputs
    assert render(entered(), deployment(), "github") == github(entered(), deployment()).outputs


def test_github_masks_the_token_in_a_signed_url() -> None:
    export = github(access.signed_endpoint(f"https://8000-{SIGNED}.proxy.example", "tiny"), deployment())
    assert export.masks == f"::add-mask::{SIGNED}\n"


def outputs_read(text: str) -> dict[str, str]:
    """As GitHub's runner reads the file: ``name=value`` lines and ``name<<END`` blocks."""
    values: dict[str, str] = {}
    lines = iter(text.removesuffix("\n").split("\n"))
    for line in lines:
        name, mark, end = line.partition("<<")
        if mark and "=" not in name:
            values[name] = "\n".join(takewhile(lambda part, end=end: part != end, lines))  # type: ignore[misc]
        else:
            name, _, values[name] = line.partition("=")
    return values


@pytest.mark.parametrize(
    "token", ["a\nb", "a\nEND\nendpoint=https://evil.example", "END\nEND-END", "a\r\nb", "x=y<<z", "%0A"]
)
def test_a_token_can_not_write_outputs_of_its_own(token: str) -> None:
    export = github(entered(token), deployment())
    values = outputs_read(export.outputs)
    assert values["token"] == token
    assert values["endpoint"] == "https://8000-sb.proxy.example"
    assert len(values) == 6
    [mask] = export.masks.splitlines()
    data = mask.removeprefix("::add-mask::")
    assert data.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") == token


def test_json_holds_all_that_a_program_needs() -> None:
    content = json.loads(render(entered(api_key="k"), deployment(expires_at=NOW), "json"))
    assert content == {
        "id": "0f5b1f6e-9d2a",
        "name": "tiny-7f3c",
        "engine": "vllm",
        "model": "org/tiny",
        "served_model": "tiny",
        "access": "token",
        "endpoint": "https://8000-sb.proxy.example",
        "base_url": "https://8000-sb.proxy.example/v1",
        "token": "tok-123",
        "headers": {"x-daytona-preview-token": "tok-123"},
        "api_key": "k",
        "expires_at": "2026-11-22T12:00:00+00:00",
    }


def test_url_and_id_are_one_bare_line() -> None:
    assert render(entered(), deployment(), "url") == "https://8000-sb.proxy.example\n"
    assert render(entered(), deployment(), "id") == "0f5b1f6e-9d2a\n"


def test_an_unknown_form_names_the_known() -> None:
    with pytest.raises(UsageError) as caught:
        render(entered(), deployment(), "yaml")
    assert caught.value.hint == "known: " + ", ".join(FORMATS)
    assert FORMATS == ("env", "dotenv", "fish", "github", "json", "url", "id")
