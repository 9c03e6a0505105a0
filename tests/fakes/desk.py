"""One batch at a desk: an input, an output, and runs of them against a scripted server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes.scripted import Reply, Scripted, as_json
from gpuserve.bulk.events import BatchEvent, Checked
from gpuserve.bulk.job import Job
from gpuserve.bulk.run import run
from gpuserve.errors import GpuserveError


def good(text: str = "yes", **usage: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    told: dict[str, Any] = {"prompt_tokens": 5, "completion_tokens": 2, **usage}
    return as_json({"id": "c1", "choices": [choice], "usage": told})


def rows_at(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Desk:
    """One input and one output, and runs of them."""

    def __init__(self, folder: Path, lines: Sequence[str]) -> None:
        self.input, self.output = folder / "in.txt", folder / "out.jsonl"
        self.input.write_text("\n".join(lines))
        self.events: list[BatchEvent] = []

    def job(self, url: str, **more: Any) -> Job:
        given: dict[str, Any] = {"concurrency": 1, **more}
        return Job(source=str(self.input), output=str(self.output), url=url, model="m", **given)

    def run(self, *replies: Reply, **more: Any) -> dict[str, Any]:
        """A run that asks exactly as often as there are replies."""
        with Scripted(*replies) as server:
            self.requests = server.requests
            return run(self.job(server.url, **more), emit=self.events.append)

    def fails(self, kind: type[GpuserveError], *replies: Reply, **more: Any) -> GpuserveError:
        with pytest.raises(kind) as caught:
            self.run(*replies, **more)
        return caught.value

    @property
    def rows(self) -> list[dict[str, Any]]:
        return rows_at(self.output)

    @property
    def checked(self) -> Checked:
        return [event for event in self.events if isinstance(event, Checked)][-1]
