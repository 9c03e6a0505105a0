"""One streamed request, timed piece by piece.

Pieces are only noted as they come, and taken apart when the answer is whole: so that reading one answer holds up the
noting of another as little as can be.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from gpuserve.bench.stats import Shot
from gpuserve.bulk.job import Job
from gpuserve.bulk.rows import CHAT
from gpuserve.bulk.send import Sender, body_of, failure
from gpuserve.errors import EngineError

#: Fields of a delta that hold tokens.
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")


class Refused(Exception):
    """An answer that is none: its status and the server's words."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body = status, body


class Shooter:
    """An open client that sends prompts. ``extra`` goes into every body."""

    def __init__(self, url: str, model: str, headers: Mapping[str, str], timeout: float) -> None:
        self._sender = Sender(Job(source="", output="", url=url, model=model, headers=headers, timeout=timeout))
        self._timeout = timeout
        self._model = model
        self.extra: Mapping[str, object] = {}

    async def __aenter__(self) -> Self:
        await self._sender.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sender.__aexit__(kind, error, trace)

    def body(self, prompt: str, output: int) -> bytes:
        """A request for ``output`` tokens."""
        return json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": output,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **{name: output if value is ... else value for name, value in self.extra.items()},
            }
        ).encode()

    async def shoot(self, shot: Shot, body: bytes) -> None:
        """Sends ``body`` and writes into ``shot`` what comes of it; a failure of any kind is its ``error``.

        Raises:
            EngineError: a whole answer that doesn't tell its tokens.
        """
        try:
            await self.exact(shot, body)
        except (Refused, Broken) as error:
            shot.error = str(error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            shot.error = failure(error, self._timeout).message
        finally:
            shot.done = shot.done or time.perf_counter()

    async def exact(self, shot: Shot, body: bytes) -> None:
        """As ``shoot``, but raises what goes wrong too: ``Refused``, ``Broken``, or an error of aiohttp's."""
        sending = body_of(body)
        pieces: list[tuple[float, bytes]] = []
        async with self._sender.post(CHAT, sending) as response:
            if response.status != 200:
                raise Refused(response.status, await response.read())
            while piece := await response.content.readany():
                pieces.append((time.perf_counter(), piece))
        shot.done = time.perf_counter()
        shot.sent = sending.sent
        take_apart(shot, pieces)


class Broken(Exception):
    """A stream that isn't a whole answer."""


def take_apart(shot: Shot, pieces: list[tuple[float, bytes]]) -> None:
    """Reads server-sent events out of what came, and when: an event came with the piece that holds its last byte.

    Raises:
        EngineError: the answer doesn't tell its tokens, without which nothing can be said of it.
    """
    rest, usage, finished = b"", None, False
    for moment, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for event in _events(lines):
            usage = event.get("usage") or usage
            for choice in event.get("choices") or ():
                finished = finished or choice.get("finish_reason") is not None
                delta = choice.get("delta") or {}
                if any(delta.get(name) for name in _TEXTS):
                    shot.times.append(moment)
    if not finished:
        raise Broken("the stream ended before the answer did")
    if not (isinstance(usage, Mapping) and {"prompt_tokens", "completion_tokens"} <= usage.keys()):
        raise EngineError("the endpoint doesn't tell the tokens of an answer", hint="it must know include_usage")
    shot.prompt, shot.completion = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    details = usage.get("prompt_tokens_details")
    shot.cached = details.get("cached_tokens") if isinstance(details, Mapping) else None


def _events(lines: list[bytes]) -> list[dict[str, Any]]:
    data = [line[5:] for line in lines if line.startswith(b"data:") and line.strip() != b"data: [DONE]"]
    try:
        events = json.loads(b"[" + b",".join(data) + b"]")
    except (ValueError, RecursionError) as error:
        raise Broken("a piece of the stream is no JSON") from error
    for event in events:
        if not isinstance(event, dict) or event.get("error"):
            raise Broken("the server broke off with an error")
    return list(events)
