"""The tool loop against a scripted server: exactly what is sent, whatever the model and the tools do."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fakes.scripted import Reply, Scripted, Seen, as_json, stream
from gpuserve.client.chat import ChatReply, ChatRequest, ask
from gpuserve.client.functions import FunctionTool, FunctionTools
from gpuserve.client.tools import CallBegan, CallDone, Conversation, Limits, Loop, Message, ToolEvent, shorten
from gpuserve.errors import EngineError, UsageError
from gpuserve.records import Endpoint

QUESTION: Message = {"role": "user", "content": "Weather?"}


def piece(finish: str | None = None, **fields: Any) -> dict[str, object]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def call(name: str, arguments: str = "{}", *, index: int = 0, id: str = "") -> dict[str, object]:  # noqa: A002
    return {
        "index": index,
        "id": id or f"id{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def calls(*asked: dict[str, object], **more: Any) -> Reply:
    return stream(piece(role="assistant", tool_calls=list(asked), **more), piece("tool_calls"))


def says(text: str) -> Reply:
    return stream(piece(role="assistant", content=text), piece("stop"))


def converse(
    server: Scripted,
    *functions: Callable[..., Any],
    limits: Limits | None = None,
    choice: str = "auto",
    events: list[ToolEvent] | None = None,
) -> Conversation:
    def chat(messages: tuple[Message, ...], more: Mapping[str, object]) -> ChatReply:
        return ask(Endpoint(url=server.url, served_model="m"), ChatRequest(messages=messages, extra=more))

    box = FunctionTools([FunctionTool(one) for one in functions])
    emit = (lambda _: None) if events is None else events.append
    return Loop(chat, box, limits or Limits(timeout=20), choice, emit).run([QUESTION])


def sent(seen: Seen) -> list[dict[str, Any]]:
    messages = seen.json()["messages"]
    assert isinstance(messages, list)
    return messages


def told(seen: Seen) -> list[str]:
    """What the model was told of its calls."""
    return [one["content"] for one in sent(seen) if one["role"] == "tool"]


def get_weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


def test_the_guides_loop() -> None:
    with Scripted(calls(call("get_weather", '{"city": "Lisbon"}')), says("Sun.")) as server:
        ended = converse(server, get_weather)
    first, second = server.requests
    assert first.json()["tools"] == [FunctionTool(get_weather).spec]
    assert "tool_choice" not in first.json()
    assert sent(second) == [
        QUESTION,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "id0",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Lisbon"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "id0", "content": "sunny in Lisbon"},
    ]
    assert (ended.reply.content, ended.rounds, ended.capped) == ("Sun.", 1, False)
    assert list(ended.messages) == [*sent(second), {"role": "assistant", "content": "Sun."}]


def test_a_call_that_comes_in_pieces_with_reasoning_before_it() -> None:
    reply = stream(
        piece(role="assistant", reasoning="Let me "),
        piece(reasoning="look."),
        piece(tool_calls=[call("get_weather", "", id="abc")]),
        *(piece(tool_calls=[{"index": 0, "function": {"arguments": part}}]) for part in ('{"ci', 'ty": "Ro', 'me"}')),
        piece("tool_calls"),
    )
    with Scripted(reply, says("ok")) as server:
        converse(server, get_weather)
    assert told(server.requests[1]) == ["sunny in Rome"]
    assistant = sent(server.requests[1])[1]
    assert assistant["reasoning"] == assistant["reasoning_content"] == "Let me look."


def test_calls_that_no_server_numbered_or_named_and_arguments_that_are_no_text() -> None:
    unnumbered = [{"id": name, "function": {"name": "get_weather", "arguments": {"city": name}}} for name in ("x", "y")]
    reply = stream(piece(tool_calls=unnumbered[:1]), piece(tool_calls=unnumbered[1:]), piece("tool_calls"))
    whole = as_json(
        {
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "tool_calls": [
                            {"function": {"name": "get_weather", "arguments": '{"city": "z"}'}},
                            {"function": {"name": "get_weather", "arguments": '{"city": "w"}'}},
                        ]
                    },
                    "finish_reason": "tool_calls",
                }
            ]
        }
    )
    with Scripted(reply, whole, says("ok")) as server:
        converse(server, get_weather)
    assert told(server.requests[2]) == [f"sunny in {name}" for name in "xyzw"]
    ids = [one["tool_call_id"] for one in sent(server.requests[2]) if one["role"] == "tool"]
    assert len(set(ids)) == 4
    named = [one["id"] for said in sent(server.requests[2]) for one in said.get("tool_calls", ())]
    assert named == ids


def test_parallel_calls_run_at_once_and_are_answered_in_order() -> None:
    together = threading.Barrier(3, timeout=20)
    first_may_end = threading.Event()

    def slow(number: int) -> str:
        together.wait()  # breaks unless all three run at once
        if number == 0:
            assert first_may_end.wait(20)
        elif number == 2:
            first_may_end.set()
        return f"number {number}"

    events: list[ToolEvent] = []
    asked = [call("slow", f'{{"number": {number}}}', index=number) for number in range(3)]
    with Scripted(calls(*asked), says("ok")) as server:
        converse(server, slow, events=events)
    assert told(server.requests[1]) == ["number 0", "number 1", "number 2"]
    assert [one.call.id for one in events if isinstance(one, CallBegan)] == ["id0", "id1", "id2"]
    ended = [one.call.id for one in events if isinstance(one, CallDone)]
    assert ended.index("id2") < ended.index("id0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"city": "Lis', "no valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"town": "Rome"}', "city: Missing required argument; town: Unexpected keyword argument"),
        ('{"city": 7}', "city: Input should be a valid string"),
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_malformed_arguments_are_told_and_never_sent_back(arguments: str, words: str) -> None:
    with Scripted(calls(call("get_weather", arguments)), says("ok")) as server:
        ended = converse(server, get_weather)
    answer = told(server.requests[1])[0]
    assert answer.startswith("error: ")
    assert words in answer
    assert len(answer) < 2000
    function = sent(server.requests[1])[1]["tool_calls"][0]["function"]
    assert isinstance(json.loads(function["arguments"]), dict)  # engines parse it for the template
    assert ended.calls[0].error


def test_arguments_cut_by_the_token_limit_are_told_as_such() -> None:
    cut = stream(piece(tool_calls=[call("get_weather", '{"city": "L')]), piece("length"))
    with Scripted(cut, says("ok")) as server:
        converse(server, get_weather)
    assert "cut off by the token limit" in told(server.requests[1])[0]


def test_an_unknown_tool_and_one_that_raises() -> None:
    def bad() -> str:
        raise KeyError("lost")

    with Scripted(calls(call("rm_rf"), call("bad", "", index=1)), says("ok")) as server:
        converse(server, bad)
    assert told(server.requests[1]) == ["error: there is no tool 'rm_rf'; there is bad", "error: KeyError: 'lost'"]


def test_an_endless_loop_ends_with_an_answer() -> None:
    asking = calls(call("get_weather", '{"city": "x"}'))
    with Scripted(asking, asking, asking, says("Enough.")) as server:
        ended = converse(server, get_weather, limits=Limits(rounds=3, timeout=20))
    assert [seen.json().get("tool_choice") for seen in server.requests] == [None, None, None, "none"]
    assert (ended.reply.content, ended.rounds, ended.capped, len(ended.calls)) == ("Enough.", 3, True, 3)


def test_an_endless_loop_that_ignores_its_end_is_an_error() -> None:
    asking = calls(call("get_weather", '{"city": "x"}'))
    with Scripted(asking, asking) as server, pytest.raises(EngineError, match="after 1 rounds"):
        converse(server, get_weather, limits=Limits(rounds=1, timeout=20))


def test_a_tool_that_never_ends_and_one_that_is_cancelled() -> None:
    release, cancelled = threading.Event(), threading.Event()

    def stuck() -> str:
        release.wait(30)
        return "too late to be heard"

    async def patient() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    events: list[ToolEvent] = []
    with Scripted(calls(call("stuck"), call("patient", index=1)), says("ok")) as server:
        converse(server, stuck, patient, limits=Limits(timeout=0.3), events=events)
    assert told(server.requests[1]) == [
        "error: timed out: stuck was not done after 0.3 s",
        "error: timed out after 0.3 s",
    ]
    assert cancelled.is_set()
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("gpuserve-tool"):
            thread.join(20)
    assert len([one for one in events if isinstance(one, CallDone)]) == 2  # what came late isn't told twice


def test_too_many_calls_at_once() -> None:
    asked = [call("get_weather", '{"city": "x"}', index=at) for at in range(4)]
    with Scripted(calls(*asked), says("ok")) as server:
        converse(server, get_weather, limits=Limits(parallel=3, timeout=20))
    answers = told(server.requests[1])
    assert answers[:3] == ["sunny in x"] * 3
    assert answers[3] == "error: too many calls at once: at most 3 are run"


@pytest.mark.parametrize(
    ("choice", "first"),
    [("required", "required"), ("get_weather", {"type": "function", "function": {"name": "get_weather"}})],
)
def test_a_forced_call_is_forced_once(choice: str, first: object) -> None:
    with Scripted(calls(call("get_weather", '{"city": "x"}')), says("ok")) as server:
        converse(server, get_weather, choice=choice)
    assert [seen.json().get("tool_choice") for seen in server.requests] == [first, None]


def test_a_choice_that_is_none() -> None:
    with Scripted() as server, pytest.raises(UsageError, match="no tool 'nope'"):
        converse(server, get_weather, choice="nope")


def test_a_long_result_is_cut_in_its_middle() -> None:
    def long() -> str:
        return "a" * 5000 + "z" * 5000

    with Scripted(calls(call("long")), says("ok")) as server:
        converse(server, long, limits=Limits(output=300, timeout=20))
    answer = told(server.requests[1])[0]
    assert answer == "a" * 200 + "\n[… 9700 characters left out …]\n" + "z" * 100
    assert shorten("short", 5) == "short"


def test_an_answer_that_breaks_off_ends_the_conversation() -> None:
    cut = stream(piece(tool_calls=[call("get_weather", '{"city":')]), done=False)
    with Scripted(cut) as server, pytest.raises(EngineError, match="cut off"):
        converse(server, get_weather)


@pytest.mark.parametrize("limit", ["rounds", "timeout", "output", "parallel"])
def test_limits_that_are_none(limit: str) -> None:
    with pytest.raises(UsageError, match=limit):
        Limits(**{limit: 0})
