"""A chat completion: the pieces in which it arrives, and the whole that they make."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuserve.client.faults import error_words
from gpuserve.client.thinking import Part, Splitter, split_late
from gpuserve.errors import EngineError
from gpuserve.redaction import Redactor


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: ``id`` and ``name`` come once, ``arguments`` (JSON text) in pieces."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


ChatEvent = ReasoningDelta | ContentDelta | ToolCallDelta


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call; ``arguments`` is JSON text as the model wrote it, not checked."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine counts them; the last two are None where it doesn't report them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds on the caller's clock, from just before the request was sent.

    ``ttft`` is the time to the first piece of reasoning, content or tool call; None for a reply that came whole.
    ``tokens_per_second`` is the speed of decoding: the tokens after the first, over the time between the first
    piece and the last; None where that can't be told. ``chunks`` counts the pieces.
    """

    total: float
    ttft: float | None = None
    tokens_per_second: float | None = None
    chunks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """What the model answered. ``finish_reason`` is the engine's word: "stop", "length", "tool_calls", …"""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage | None
    model: str
    id: str
    timing: Timing
    refusal: str = ""

    @property
    def answered(self) -> bool:
        """Whether there is anything beside reasoning."""
        return bool(self.content.strip() or self.tool_calls)

    @property
    def truncated_by_reasoning(self) -> bool:
        """Whether thinking used up the token limit, so that nothing was answered."""
        return self.finish_reason == "length" and bool(self.reasoning) and not self.answered


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Assembler:
    """Takes the decoded JSON of a reply, whole or in chunks; emits what is new in each, and keeps the whole.

    Of several choices only the first (index 0) is read.
    """

    def __init__(self, emit: Callable[[ChatEvent], None], redact: Redactor, *, thinks: bool = False) -> None:
        self._emit = emit
        self._splitter = Splitter(inside=thinks)
        self._refusal: list[str] = []
        self._redact = redact
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._began
        self._chunks = 0
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._usage: Usage | None = None
        self._model = self._id = ""
        self.finish_reason = ""
        self.found = False  # whether anything that was added held a choice

    @property
    def chunks(self) -> int:
        """How many pieces have come so far."""
        return self._chunks

    def add(self, content: object) -> None:
        """Takes one JSON value of the answer.

        Raises:
            EngineError: it is an error object, or no chat completion at all.
        """
        if not isinstance(content, Mapping):
            raise EngineError("the endpoint answered with JSON that is no chat completion")
        if isinstance(content.get("meta_info"), Mapping):
            content = _from_native(content)
        if content.get("error") or content.get("object") == "error":
            words = self._redact(error_words(content)) or "no explanation"
            raise EngineError(
                f"the engine failed while answering: {words}", hint="its side of the story: gpuserve logs"
            )
        self._id = self._id or _text(content.get("id"))
        self._model = self._model or _text(content.get("model"))
        self._usage = _usage(content.get("usage")) or self._usage
        choices = content.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping) and choice.get("index", 0) == 0:
                self._add_choice(choice)

    def _add_choice(self, choice: Mapping[str, object]) -> None:
        self.found = True
        self.finish_reason = _text(choice.get("finish_reason")) or self.finish_reason
        piece = choice.get("delta") or choice.get("message")
        if piece is None and "text" in choice:
            piece = {"content": choice["text"]}  # of bare text
        if not isinstance(piece, Mapping):
            return
        # vLLM writes ``reasoning``, SGLang and llama.cpp ``reasoning_content``; whoever writes both means the same.
        if reasoning := _text(piece.get("reasoning")) or _text(piece.get("reasoning_content")):
            self._splitter.parsed()
            self._take(Part(reasoning=reasoning))
        if text := _text(piece.get("content")):
            self._touch()
            self._take(self._splitter.feed(text))
        if refusal := _text(piece.get("refusal")):
            self._refusal.append(refusal)
        calls = piece.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, Mapping):
                self._add_call(call, position)

    def _add_call(self, call: Mapping[str, object], position: int) -> None:
        function = call.get("function")
        function = function if isinstance(function, Mapping) else {}
        arguments = function.get("arguments")
        delta = ToolCallDelta(
            self._index(call, position),
            _text(call.get("id")),
            _text(function.get("name")),
            # Some servers write the arguments as an object, not as its text.
            json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, Mapping) else _text(arguments),
        )
        whole = self._calls.setdefault(delta.index, _Call())
        whole.id = whole.id or delta.id
        whole.name = whole.name or delta.name
        whole.arguments.append(delta.arguments)
        self._note(delta)

    def _take(self, part: Part) -> None:
        if part.reasoning:
            self._reasoning.append(part.reasoning)
            self._note(ReasoningDelta(part.reasoning))
        if part.content:
            self._content.append(part.content)
            self._note(ContentDelta(part.content))

    def _index(self, call: Mapping[str, object], position: int) -> int:
        """Which call a piece belongs to. Servers that number none tell them apart by their IDs."""
        index, name = call.get("index"), _text(call.get("id"))
        if isinstance(index, int):
            return index
        known = self._calls.get(position)
        if known is None or not name or known.id in ("", name):
            return position
        return next((at for at, one in self._calls.items() if one.id == name), max(self._calls) + 1)

    def _note(self, event: ChatEvent) -> None:
        self._touch()
        self._chunks += 1
        self._emit(event)

    def _touch(self) -> None:
        """The clock's side of a piece, also of one that is held back."""
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last

    def _settle(self) -> None:
        """What was held back, once nothing more comes."""
        last = self._last
        rest = self._splitter.finish(stopped=self.finish_reason == "stop")
        if rest.undo:
            self._reasoning.clear()
        self._take(rest)
        self._last = last
        content, reasoning = split_late("".join(self._content), "".join(self._reasoning))
        self._content, self._reasoning = [content], [reasoning]

    def reply(self, *, streamed: bool) -> ChatReply:
        """The whole of what was added; the clock stops here."""
        total = time.perf_counter() - self._began
        self._settle()
        return ChatReply(
            content=_paired("".join(self._content)),
            reasoning=_paired("".join(self._reasoning)),
            tool_calls=tuple(
                ToolCall(call.id, call.name, "".join(call.arguments)) for _, call in sorted(self._calls.items())
            ),
            finish_reason=self.finish_reason,
            usage=self._usage,
            model=self._model,
            id=self._id,
            timing=self._timing(total) if streamed else Timing(total),
            refusal="".join(self._refusal),
        )

    def _timing(self, total: float) -> Timing:
        if self._first is None:
            return Timing(total)
        span = self._last - self._first
        later = self._usage.completion_tokens - 1 if self._usage else 0
        # Two pieces often come in one packet: their distance tells nothing of the engine's speed.
        speed = later / span if later > 0 and span > 0 and self._chunks > 2 else None
        return Timing(total, self._first - self._began, speed, self._chunks)


