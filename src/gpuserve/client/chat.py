"""Asks a live endpoint one chat question, streamed or whole.

Straight HTTP rather than the OpenAI SDK, whose import costs over a second: ``query`` shall feel like ``curl``.
``Endpoint.openai()`` gives that SDK's client to whoever wants it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from gpuserve.client.faults import fault_error, read_fault
from gpuserve.client.reply import (
    Assembler,
    ChatEvent,
    ChatReply,
    ContentDelta,
    ReasoningDelta,
    Timing,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from gpuserve.client.sse import Decoder
from gpuserve.client.transport import (
    CONNECT_TIMEOUT,
    failure,
    open_client,
    read_start,
    redactor_for,
    request_headers,
)
from gpuserve.errors import EngineError, UsageError
from gpuserve.records import Endpoint
from gpuserve.redaction import shown_url

if TYPE_CHECKING:
    import httpx

__all__ = [
    "ChatEvent",
    "ChatReply",
    "ChatRequest",
    "ContentDelta",
    "ReasoningDelta",
    "Timing",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
    "ask",
]

#: Seconds of silence after which a request is given up: a long prompt on a busy engine takes minutes to prefill.
SILENCE = 600.0

_JSON = {"Content-Type": "application/json"}
_OWN_KEYS = ("messages", "model", "stream")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One question: either ``prompt`` (and ``system``), or ``messages`` as the OpenAI API writes them.

    None leaves a setting to the engine. ``images`` are addresses, of data or of the web, that go before the prompt.
    ``thinks`` says that the model's template opens its thinking, so that without the engine's parser the answer begins
    in the middle of it. ``route`` other than "chat" continues the prompt as bare text (``engines.base.Continues`` says
    which); of "generate" the answer always comes whole. ``extra`` is added to the request's body as it is
    (``response_format``, ``chat_template_kwargs``, ``tools``, …), of "generate" to its sampling parameters, and stands
    over the settings here.
    """

    prompt: str = ""
    system: str = ""
    messages: tuple[Mapping[str, object], ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    images: tuple[str, ...] = ()
    thinks: bool = False
    route: Literal["chat", "completions", "generate"] = "chat"
    extra: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    stream: bool = True

    def __post_init__(self) -> None:
        if bool(self.prompt) == bool(self.messages):
            raise UsageError("a question needs either a prompt or messages", hint='for example: gpuserve query "hello"')
        if self.images and self.messages:
            raise UsageError("images go into the messages when those are given")
        if self.route != "chat" and (self.messages or self.system or self.images):
            raise UsageError("bare text has no system prompt, no messages and no images")
        if self.system and self.messages:
            raise UsageError("a system prompt goes into the messages when those are given")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens {self.max_tokens} is out of range", hint="use at least 1")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature {self.temperature} is out of range", hint="use 0 (most likely words) to 2")
        for key in _OWN_KEYS:
            if key in self.extra:
                raise UsageError(f"{key!r} can't be set through the extra body")

    def body(self, model: str) -> dict[str, object]:
        """The JSON body of the request, for the model of that served name."""
        if self.route == "generate":
            return self._native_body()
        if self.route == "completions":
            asked: dict[str, object] = {"prompt": self.prompt}
        else:
            asked = {"messages": [dict(message) for message in self.conversation()]}
        body: dict[str, object] = {"model": model, **asked}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        body |= self.extra
        if self.stream:
            options = self.extra.get("stream_options")
            body["stream"] = True
            body["stream_options"] = {"include_usage": True, **(options if isinstance(options, Mapping) else {})}
        return body

    def _native_body(self) -> dict[str, object]:
        limits = {"max_new_tokens": self.max_tokens, "temperature": self.temperature}
        given = {name: value for name, value in limits.items() if value is not None}
        return {"text": self.prompt, "sampling_params": {**given, **self.extra}}

    @property
    def path(self) -> str:
        """The route below the endpoint's URL."""
        return {"chat": "/v1/chat/completions", "completions": "/v1/completions", "generate": "/generate"}[self.route]

    def conversation(self) -> tuple[Mapping[str, object], ...]:
        """What is said, as messages."""
        if self.messages:
            return self.messages
        system = ({"role": "system", "content": self.system},) if self.system else ()
        return (*system, {"role": "user", "content": self._content()})

    def _content(self) -> object:
        return content_of(self.prompt, self.images)


