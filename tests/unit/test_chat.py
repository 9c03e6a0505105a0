"""Asking an endpoint: what is sent, and how a good answer is put together. Bad answers: test_chat_faults.py."""

from __future__ import annotations

import threading

import pytest

from fakes.scripted import Piece, Reply, Scripted, as_json, sse, stream
from gpuserve.client.chat import (
    ChatEvent,
    ChatReply,
    ChatRequest,
    ContentDelta,
    ReasoningDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    ask,
)
from gpuserve.errors import UsageError
from gpuserve.records import Endpoint

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def endpoint_of(server: Scripted, **more: object) -> Endpoint:
    return Endpoint(url=server.url, served_model="tiny", **more)  # type: ignore[arg-type]


def delta(finish: str | None = None, **fields: object) -> dict[str, object]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "chat-1", "model": "tiny-really", "choices": [choice]}


def usage(**more: object) -> dict[str, object]:
    return {"id": "chat-1", "model": "tiny-really", "choices": [], "usage": {**USAGE, **more}}


def asked(reply: Reply, request: ChatRequest | None = None) -> tuple[ChatReply, list[ChatEvent]]:
    events: list[ChatEvent] = []
    with Scripted(reply) as server:
        whole = ask(endpoint_of(server), request or ChatRequest(prompt="hi"), emit=events.append)
    return whole, events