def _from_native(content: Mapping[str, object]) -> Mapping[str, object]:
    """An answer of SGLang's own route as the OpenAI API would have it."""
    meta = content["meta_info"]
    assert isinstance(meta, Mapping)
    finish = meta.get("finish_reason")
    usage = {name: meta.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {
        "id": meta.get("id"),
        "choices": [
            {
                "text": content.get("text"),
                "finish_reason": finish.get("type") if isinstance(finish, Mapping) else finish,
            }
        ],
        "usage": {**usage, "prompt_tokens_details": {"cached_tokens": meta.get("cached_tokens")}},
    }


def _paired(text: str) -> str:
    """``text`` with both halves of each pair of surrogates made one: a server may send them in two pieces.

    A half without the other stays: JSON can hold it, and ``--json`` is exact. Other outputs write "?".
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _text(value: object) -> str:
    """``value`` if it is text, the text of its parts if it is a list of content parts, else ""."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, Mapping))
    return ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _detail(value: Mapping[str, object], part: str, name: str) -> int | None:
    details = value.get(part)
    return _count(details.get(name)) if isinstance(details, Mapping) else None


def _usage(value: object) -> Usage | None:
    if not isinstance(value, Mapping):
        return None
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    prompt, completion = prompt or 0, completion or 0
    cached = _detail(value, "prompt_tokens_details", "cached_tokens")
    # SGLang counts reasoning beside the details, the OpenAI API among them.
    thought = _count(value.get("reasoning_tokens")) or _detail(value, "completion_tokens_details", "reasoning_tokens")
    total = _count(value.get("total_tokens"))
    return Usage(prompt, completion, prompt + completion if total is None else total, cached, thought)
