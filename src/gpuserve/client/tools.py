"""The tool loop: the model asks for calls, they are run, it is told what came of them, until it answers.

Pure of any platform: it talks to a chat function and a ``Toolbox``. The order of the answers is that of the calls,
whichever was done first. Nothing that a tool does ends the loop: errors, malformed arguments, unknown names and calls
that take too long are told to the model, which may mend them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from gpuserve.client.reply import ChatReply, ToolCall
from gpuserve.errors import EngineError, GpuserveError, UsageError

Message = Mapping[str, object]
#: The choices of ``tool_choice`` besides a tool's name.
CHOICES = ("auto", "required", "none")


class ToolError(Exception):
    """What a tool raises to tell the model, in words, that a call failed."""


class Toolbox(Protocol):
    """Tools that a model may call. ``call`` is called from several threads at once."""

    @property
    def specs(self) -> Sequence[Mapping[str, object]]:
        """The tools as the OpenAI API describes them."""

    def prepare(self, names: Sequence[str]) -> None:
        """Called before the calls of each round: what takes long, such as making a sandbox, belongs here.

        Raises:
            GpuserveError: it can't be done; the conversation ends with it.
        """

    def call(self, name: str, arguments: Mapping[str, object], timeout: float) -> str:
        """Runs one call; what it returns or raises is told to the model. ``timeout`` is in seconds."""

    def close(self) -> None:
        """Lets go of whatever the tools hold. May be called more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a conversation may go.

    ``rounds`` is how often the model may ask for calls; after that it is asked once more, without tools. ``timeout``
    is in seconds a call, ``output`` in characters of its result, ``parallel`` in calls of one round.
    """

    rounds: int = 10
    timeout: float = 60.0
    output: int = 16_000
    parallel: int = 16

    def __post_init__(self) -> None:
        for name in ("rounds", "timeout", "output", "parallel"):
            if not getattr(self, name) > 0:
                raise UsageError(f"the limit {name} must be more than 0, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A call is being run."""

    round: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call, and what the model is told of it. ``error`` says that it failed; ``seconds`` is how long it took."""

    round: int
    call: ToolCall
    result: str
    error: bool
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """As ``query --json`` prints it."""
        call = self.call
        return {
            "round": self.round,
            "id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "result": self.result,
            "error": self.error,
            "seconds": round(self.seconds, 3),
        }


ToolEvent = CallBegan | CallDone


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """How it ended. ``messages`` is all that was said, the answer included; ``capped`` says that rounds ran out."""

    reply: ChatReply
    messages: tuple[Message, ...]
    calls: tuple[CallDone, ...] = ()
    rounds: int = 0
    capped: bool = False


def ignore(_: ToolEvent) -> None:
    """The listener of a caller that only wants the end."""


#: Asks the model: the messages, and what goes into the request besides them.
Chat = Callable[[tuple[Message, ...], Mapping[str, object]], ChatReply]


@dataclass(frozen=True)
class Loop:
    """A chat function, the tools, and how far to go.

    ``choice`` is "auto", "required", "none" or a tool's name; but for "auto" and "none" it holds for the first round
    only, else the model could never answer. ``around`` wraps each round of calls.
    """

    chat: Chat
    toolbox: Toolbox
    limits: Limits = field(default_factory=Limits)
    choice: str = "auto"
    emit: Callable[[ToolEvent], None] = ignore
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    def run(self, messages: Sequence[Message]) -> Conversation:
        """Goes on until the model answers without asking for calls.

        Raises:
            UsageError: ``choice`` names no tool.
            EngineError: the model asks for calls even when it may not.
            GpuserveError: as the chat function.
        """
        said: list[Message] = list(messages)
        done: list[CallDone] = []
        for number in range(1, self.limits.rounds + 1):
            reply = self.chat(tuple(said), self._offer(number))
            if not reply.tool_calls:
                return Conversation(reply=reply, messages=(*said, spoken(reply)), calls=tuple(done), rounds=number - 1)
            calls = named(reply.tool_calls, number)
            said.append(spoken(reply, calls))
            with self.around():
                results = self._run_all(number, calls, cut=reply.finish_reason == "length")
            done += results
            said += [answer(one) for one in results]
        return self._last(said, done)

    def _last(self, said: list[Message], done: list[CallDone]) -> Conversation:
        """The rounds are used up: the model must answer with what it has."""
        reply = self.chat(tuple(said), {**self._offer(self.limits.rounds + 1), "tool_choice": "none"})
        if reply.tool_calls and not reply.content.strip():
            raise EngineError(
                f"the model still calls tools after {self.limits.rounds} rounds", hint="raise --max-rounds"
            )
        messages = (*said, spoken(reply))
        return Conversation(reply=reply, messages=messages, calls=tuple(done), rounds=self.limits.rounds, capped=True)

    def _offer(self, number: int) -> dict[str, object]:
        specs = [dict(one) for one in self.toolbox.specs]
        if self.choice == "auto":
            return {"tools": specs}
        if self.choice == "none" or (self.choice == "required" and number == 1):
            return {"tools": specs, "tool_choice": self.choice}
        if self.choice != "required" and self.choice not in names(specs):
            raise UsageError(f"no tool {self.choice!r}", hint="one of " + ", ".join((*CHOICES, *names(specs))))
        if number > 1:
            return {"tools": specs}
        return {"tools": specs, "tool_choice": {"type": "function", "function": {"name": self.choice}}}

    def _run_all(self, number: int, calls: Sequence[ToolCall], *, cut: bool) -> list[CallDone]:
        """All calls at once, each in a thread of its own; what isn't done in time is given up."""
        self.toolbox.prepare([call.name for call in calls])
        round_ = _Round(number, calls, self.emit)
        threads = [self._start(round_, at, cut=cut) for at in range(len(calls))[: self.limits.parallel]]
        for at in range(len(calls))[self.limits.parallel :]:
            round_.end(at, f"error: too many calls at once: at most {self.limits.parallel} are run", error=True)
        # A toolbox that keeps to the time-out says so itself, in better words; the rest is for one that doesn't.
        deadline = time.monotonic() + self.limits.timeout + _GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for at, call in enumerate(calls):
            words = f"error: timed out: {call.name} was not done after {self.limits.timeout:g} s"
            round_.end(at, words, error=True)
        return round_.results()

    def _start(self, round_: _Round, at: int, *, cut: bool) -> threading.Thread:
        def work() -> None:
            text, error = self._call(round_.calls[at], cut=cut)
            round_.end(at, text, error=error)

        round_.begin(at)
        # A daemon: a function that never returns must not keep the program from ending.
        thread = threading.Thread(target=work, name=f"gpuserve-tool-{at}", daemon=True)
        thread.start()
        return thread

    def _call(self, call: ToolCall, *, cut: bool) -> tuple[str, bool]:
        """What the model is told of ``call``, and whether that is an error."""
        try:
            arguments = parse(call, cut=cut)
            self._check(call.name)
            text = self.toolbox.call(call.name, arguments, self.limits.timeout)
            return shorten(text, self.limits.output), False
        except ToolError as error:
            words = str(error)
        except GpuserveError as error:
            words = error.message
        except Exception as error:  # noqa: BLE001  # a tool's own failure, which the model is told
            words = f"{type(error).__name__}: {error}"
        return shorten(f"error: {words}", self.limits.output), True

    def _check(self, name: str) -> None:
        known = names(self.toolbox.specs)
        if name not in known:
            raise ToolError(f"there is no tool {name!r}; there is {', '.join(known)}")


