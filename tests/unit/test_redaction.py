"""Secrets leave every text; everything else stays as it was."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gpuserve.redaction import MASK, Redactor, secrets_in, shown_url, signed_token

HF = "hf_" + "aB3" * 11
DTN = "dtn_" + "0123456789abcdef" * 2
SIGNED = "a1b2c3d4e5f6g7h8"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlX2hlcmU"
SANDBOX = "0f5b1f6e-9d2a-4c86-bb4e-0d2f1c7a9e55"

secrets = st.lists(st.text(min_size=6, max_size=12), min_size=1, max_size=4)
crowded = st.lists(st.text(alphabet="ab*\n'\"", min_size=6, max_size=9), min_size=1, max_size=4)


@given(secrets | crowded, st.data())
@example(["abcdef", "cdefgh12"], None)
@example(["xxxxxx", "a***bc"], None)
@example(["******", "abcdef"], None)
def test_no_planted_secret_survives(planted: list[str], data: st.DataObject | None) -> None:
    if data is None:
        text = "".join(planted) + "axxxxxxbc abcdefgh12 abcdefabcdef"
    else:
        parts = data.draw(st.lists(st.sampled_from(planted) | st.text(alphabet="ab* \n", max_size=5), max_size=12))
        text = "".join(parts)
    shown = Redactor(planted)(text)
    assert not [secret for secret in planted if secret in shown]


@given(secrets, st.text(alphabet="xyz {}", max_size=10), st.text(alphabet="xyz {}", max_size=10))
def test_what_stands_around_a_secret_stays(planted: list[str], before: str, after: str) -> None:
    secret = planted[0]
    assume(secret not in before + MASK + after)
    around = Redactor([secret])(f"{before}|{secret}|{after}")
    assume("|" not in secret)
    assert around == f"{before}|{MASK}|{after}"


@given(st.lists(st.text(alphabet="0123456789", min_size=6), max_size=3), st.text(alphabet="abc XYZ\n.-/:{}'\"é€"))
def test_text_without_secrets_is_unchanged(planted: list[str], text: str) -> None:
    assert Redactor(planted)(text) == text


@given(st.text(), secrets)
def test_twice_is_as_good_as_once(text: str, planted: list[str]) -> None:
    redact = Redactor(planted)
    assert redact(redact(text)) == redact(text)


@given(st.text(min_size=6, max_size=20))
def test_escaped_forms_are_found(secret: str) -> None:
    redact = Redactor([secret])
    for form in (json.dumps({"k": secret}), repr({"k": secret}), f"/x?k={quote(secret, safe='')}"):
        shown = redact(form)
        assert secret not in shown
        assert quote(secret, safe="") not in shown
        assert json.dumps(secret)[1:-1] not in shown


def test_a_secret_of_several_lines_is_found_line_by_line() -> None:
    redact = Redactor(["first-line\nsecond-line"])
    assert [redact(line) for line in ("x first-line", "second-line y")] == ["x ***", "*** y"]


def test_a_short_secret_would_blank_the_log() -> None:
    assert Redactor(["true", ""])("it is true") == "it is true"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {HF}.", "token ***."),
        (f"key={DTN}", "key=***"),
        (f"cookie {JWT};", "cookie ***;"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("{'authorization': 'bearer abc.def-123'}", "{'authorization': 'bearer ***'}"),
        ("X-Daytona-Preview-Token: q_w-e1\n", "X-Daytona-Preview-Token: ***\n"),
        ("curl -H 'x-daytona-preview-token: q_w-e1' url", "curl -H 'x-daytona-preview-token: ***' url"),
        ('{"x-daytona-preview-token": "q_w-e1", "a": 1}', '{"x-daytona-preview-token": "***", "a": 1}'),
        ("GET /?DAYTONA_SANDBOX_AUTH_KEY=abc&x=1", "GET /?DAYTONA_SANDBOX_AUTH_KEY=***&x=1"),
        (f"https://8000-{SIGNED}.proxy.example/v1", "https://8000-***.proxy.example/v1"),
        (f"http://127.0.0.1:9/preview/8000-{SIGNED}/v1", "http://127.0.0.1:9/preview/8000-***/v1"),
        (f"/preview/8000-{SIGNED}", "/preview/8000-***"),
        ("https://user:pass@host/x", "https://***@host/x"),
        ("https://s3/x?X-Amz-Signature=abcdef&y=1", "https://s3/x?X-Amz-Signature=***&y=1"),
        ("/files/download?path=a&expires=1&signature=v1_abc", "/files/download?path=a&expires=1&signature=***"),
        ("export HF_TOKEN=whatever", "export HF_TOKEN=***"),
        ("VLLM_API_KEY='two words' next", "VLLM_API_KEY=*** next"),
        ("args: {'api_key': ['sk-test'], 'port': 1}", "args: {'api_key': ***, 'port': 1}"),
        ("args: {'hf_token': 'it is', 'port': 1}", "args: {'hf_token': ***, 'port': 1}"),
        ("Args(api_key='sk-test', admin_api_key=\"x\", port=1)", "Args(api_key=***, admin_api_key=***, port=1)"),
        ("vllm serve m --api-key sk-test --port 1", "vllm serve m --api-key *** --port 1"),
        ("['serve', '--api-key', 'sk-test', '--port']", "['serve', '--api-key', ***, '--port']"),
        ("--api-key=sk-test", "--api-key=***"),
    ],
)  # fmt: skip
def test_shapes(text: str, shown: str) -> None:
    assert Redactor()(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "non-default args: {'api_key': None, 'hf_token': None, 'max_model_len': 4096}",
        "ServerArgs(api_key=None, tokenizer_path='models/x', max_total_tokens=16384)",
        f"https://8000-{SANDBOX}.proxy.example/v1/models",
        f"http://127.0.0.1:9/preview/8000-{SANDBOX}/health",
        "GPU KV cache size: 1,213,456 tokens; Maximum concurrency for 131,072 tokens: 9.26x",
        "max_tokens=512 stop_token_ids=[1, 2] bos_token='<s>'",
        "the bearer of this letter",
        "hf_hub_download hf_transfer dtn_x",
        "https://huggingface.co/openai/gpt-oss-20b/resolve/main/config.json?download=true",
        "(APIServer pid=27046) INFO 11-22 03:20:45 [utils.py:278] Starting on http://0.0.0.0:8000",
        "sha256:3c5d2f7a0b1e4c6d8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d1e",
    ],
)
def test_ordinary_lines_stay(text: str) -> None:
    assert Redactor(["some-other-secret"])(text) == text


@pytest.mark.parametrize(
    ("url", "token"),
    [
        (f"https://8000-{SIGNED}.proxy.example", SIGNED),
        (f"http://127.0.0.1:9/preview/8000-{SIGNED}", SIGNED),
        (f"http://127.0.0.1:9/preview/8000-{SIGNED}/v1", SIGNED),
        (f"https://8000-{SANDBOX}.proxy.example", ""),
        (f"http://127.0.0.1:9/preview/8000-{SANDBOX}", ""),
        ("http://127.0.0.1:8000", ""),
        ("", ""),
    ],
)
def test_signed_token(url: str, token: str) -> None:
    assert signed_token(url) == token


def test_shown_url() -> None:
    assert (
        shown_url(f"https://me:pw@8000-{SIGNED}.proxy.example:8443/v1?token=x#y")
        == "https://8000-***.proxy.example:8443/v1"
    )
    assert shown_url("http://[::1") == "an unreadable address"


def test_secrets_in() -> None:
    url = f"https://8000-{SIGNED}.proxy.example"
    assert secrets_in(url, {"x-daytona-preview-token": "tok"}, "key") == ("tok", "key", SIGNED)
    assert secrets_in("http://127.0.0.1:8000", {}, "EMPTY") == ()