def test_a_streamed_answer() -> None:
    reply, events = asked(
        stream(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta("stop"), usage())
    )
    assert (reply.content, reply.reasoning, reply.tool_calls) == ("Hello", "", ())
    assert (reply.finish_reason, reply.model, reply.id) == ("stop", "tiny-really", "chat-1")
    assert reply.usage == Usage(prompt_tokens=7, completion_tokens=5, total_tokens=12, cached_tokens=None)
    assert events == [ContentDelta("Hel"), ContentDelta("lo")]
    assert reply.timing.chunks == 2


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("streamed", [True, False])
def test_reasoning_is_read_by_either_name(field: str, streamed: bool) -> None:
    if streamed:
        answer = stream(delta(**{field: "hm, "}), delta(**{field: "so"}), delta("stop", content="42"))
    else:
        message = {field: "hm, so", "content": "42"}
        answer = as_json({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    reply, events = asked(answer, ChatRequest(prompt="hi", stream=streamed))
    assert (reply.reasoning, reply.content) == ("hm, so", "42")
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "hm, so"
    assert events[-1] == ContentDelta("42")


def test_reasoning_under_both_names_is_not_doubled() -> None:
    reply, _ = asked(stream(delta("stop", reasoning="hm", reasoning_content="hm")))
    assert reply.reasoning == "hm"


def test_tool_calls_are_assembled_over_deltas() -> None:
    def call(index: int, **function: str) -> dict[str, object]:
        return {"index": index, "function": function}

    first = {"index": 0, "id": "call-a", "type": "function", "function": {"name": "weather", "arguments": ""}}
    second = {"index": 1, "id": "call-b", "type": "function", "function": {"name": "clock", "arguments": "{"}}
    reply, events = asked(
        stream(
            delta(tool_calls=[first]),
            delta(tool_calls=[call(0, arguments='{"city":')]),
            delta(tool_calls=[second, call(0, arguments=' "Paris"}')]),
            delta("tool_calls", tool_calls=[call(1, arguments="}")]),
        )
    )
    assert reply.tool_calls == (ToolCall("call-a", "weather", '{"city": "Paris"}'), ToolCall("call-b", "clock", "{}"))
    assert reply.finish_reason == "tool_calls"
    assert events[0] == ToolCallDelta(0, "call-a", "weather", "")
    assert len(events) == 5


def test_tool_calls_of_a_whole_answer_need_no_index() -> None:
    calls = [{"id": i, "type": "function", "function": {"name": f"do_{i}", "arguments": "{}"}} for i in "ab"]
    answer = as_json({"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]})
    reply, _ = asked(answer, ChatRequest(prompt="hi", stream=False))
    assert reply.tool_calls == (ToolCall("a", "do_a", "{}"), ToolCall("b", "do_b", "{}"))
    assert reply.content == ""


@pytest.mark.parametrize(
    ("details", "cached"),
    [({}, None), ({"prompt_tokens_details": None}, None), ({"prompt_tokens_details": {"cached_tokens": 6}}, 6),
     ({"prompt_tokens_details": {"cached_tokens": None}}, None), ({"prompt_tokens_details": {"cached_tokens": 0}}, 0)],
)  # fmt: skip
def test_cached_tokens_are_unknown_unless_reported(details: dict[str, object], cached: int | None) -> None:
    reply, _ = asked(stream(delta("stop", content="x"), usage(**details)))
    assert reply.usage is not None
    assert reply.usage.cached_tokens == cached


def test_pieces_are_handed_on_before_the_answer_ends() -> None:
    gate, events = threading.Event(), []

    def emit(event: ChatEvent) -> None:
        events.append(event)
        gate.set()  # the server goes on only once the first piece was seen

    chunks: list[Piece] = [
        sse(delta(content="first")),
        gate,
        sse(delta(content="second")),
        sse(delta("stop", content="last")),
        sse(usage()),
        sse("[DONE]"),
    ]
    with Scripted(Reply(headers={"Content-Type": "text/event-stream; charset=utf-8"}, chunks=chunks)) as server:
        reply = ask(endpoint_of(server), ChatRequest(prompt="hi"), emit=emit)
    assert events == [ContentDelta("first"), ContentDelta("second"), ContentDelta("last")]
    timing = reply.timing
    assert timing.ttft is not None
    assert timing.tokens_per_second is not None
    assert 0 < timing.ttft < timing.total
    assert timing.tokens_per_second >= 4 / (timing.total - timing.ttft)


def test_speed_is_unknown_without_a_token_count_or_a_stream() -> None:
    streamed, _ = asked(stream(delta(content="a"), delta("stop", content="b")))
    assert (streamed.usage, streamed.timing.tokens_per_second) == (None, None)
    whole, _ = asked(as_json({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": USAGE}))
    assert (whole.timing.ttft, whole.timing.tokens_per_second, whole.content) == (None, None, "a")
    assert whole.usage == Usage(7, 5, 12)


def test_a_stream_needs_no_done_mark_after_a_finish_reason() -> None:
    assert asked(stream(delta("stop", content="x"), done=False))[0].content == "x"


def test_a_last_event_without_its_blank_line_counts() -> None:
    chunks = [sse(delta(content="x")), sse(delta("stop", content="y")).rstrip(b"\n")]
    assert asked(Reply(headers={"Content-Type": "text/event-stream"}, chunks=chunks))[0].content == "xy"


def test_a_done_mark_without_its_blank_line_counts() -> None:
    chunks = [sse(delta(content="x")), b"data: [DONE]"]
    assert asked(Reply(headers={"Content-Type": "text/event-stream"}, chunks=chunks))[0].content == "x"


def test_content_in_parts_and_odd_fields_are_read_or_passed_over() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "odd", {"type": "image"}]
    odd = {"choices": [None, {"index": 0, "delta": None}], "usage": {"prompt_tokens": "7"}, "model": 7}
    reply, _ = asked(stream(odd, delta("stop", content=parts, reasoning=7, tool_calls="none")))
    assert (reply.content, reply.reasoning, reply.tool_calls, reply.usage) == ("ab", "", (), None)


def test_only_the_first_choice_is_read() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    assert asked(stream(delta(content="yes"), other, delta("stop")))[0].content == "yes"


def test_an_answer_eaten_by_reasoning_is_told() -> None:
    assert asked(stream(delta("length", reasoning="hm")))[0].truncated_by_reasoning
    assert not asked(stream(delta(reasoning="hm"), delta("length", content="par")))[0].truncated_by_reasoning
    assert not asked(stream(delta("stop", reasoning="hm")))[0].truncated_by_reasoning


def test_what_is_sent() -> None:
    with Scripted(stream(delta("stop", content="x"))) as server:
        endpoint = endpoint_of(server, headers={"x-daytona-preview-token": "let-me-in"}, api_key="engine-key")
        ask(
            endpoint,
            ChatRequest(prompt="hi", system="be brief", max_tokens=9, temperature=0.0, extra={"top_k": 1, "seed": 2}),
        )
        [seen] = server.requests
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.headers["x-daytona-preview-token"] == "let-me-in"
    assert seen.headers["authorization"] == "Bearer engine-key"
    assert seen.json() == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "top_k": 1,
        "seed": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_whole_answer_is_asked_for_without_stream_fields_and_no_key_is_sent_as_none() -> None:
    with Scripted(as_json({"choices": [{"message": {"content": "x"}}]})) as server:
        ask(endpoint_of(server), ChatRequest(messages=({"role": "user", "content": "a"},), stream=False))
        [seen] = server.requests
    assert seen.json() == {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
    assert "authorization" not in seen.headers


def test_extra_stream_options_are_added_to_ours() -> None:
    body = ChatRequest(prompt="x", extra={"stream_options": {"continuous_usage_stats": True}}).body("m")
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "a", "messages": ({"role": "user", "content": "b"},)},
        {"messages": ({"role": "user", "content": "b"},), "system": "c"},
        {"prompt": "a", "max_tokens": 0},
        {"prompt": "a", "temperature": -0.1},
        {"prompt": "a", "temperature": float("nan")},
        {"prompt": "a", "temperature": float("inf")},
        {"prompt": "a", "extra": {"stream": False}},
        {"prompt": "a", "extra": {"messages": []}},
    ],
)
def test_requests_that_can_not_be_right(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ChatRequest(**fields)  # type: ignore[arg-type]
