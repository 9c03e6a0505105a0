"""The tool loop on the real embedded engine.

The small model calls nothing of its own accord: its template is one that names the tools, and its first words are
nudged, by a bias on the tokens that open a call. The call itself, its parsing, the arguments and the answer after it
are the engine's and the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.usershell import Shell, bring_up
from gpuserve.client.chat import ChatReply, ChatRequest, ask
from gpuserve.client.functions import FunctionTool, FunctionTools
from gpuserve.client.tools import Limits, Loop, Message
from gpuserve.records import Endpoint

#: The tokens of "<tool_call>\n" in SmolLM2's vocabulary.
OPENING = (44, 19324, 79, 4350, 46, 198)
TEMPLATE = Path(__file__).parents[1] / "data" / "tools.jinja"


def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return f"22 degrees and sunny in {city}"


@pytest.fixture
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    """A deployment whose template knows of tools."""
    flags = ("--jinja", "--chat-template-file", str(TEMPLATE))
    yield bring_up(shell, "--name", "caller", *(f"--engine-arg={flag}" for flag in flags))
    shell.run("down", "caller", "--yes")


def test_the_engine_calls_and_answers(live: dict[str, Any]) -> None:
    endpoint = Endpoint(url=live["endpoint"], served_model=live["served_model"], headers=live["headers"])
    asked: list[tuple[Message, ...]] = []

    def chat(messages: tuple[Message, ...], more: object) -> ChatReply:
        nudge = {} if asked else {"logit_bias": [[token, 5] for token in OPENING]}
        asked.append(messages)
        extra = {**more, **nudge}  # type: ignore[dict-item]
        return ask(endpoint, ChatRequest(messages=messages, temperature=0, max_tokens=100, extra=extra))

    question = {"role": "user", "content": "What is the weather in Paris?"}
    loop = Loop(chat, FunctionTools([FunctionTool(get_weather)]), Limits(rounds=2), "required")
    ended = loop.run([question])
    assert [(one.call.name, one.error) for one in ended.calls][:1] == [("get_weather", False)]
    assert "22 degrees and sunny in Paris" in ended.calls[0].result
    assert asked[1][-1]["role"] == "tool"
    assert ended.reply.content.strip()