class _Round:
    """The calls of one round and what came of them. The first end of a call counts; a later one isn't heard."""

    def __init__(self, number: int, calls: Sequence[ToolCall], emit: Callable[[ToolEvent], None]) -> None:
        self.calls = calls
        self._number = number
        self._emit = emit
        self._lock = threading.Lock()
        self._began = [time.monotonic()] * len(calls)
        self._done: dict[int, CallDone] = {}

    def begin(self, at: int) -> None:
        with self._lock:
            self._began[at] = time.monotonic()
            self._emit(CallBegan(self._number, self.calls[at]))

    def end(self, at: int, result: str, *, error: bool) -> None:
        with self._lock:
            if at not in self._done:
                seconds = time.monotonic() - self._began[at]
                self._done[at] = CallDone(self._number, self.calls[at], result, error, seconds)
                self._emit(self._done[at])

    def results(self) -> list[CallDone]:
        return [self._done[at] for at in range(len(self.calls))]


#: Seconds that a toolbox gets beyond its time-out to say so itself.
_GRACE = 1.0


def names(specs: Sequence[Mapping[str, object]]) -> list[str]:
    """The names of the tools in ``specs``."""
    functions = (one.get("function") for one in specs)
    return [str(one.get("name")) for one in functions if isinstance(one, Mapping)]


def named(calls: Sequence[ToolCall], number: int) -> list[ToolCall]:
    """The calls, each with an ID of its own: some engines give none, or one ID to all."""
    seen: set[str] = set()
    found = []
    for at, call in enumerate(calls):
        name = call.id if call.id and call.id not in seen else f"call_{number}_{at}"
        seen.add(name)
        found.append(ToolCall(name, call.name, call.arguments))
    return found


def parse(call: ToolCall, *, cut: bool = False) -> Mapping[str, object]:
    """The arguments of ``call``; none at all count as an empty object.

    Raises:
        ToolError: they are no JSON object.
    """
    if not call.arguments.strip():
        return {}
    try:
        content = json.loads(call.arguments)
    except (ValueError, RecursionError) as error:
        why = "they were cut off by the token limit" if cut else str(error) or type(error).__name__
        raise ToolError(f"the arguments are no valid JSON ({why}): {shorten(call.arguments, 500)}") from error
    if not isinstance(content, dict):
        raise ToolError(f"the arguments must be a JSON object: {shorten(call.arguments, 500)}")
    return content


def shorten(text: str, limit: int) -> str:
    """``text`` cut in its middle to about ``limit`` characters; the cut says how much it left out."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n[… {len(text) - limit} characters left out …]\n{text[len(text) - tail :]}"


def spoken(reply: ChatReply, calls: Sequence[ToolCall] = ()) -> Message:
    """A reply as a message of the conversation.

    With calls it keeps the reasoning, under both names in use: models that think between calls are trained to see it.
    """
    if not calls:
        return {"role": "assistant", "content": reply.content}
    thought = {"reasoning": reply.reasoning, "reasoning_content": reply.reasoning} if reply.reasoning else {}
    listed = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": sendable(call)}}
        for call in calls
    ]
    return {"role": "assistant", "content": reply.content, **thought, "tool_calls": listed}


def sendable(call: ToolCall) -> str:
    """The arguments as they may be sent back: engines parse them for the chat template, and refuse what is no JSON."""
    try:
        return call.arguments if isinstance(json.loads(call.arguments), dict) else "{}"
    except (ValueError, RecursionError):
        return "{}"


def answer(done: CallDone) -> Message:
    """What came of a call as a message of the conversation."""
    return {"role": "tool", "tool_call_id": done.call.id, "content": done.result}
