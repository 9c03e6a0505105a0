"""Every code sample of both guides on the local host and the embedded engine: same request, same observable result.

| sample | vLLM guide | SGLang guide | where it is tested |
|---|---|---|---|
| git clone, venv, pip install, .env | yes | yes | none of gpuserve's; .env: unit/test_settings |
| create the sandbox | yes | yes | e2e/test_by_hand (examples/by_hand.py: ``create``) |
| session command, run_async | yes | yes | e2e/test_by_hand (``serve``) |
| wait loop: logs, exit code, health | yes | yes | e2e/test_by_hand (``wait``, both tests); here |
| export lines of the hand-off | yes | yes | here; e2e/test_main_job |
| reconnect: daytona.get(ID); delete | yes | yes | here |
| curl, chat | yes | yes | here |
| openai: streaming | yes | both fields | here |
| openai: reasoning_effort, the parsed trace | yes | yes | here, by llama.cpp's field (reasoning_content) |
| openai: tool calls, the loop | yes | yes | here |
| openai: response_format json_schema | - | yes | here |
| POST /generate with a regex | - | yes | SGLang's own route; here as llama.cpp's grammar |
| openai: prefix cache, two attempts | - | yes | here |
| AsyncOpenAI: classify with an enum, gathered | - | yes | here |
| create_signed_preview_url, expire_… | yes | yes | here; e2e/test_by_hand; rows in test_access_modes |
| public=True | yes | yes | e2e/test_access_modes; host/test_preview_access |
| --api-key, or its variable | yes | yes | e2e/test_access_modes; the flags in unit/test_ways |
| code_run inside, localhost, no auth | yes | in words | here |
| the flags of gpt-oss-120b | - | yes | the catalogue's, see unit/test_catalog |
| query_litellm.py (named, not shown) | - | - | a client like the others: base URL, key, header |

Where the request has more than the guide's, it is because the model is so small: its tool call and its thinking are
brought about by logit_bias and grammar. The 135M model's words are never judged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from e2e.inside import inside
from e2e.usershell import QUICK, Shell
from gpuserve.errors import NotFound

TEMPLATE = Path(__file__).parents[1] / "data" / "templates" / "guide.jinja"
HEADER = "x-daytona-preview-token"
#: The tokens of "<tool_call>\n" in this model.
TOOL_CALL = {str(token): 5 for token in (44, 19324, 79, 4350, 46, 198)}
THINKING = r'root ::= "<think>\n" [a-z ]{8,40} "\n</think>\n\n" [A-Z] [a-z ]{8,40}'


@pytest.fixture(scope="module")
def exported(shell: Shell) -> Iterator[dict[str, str]]:
    """ENDPOINT and TOKEN, as pasted into a shell."""
    template = ("--engine-arg=--chat-template-file", f"--engine-arg={TEMPLATE}")
    done = inside(shell).ok("up", *QUICK, "--name", "guide", *template)
    script = f'{done.out}printf \'%s\\n%s\\n\' "$ENDPOINT" "$TOKEN"'
    lines = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    yield dict(zip(("ENDPOINT", "TOKEN"), lines, strict=True))
    inside(shell).run("down", "guide", "--ignore-not-found")


@pytest.fixture(scope="module")
def client(exported: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{exported['ENDPOINT']}/v1",
        api_key="EMPTY",
        default_headers={HEADER: exported["TOKEN"]},
        timeout=120,
        max_retries=0,
    ) as made:
        yield made


def chat(client: openai.OpenAI, question: str, **more: Any) -> Any:
    messages = more.pop("messages", None) or [{"role": "user", "content": question}]
    return client.chat.completions.create(model="smollm2-135m-instruct", messages=messages, **more)


def test_health_through_the_preview_url(exported: dict[str, str]) -> None:
    headers = {HEADER: exported["TOKEN"]}
    assert requests.get(f"{exported['ENDPOINT']}/health", headers=headers, timeout=10).status_code == 200


def test_curl(exported: dict[str, str]) -> None:
    """The guides' own command, word for word but for the model's name and a smaller max_tokens."""
    script = r"""curl -sS --connect-timeout 30 --max-time 120 "$ENDPOINT/v1/chat/completions" \
-H "x-daytona-preview-token: $TOKEN" \
-H "Content-Type: application/json" \
-d '{
"model": "smollm2-135m-instruct",
"messages": [{"role": "user", "content": "Write a haiku about sandboxes for AI agents."}],
"max_tokens": 16
}'"""
    done = subprocess.run(["/bin/sh", "-c", script], env=os.environ | exported, capture_output=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_streaming(client: openai.OpenAI) -> None:
    stream = chat(client, "Write ten haikus about tokens streaming from a sandbox.", max_tokens=24, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len([piece for piece in pieces if piece]) > 4


def test_reasoning_comes_apart_from_the_answer(client: openai.OpenAI) -> None:
    more = {"reasoning_effort": "low", "max_tokens": 128, "extra_body": {"grammar": THINKING}}
    message = chat(client, "Write a haiku about thinking before speaking.", **more).choices[0].message
    assert re.fullmatch(r"[a-z ]+", message.reasoning_content.strip("\n"))
    assert re.fullmatch(r"[A-Z][a-z ]+", message.content)
    order = []
    for chunk in chat(client, "Write a haiku about thinking before speaking.", stream=True, **more):
        delta = chunk.choices[0].delta
        # SGLang sends the field in each delta, as null where it is empty; llama.cpp only where there is something
        order += ["reasoning"] * bool(getattr(delta, "reasoning_content", None)) + ["content"] * bool(delta.content)
    assert order == sorted(order, reverse=True)
    assert set(order) == {"reasoning", "content"}


def get_weather(city: str) -> str:
    rng = random.Random(city.lower())  # the guides': same city, same weather
    return f"{rng.randint(-5, 35)}°C and {rng.choice(['sunny', 'cloudy', 'rainy', 'foggy', 'windy'])} in {city}"


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_the_tool_loop(client: openai.OpenAI) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Write a haiku about the current weather in Paris."}]
    once = {"logit_bias": TOOL_CALL, "stop": ["</tool_call>"], "temperature": 0}
    message = chat(client, "", messages=messages, tools=[WEATHER], max_tokens=256, **once).choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["get_weather"]
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls:
        arguments = json.loads(call.function.arguments)
        assert arguments == {"city": "Paris"}
        messages.append({"role": "tool", "tool_call_id": call.id, "content": get_weather(**arguments)})
    final = chat(client, "", messages=messages, max_tokens=32, temperature=0)
    assert final.choices[0].message.content


def test_structured_output(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 40},
            "lines": {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 3, "maxItems": 3},
            "season": {"type": "string", "maxLength": 20},
        },
        "required": ["title", "lines", "season"],
        "additionalProperties": False,  # else a small model may add them until its tokens are used up
    }
    reply = chat(
        client,
        "Compose a haiku about GPU sandboxes, as JSON with title, lines, and season.",
        response_format={"type": "json_schema", "json_schema": {"name": "haiku", "schema": schema}},
        max_tokens=512,
        temperature=0,
    )
    haiku = json.loads(reply.choices[0].message.content)
    assert {"title", "lines", "season"} <= set(haiku)
    assert len(haiku["lines"]) == 3