def content_of(text: str, images: Sequence[str]) -> object:
    """A message's content as the OpenAI API writes it: ``text``, after the images at these addresses."""
    if not images:
        return text
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [*pictures, {"type": "text", "text": text}]


def ignore(_: ChatEvent) -> None:
    """The listener of a caller that only wants the whole reply."""


def ask(
    endpoint: Endpoint,
    request: ChatRequest,
    *,
    emit: Callable[[ChatEvent], None] = ignore,
    timeout: float = SILENCE,
    connect_timeout: float = CONNECT_TIMEOUT,
) -> ChatReply:
    """Asks ``endpoint``, hands each piece of the answer to ``emit`` as it arrives, and returns the whole.

    ``timeout`` is in seconds between two bytes of the answer, ``connect_timeout`` in seconds until connected.
    Nothing is tried twice. No message of an error holds a credential.

    Raises:
        NotAuthenticated: the proxy or the engine refuses the credential, or points to a sign-in page.
        NotFound: the engine serves no such model, or the sandbox is gone.
        EngineError: the engine refuses the request, fails while answering, or breaks off.
        NetworkError: nobody listens, or the connection broke.
        TimedOut: silence for longer than ``timeout``.
        PlatformError: the platform's proxy failed by itself.
        UsageError: the endpoint's address or credential can't be right.
    """
    import httpx

    headers = request_headers(endpoint)
    assembler = Assembler(emit, redactor_for(endpoint), thinks=request.thinks)
    try:
        with (
            open_client(endpoint.url, silence=timeout, connect=connect_timeout) as client,
            client.stream(
                "POST",
                endpoint.url + request.path,
                content=_encode(request.body(endpoint.served_model)),
                headers={**headers, **_JSON, **({"Accept-Encoding": "identity"} if request.stream else {})},
            ) as response,
        ):
            return _receive(response, endpoint, assembler)
    except (httpx.RequestError, httpx.InvalidURL) as error:
        if assembler.finish_reason:  # the model had finished; only the count of tokens is lost
            return assembler.reply(streamed=request.stream)
        raise failure(error, endpoint, timeout) from error


def _encode(body: Mapping[str, object]) -> bytes:
    """The body as UTF-8. Half a pair of surrogates, which a model may have written before, becomes "?"."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def _receive(response: httpx.Response, endpoint: Endpoint, assembler: Assembler) -> ChatReply:
    if response.status_code != 200:
        raise fault_error(read_fault(response.status_code, read_start(response)), endpoint)
    # What came decides, not what was asked for: some servers answer whole whatever is asked.
    streamed = response.headers.get("content-type", "").startswith("text/event-stream")
    if streamed:
        _receive_stream(response, endpoint, assembler)
    else:
        assembler.add(_decode(response.read().decode("utf-8", errors="replace"), endpoint))
        if not assembler.found:
            raise EngineError(f"{shown_url(endpoint.url)} answered with JSON that is no chat completion")
    return assembler.reply(streamed=streamed)


def _receive_stream(response: httpx.Response, endpoint: Endpoint, assembler: Assembler) -> None:
    decoder = Decoder()
    for chunk in response.iter_bytes():
        for data in decoder.feed(chunk):
            if data.strip() == "[DONE]":
                return
            if data.strip():
                assembler.add(_decode(data, endpoint))
    for data in decoder.finish():
        if data.strip() == "[DONE]":
            return
        with suppress(ValueError):  # half a piece: what is told below
            assembler.add(json.loads(data))
    if not assembler.finish_reason:
        raise EngineError(
            f"the answer was cut off after {assembler.chunks} pieces",
            hint="the engine or the proxy gave up; its side of the story: gpuserve logs",
        )


def _decode(text: str, endpoint: Endpoint) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        fault = read_fault(200, text[:4096].encode(errors="replace"))
        words = "a web page" if fault.is_page else redactor_for(endpoint)(fault.words) or "nothing"
        raise EngineError(
            f"{shown_url(endpoint.url)} answered with something that isn't JSON: {words}",
            hint="is it an OpenAI-compatible endpoint? GET /v1/models should answer",
        ) from error
