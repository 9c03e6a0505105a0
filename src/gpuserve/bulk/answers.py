"""A batch's output as Python sees it: answers by row, read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuserve.bulk.output import succeeded
from gpuserve.errors import EngineError


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of an output. ``body`` is the server's answer, empty where there was none; ``error`` says why."""

    custom_id: str
    ok: bool
    status: int
    body: Mapping[str, Any]
    error: str

    @property
    def text(self) -> str:
        """What the model answered.

        Raises:
            EngineError: the row failed, or its answer holds no text.
        """
        if not self.ok:
            raise EngineError(f"{self.custom_id} failed: {self.error}", hint="ask again with retry_failed=True")
        choices = self.body.get("choices")
        content = _said(choices[0]) if choices else None
        if not isinstance(content, str):
            raise EngineError(f"the answer to {self.custom_id} holds no text")
        return content

    @property
    def json(self) -> Any:
        """``text`` as JSON.

        Raises:
            EngineError: as ``text``, or it is no JSON.
        """
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"the answer to {self.custom_id} is no JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that has run. ``summary`` has the fields of ``gpuserve batch --json``."""

    output: Path
    summary: Mapping[str, Any]

    def __iter__(self) -> Iterator[Answer]:
        """Every answer, in the order of the output."""
        with self.output.open("rb") as file:
            for line in file:
                yield _answer(json.loads(line))


def _said(choice: Mapping[str, Any]) -> object:
    """The text of a chat's answer, or of a completion."""
    message = choice.get("message")
    return message.get("content") if isinstance(message, Mapping) else choice.get("text")


def _answer(row: dict[str, Any]) -> Answer:
    response, error = row.get("response") or {}, row.get("error") or {}
    body = response.get("body") or {}
    ok = succeeded(row)
    said = body.get("error") if isinstance(body, dict) else None
    words = error.get("message") or (said.get("message") if isinstance(said, dict) else said) or "no explanation"
    status = response.get("status_code") or 0
    why = f"HTTP {status}: {words}" if status and status != 200 else str(words)  # 200: an answer without the form
    return Answer(row["custom_id"], ok, status, body, "" if ok else why)