def test_one_of_four_colours_by_construction(client: openai.OpenAI) -> None:
    grammar = 'root ::= " " ("red" | "green" | "blue" | "amber")'
    reply = client.completions.create(
        model="smollm2-135m-instruct",
        prompt="The best color for a terminal theme is",
        max_tokens=8,
        extra_body={"grammar": grammar},
    )
    assert re.fullmatch(" (red|green|blue|amber)", reply.choices[0].text)


def test_the_prefix_cache_is_seen(client: openai.OpenAI) -> None:
    context = "The Daytona platform provides isolated sandboxes for AI agents to safely execute code. " * 30
    usages = [chat(client, context + "Summarize the above.", max_tokens=4).usage for _ in (1, 2)]
    cached = [usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0 for usage in usages]
    assert cached[1] > cached[0]
    assert cached[1] >= usages[1].prompt_tokens - 1


def test_many_classified_at_once(exported: dict[str, str]) -> None:
    schema = {
        "type": "object",
        "required": ["setting"],
        "properties": {"setting": {"type": "string", "enum": ["indoors", "outdoors"]}},
    }

    async def classify(client: Any, passage: str) -> str:
        reply = await client.chat.completions.create(
            model="smollm2-135m-instruct",
            messages=[{"role": "user", "content": f"{passage}\n\nIs this indoors or outdoors? Reply as JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
            reasoning_effort="low",
            max_tokens=64,
        )
        found: str = json.loads(reply.choices[0].message.content or "")["setting"]
        return found

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{exported['ENDPOINT']}/v1", api_key="EMPTY", default_headers={HEADER: exported["TOKEN"]}
        ) as client:
            return await asyncio.gather(*(classify(client, f"Passage {number}.") for number in range(6)))

    answers = asyncio.run(all_of_them())
    assert len(answers) == 6
    assert set(answers) <= {"indoors", "outdoors"}


@contextmanager
def sdk(shell: Shell) -> Iterator[Any]:
    """The guides' ``daytona``, pointed at this host."""
    from daytona import Daytona, DaytonaConfig

    host = inside(shell).ok("host", "status", "--show-key", "--json").data
    yield Daytona(DaytonaConfig(api_url=host["api_url"], api_key=host["api_key"], target="us-east-1"))


def test_inside_the_sandbox_nothing_is_asked_for(shell: Shell, exported: dict[str, str]) -> None:
    row = next(row for row in inside(shell).live() if row["name"] == "guide")
    code = f"""
from openai import OpenAI
client = OpenAI(base_url="http://localhost:{row["port"]}/v1", api_key="EMPTY")
resp = client.chat.completions.create(
    model="smollm2-135m-instruct",
    messages=[{{"role": "user", "content": "Write a haiku about code that never leaves its sandbox."}}],
    max_tokens=8,
)
print(resp.choices[0].message.content)
"""
    with sdk(shell) as daytona:
        done = daytona.get(row["sandbox_id"]).process.code_run(code, timeout=120)
    assert done.exit_code == 0, done.result
    assert done.result.strip()


def test_a_signed_url_by_the_sdk(shell: Shell, exported: dict[str, str]) -> None:
    row = next(row for row in inside(shell).live() if row["name"] == "guide")
    with sdk(shell) as daytona:
        sandbox = daytona.get(row["sandbox_id"])
        signed = sandbox.create_signed_preview_url(row["port"], expires_in_seconds=3600)
        assert requests.get(f"{signed.url}/v1/models", timeout=30).status_code == 200
        sandbox.expire_signed_preview_url(row["port"], signed.token)
        assert requests.get(f"{signed.url}/v1/models", timeout=30).status_code == 401


def test_reconnect_and_delete(shell: Shell, exported: dict[str, str]) -> None:
    """The last two lines of the hand-off; the last test, since it ends the deployment."""
    row = next(row for row in inside(shell).live() if row["name"] == "guide")
    with sdk(shell) as daytona:
        daytona.get(row["sandbox_id"]).delete(wait=True)
    done = inside(shell).run("status", "guide", "--json")
    assert (done.status, done.error["code"]) == (NotFound.exit_status, NotFound.code)
    assert requests.get(exported["ENDPOINT"], headers={HEADER: exported["TOKEN"]}, timeout=30).status_code == 401
