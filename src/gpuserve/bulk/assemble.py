"""From a streamed answer to the whole that the same question would have got unstreamed.

The answer is read to its end first and taken apart at once: a batch shows nothing as it comes, and one call of the
JSON parser for all pieces costs a fraction of a call for each.
"""

from __future__ import annotations

import json
from typing import Any

#: Fields of a delta that are text and come in pieces.
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class BrokenStream(ValueError):
    """A stream that isn't a whole answer. ``error`` is what the server said of it, if it did."""

    def __init__(self, message: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = error


def assembled(stream: bytes) -> dict[str, Any]:
    """The chat completion that ``stream`` (server-sent events) amounts to.

    Raises:
        BrokenStream: an error came in the place of the rest, or the end is missing.
    """
    chunks = _chunks(stream)
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict):
            raise BrokenStream("a piece of the stream is no JSON object")
        if "error" in chunk and isinstance(chunk["error"], dict):
            raise BrokenStream("the server broke off with an error", chunk["error"])
        for choice in chunk.get("choices") or ():
            _add(choices.setdefault(choice.get("index", 0), {}), choice)
        if chunk is chunks[0] or chunk.get("usage"):  # all say the same but for the last, which counts
            whole |= {name: value for name, value in chunk.items() if value is not None and name != "choices"}
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        raise BrokenStream("the stream ended before the answer did")
    whole["object"] = "chat.completion"
    whole["choices"] = [_closed(index, choice) for index, choice in sorted(choices.items())]
    return whole


def _chunks(stream: bytes) -> list[Any]:
    """The data of every event but the last word, decoded."""
    lines = stream.replace(b"\r\n", b"\n").split(b"\n")
    data = [line[5:] for line in lines if line.startswith(b"data:")]
    pieces = [piece for piece in data if piece.strip() not in (b"[DONE]", b"")]
    try:
        decoded: list[Any] = json.loads(b"[" + b",".join(pieces) + b"]")
    except (ValueError, RecursionError) as error:
        raise BrokenStream("a piece of the stream is no JSON") from error
    return decoded


def _add(choice: dict[str, Any], piece: dict[str, Any]) -> None:
    delta = piece.get("delta")
    for name, value in (delta if isinstance(delta, dict) else {}).items():
        if isinstance(value, str) and name in _TEXTS:
            choice.setdefault(name, []).append(value)
        elif name == "tool_calls":
            for position, call in enumerate(value or ()):
                _add_call(choice.setdefault("tool_calls", {}), position, call)
    logprobs = piece.get("logprobs")
    if logprobs and isinstance(logprobs, dict) and logprobs.get("content"):
        choice.setdefault("logprobs", []).extend(logprobs["content"])
    if piece.get("finish_reason") is not None:
        choice["finish_reason"] = piece["finish_reason"]


def _add_call(calls: dict[int, dict[str, Any]], position: int, piece: dict[str, Any]) -> None:
    index = piece.get("index")
    call = calls.setdefault(
        index if isinstance(index, int) else position, {"id": "", "type": "function", "name": "", "arguments": []}
    )
    function = piece.get("function") or {}
    call["id"] = call["id"] or piece.get("id") or ""
    call["name"] = call["name"] or function.get("name") or ""
    call["arguments"].append(function.get("arguments") or "")


def _closed(index: int, choice: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    message |= {name: "".join(choice[name]) for name in _TEXTS if name in choice}
    if "tool_calls" in choice:
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
            }
            for _, call in sorted(choice["tool_calls"].items())
        ]
    closed = {"index": index, "message": message, "finish_reason": choice["finish_reason"]}
    if "logprobs" in choice:
        closed["logprobs"] = {"content": choice["logprobs"]}
    return closed
