"""Many at once who ask a fleet by OpenAI's own client, as it comes: it asks twice more where it gets no answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Self

from e2e.fleetbench import Fleet


@dataclass
class Toll:
    """What the clients were told, and what they lost.

    ``lost`` are the errors in place of an answer, or of a stream's beginning; ``cut`` those in the middle of a stream,
    ``short`` the streams that ended like whole ones and weren't.
    """

    whole: int = 0
    streams: int = 0
    lost: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """How many requests have ended, however."""
        return self.whole + self.streams + len(self.lost) + len(self.cut) + len(self.short)


class Clients:
    """``whole`` of them ask for whole answers, ``streams`` for streamed ones, one after another, until the end.

    ``asked`` are a request's own fields, ``said`` is what a whole stream says, None for whatever ends as one does.
    ``begun`` are those whose stream has just begun: they have read something, but fewer than five pieces.
    """

    def __init__(
        self, fleet: Fleet, *, whole: int, streams: int, said: str | None = None, asked: dict[str, Any] | None = None
    ) -> None:
        self._fleet, self._counts, self._said, self._asked = fleet, (whole, streams), said, asked or {}
        self.toll = Toll()
        self.begun: set[int] = set()
        self._going = True

    async def __aenter__(self) -> Self:
        from openai import AsyncOpenAI

        told = self._fleet.asked
        self._client = AsyncOpenAI(base_url=told["base_url"], api_key=told["api_key"], default_headers=told["headers"])
        whole, streams = self._counts
        self._tasks = [
            *(asyncio.create_task(self._ask(number)) for number in range(whole)),
            *(asyncio.create_task(self._read(number)) for number in range(streams)),
        ]
        return self

    async def __aexit__(self, *rest: object) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)
        await self._client.close()

    async def more(self, answers: int) -> None:
        """Returns once so many more requests have ended."""
        goal, deadline = self.toll.ended + answers, time.monotonic() + 60
        while self.toll.ended < goal:
            assert time.monotonic() < deadline, self.toll
            await asyncio.sleep(0.05)

    def _question(self, number: int) -> dict[str, Any]:
        words = [{"role": "user", "content": f"{number} " * 20}]
        return {"model": self._fleet.model, "messages": words, "extra_body": self._asked}

    async def _ask(self, number: int) -> None:
        while self._going:
            try:
                answer = await self._client.chat.completions.create(**self._question(number))
                assert answer.choices[0].message.content, answer
            except Exception as error:  # noqa: BLE001  # whatever it is, it is counted
                self.toll.lost.append(repr(error))
            else:
                self.toll.whole += 1

    async def _read(self, number: int) -> None:
        while self._going:
            try:
                stream = await self._client.chat.completions.create(**self._question(number), stream=True)
            except Exception as error:  # noqa: BLE001  # as above
                self.toll.lost.append(repr(error))
                continue
            words, finished, pieces = "", None, 0
            try:
                async for chunk in stream:
                    pieces += 1
                    (self.begun.add if pieces < 5 else self.begun.discard)(number)
                    for choice in chunk.choices:
                        words += choice.delta.content or ""
                        finished = choice.finish_reason or finished
            except Exception as error:  # noqa: BLE001  # as above
                self.begun.discard(number)
                self.toll.cut.append(repr(error))
            else:
                self.begun.discard(number)
                if finished is None or (self._said is not None and words != self._said):
                    self.toll.short.append(words)
                else:
                    self.toll.streams += 1
