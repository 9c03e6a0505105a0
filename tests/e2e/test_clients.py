"""Clients of others, through ``connect``: ``python scripts/clients_env.py``, then ``pytest -m clients``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from clients_env import default_place

from e2e.scriptedmodel import says, scripted
from e2e.usershell import Shell, bring_up

NAME = "clients"
CLIENTS = Path(os.environ.get("GPUSERVE_CLIENTS") or default_place())
SHORT = ("--engine-arg=--n-predict", "--engine-arg=16")
PYTHON = {
    "litellm": """
import os, litellm
asked = dict(model="openai/" + os.environ["OPENAI_MODEL"], temperature=0,
             messages=[{"role": "user", "content": "Say hello."}])
whole = litellm.completion(**asked).choices[0].message.content
pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
""",
    "langchain": """
import os
from langchain_openai import ChatOpenAI
model = ChatOpenAI(model=os.environ["OPENAI_MODEL"], temperature=0)
whole = model.invoke("Say hello.").content
pieces = [chunk.content for chunk in model.stream("Say hello.")]
""",
}
CHECK = """
assert "".join(pieces) == whole, (pieces, whole)
assert len([piece for piece in pieces if piece]) > 3, pieces
print(whole)
"""
NODE = """
import OpenAI from "openai";
const client = new OpenAI();
const asked = { model: process.env.OPENAI_MODEL, messages: [{ role: "user", content: "Say hello." }], temperature: 0 };
const whole = (await client.chat.completions.create(asked)).choices[0].message.content;
const pieces = [];
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
  pieces.push(chunk.choices[0]?.delta?.content ?? "");
if (pieces.join("") !== whole || pieces.filter((piece) => piece).length < 4) throw new Error(JSON.stringify(pieces));
console.log(whole);
"""

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not (CLIENTS / "llm.json").exists(), reason="python scripts/clients_env.py builds them"),
]


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    yield bring_up(shell, "--name", NAME, *SHORT)
    shell.run("down", NAME)


def through(shell: Shell, argv: Sequence[str], **env: str) -> str:
    """What a client printed that ``connect`` ran."""
    out = shell.ok("connect", NAME, "--", *argv, env=env).out
    assert out.strip()
    return out


def python(name: str) -> str:
    return str(CLIENTS / name / "bin" / "python")


@pytest.mark.parametrize("name", PYTHON)
def test_a_python_client(shell: Shell, live: dict[str, Any], name: str) -> None:
    through(shell, [python(name), "-c", PYTHON[name] + CHECK])


def test_openai_for_node(shell: Shell, live: dict[str, Any]) -> None:
    if not (CLIENTS / "node.json").exists():
        pytest.skip("npm is not installed")
    story = CLIENTS / "node" / "story.mjs"
    story.write_text(NODE, encoding="utf-8")
    through(shell, ["node", str(story)])


def test_llm_with_its_model_file(shell: Shell, live: dict[str, Any], tmp_path: Path) -> None:
    """Its snippet goes through a ``connect`` that runs beside it; whole and streamed."""
    process = shell.start("connect", NAME, "--port", "0", "--json")
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["data"]["url"].rpartition(":")[2]
    made = shell.ok("snippet", NAME, "--for", "llm", "--connect", port, "--json").data
    (tmp_path / made["file"]).write_text(made["text"], encoding="utf-8")
    env = {**shell.env, "LLM_USER_PATH": str(tmp_path)}
    llm = [str(CLIENTS / "llm" / "bin" / "llm"), "-m", f"gpuserve-{live['served_model']}", "-o", "temperature", "0"]
    said = [
        subprocess.run([*llm, *more, "Say hello."], env=env, text=True, capture_output=True, timeout=100, check=True)
        for more in ((), ("--no-stream",))
    ]
    assert said[0].stdout == said[1].stdout
    assert said[0].stdout.strip()


@pytest.mark.parametrize("client", ["litellm", "langchain"])
def test_a_snippet_runs(shell: Shell, live: dict[str, Any], client: str) -> None:
    text = shell.ok("snippet", NAME, "--for", client).out
    env = {**shell.env, "ENDPOINT": live["endpoint"], "TOKEN": live["token"]}
    done = subprocess.run(
        [python(client), "-c", text], env=env, text=True, capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 0, done
    assert done.stdout.strip()


def test_the_snippet_for_opencode_runs(shell: Shell, tmp_path: Path) -> None:
    """Its first request names the conversation, its second asks the question, with a prompt of 30,000 characters:
    too much for the embedded engine, so that a scripted one answers."""
    if not (CLIENTS / "node.json").exists():
        pytest.skip("npm is not installed")
    with scripted(shell, says("Hel", "lo."), says("Hel", "lo."), token="planted") as server:
        made = shell.ok("snippet", "scripted", "--for", "opencode", "--json").data
        assert "planted" not in made["text"]
        (tmp_path / made["file"]).write_text(made["text"], encoding="utf-8")
        handed = {"ENDPOINT": server.url, "TOKEN": "planted", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
        done = subprocess.run(
            [str(CLIENTS / "node" / "node_modules" / ".bin" / "opencode"), "run", "Say hello."],
            cwd=tmp_path,
            env={**shell.env, "PWD": str(tmp_path), **handed},
            text=True,
            capture_output=True,
            timeout=300,
            check=True,
        )
    assert done.stdout == "Hello.\n"
    assert {one.path for one in server.requests} == {"/v1/chat/completions"}
    assert {one.headers["x-daytona-preview-token"] for one in server.requests} == {"planted"}
    assert {str(one.json()["model"]) for one in server.requests} == {"m"}
