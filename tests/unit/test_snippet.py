"""Snippets: what they hold, what they read, and that no name can break out of one. Running them is for tests/e2e."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess

import pytest
import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub; its stubs would be a dependency for one call

from gpuserve.access import PREVIEW_TOKEN_HEADER
from gpuserve.errors import UsageError
from gpuserve.records import Endpoint
from gpuserve.serving.snippet import CLIENTS, make_snippet

TOKEN, KEY = "preview-token-0123456789", "engine-key-0123456789"
HEADERS = {PREVIEW_TOKEN_HEADER: TOKEN}
PLAIN = Endpoint(url="https://8000-x.example", served_model="m", headers=HEADERS)
KEYED = Endpoint(url="https://8000-x.example", served_model="m", headers=HEADERS, api_key=KEY)
PUBLIC = Endpoint(url="https://8000-x.example", served_model="m")
#: A name as it can't come from gpuserve, but from labels that somebody else wrote.
HOSTILE = "a'b\"c$(touch x)`touch y`\\\nHEADERS\n#{env:HOME}"


@pytest.mark.parametrize("client", [one for one in CLIENTS if one != "llm"])
def test_secrets_are_read_from_variables(client: str) -> None:
    made = make_snippet(client, KEYED, reveal=False)
    assert set(made.variables) == {"ENDPOINT", "TOKEN", "API_KEY"}
    assert all(name in made.text for name in made.variables)
    assert not any(secret in made.text for secret in (TOKEN, KEY, "8000-x"))


@pytest.mark.parametrize("client", CLIENTS)
def test_secrets_are_written_down_where_that_is_asked_for(client: str) -> None:
    made = make_snippet(client, KEYED, reveal=True)
    assert made.variables == ()
    assert all(secret in made.text for secret in (TOKEN, KEY, KEYED.base_url))
    assert TOKEN not in repr(made)


@pytest.mark.parametrize("client", [one for one in CLIENTS if one != "llm"])
def test_what_isn_t_needed_isn_t_asked_for(client: str) -> None:
    assert set(make_snippet(client, PLAIN, reveal=False).variables) == {"ENDPOINT", "TOKEN"}
    assert make_snippet(client, PUBLIC, reveal=False).variables == ("ENDPOINT",)


def test_a_client_that_reads_no_variables_is_told_of_the_other_way() -> None:
    with pytest.raises(UsageError, match="can't read variables") as caught:
        make_snippet("llm", PLAIN, reveal=False)
    assert "--connect" in caught.value.hint


def test_an_unknown_client() -> None:
    with pytest.raises(UsageError) as caught:
        make_snippet("nope", PLAIN, reveal=False)
    assert all(client in caught.value.hint for client in CLIENTS)


@pytest.mark.parametrize("reveal", [True, False])
@pytest.mark.parametrize("client", ["openai", "litellm", "langchain"])
def test_a_hostile_name_stays_a_text_in_python(client: str, reveal: bool) -> None:
    tree = ast.parse(make_snippet(client, Endpoint(url="https://x", served_model=HOSTILE), reveal=reveal).text)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert any(isinstance(text, str) and text.endswith(HOSTILE) for text in texts)


@pytest.mark.parametrize("endpoint", [PLAIN, PUBLIC], ids=["token", "public"])
@pytest.mark.parametrize("reveal", [True, False])
def test_a_hostile_name_stays_a_text_in_a_shell(endpoint: Endpoint, reveal: bool, tmp_path: object) -> None:
    hostile = Endpoint(url=endpoint.url, served_model=HOSTILE, headers=endpoint.headers)
    text = make_snippet("curl", hostile, reveal=reveal).text
    show = 'curl() { for word in "$@"; do printf "%s\\0" "$word"; done; }\n'
    env = {"ENDPOINT": "https://x", "TOKEN": TOKEN, "PATH": "/nowhere"}
    done = subprocess.run(["/bin/sh", "-c", show + text], capture_output=True, text=True, env=env, check=True)
    words = done.stdout.split("\0")
    assert json.loads(words[words.index("-d") + 1])["model"] == HOSTILE
    assert done.stderr == ""


def test_a_credential_is_no_argument_of_curl() -> None:
    for reveal in (True, False):
        text = make_snippet("curl", KEYED, reveal=reveal).text
        command = shlex.split(text.partition("<<")[0])
        assert not any(secret in word for word in command for secret in (TOKEN, KEY, "$TOKEN", "$API_KEY"))


@pytest.mark.parametrize("client", ["llm", "opencode"])
def test_a_hostile_name_stays_a_text_in_a_file(client: str) -> None:
    made = make_snippet(client, Endpoint(url="https://x", served_model=HOSTILE), reveal=True)
    if client == "llm":
        (entry,) = yaml.safe_load(made.text)
        assert entry["model_name"] == HOSTILE
    else:
        assert list(json.loads(made.text)["provider"]["gpuserve"]["models"]) == [HOSTILE]
