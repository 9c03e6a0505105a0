"""A conversation's history: what is sent with each question, and how it is saved."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gpuserve.errors import UsageError

Message = Mapping[str, object]


@dataclass
class History:
    """What was said. ``system`` stands before everything, and may change at any time."""

    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def messages(self) -> tuple[Message, ...]:
        """All of it, as a request takes it."""
        first = ({"role": "system", "content": self.system},) if self.system else ()
        return (*first, *self.turns)

    def asked(self, content: object) -> tuple[Message, ...]:
        """All of it and a new question, which is kept only once it is answered: see ``answered``.

        ``content`` is text, or parts as the OpenAI API writes them.
        """
        return (*self.messages(), {"role": "user", "content": content})

    def answered(self, content: object, answer: str) -> None:
        """Keeps a question and its answer, whole or as far as it came."""
        self.turns += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]

    def clear(self) -> None:
        """Forgets everything but the system prompt."""
        self.turns.clear()

    def save(self, path: Path) -> None:
        """Writes it: as JSON where the name ends so, as Markdown otherwise. The file is whole, or as it was.

        Raises:
            UsageError: it can't be written.
        """
        messages = [dict(one) for one in self.messages()]
        text = json.dumps({"messages": messages}, indent=2) + "\n" if path.suffix == ".json" else _markdown(messages)
        try:
            number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with os.fdopen(number, "w", encoding="utf-8", errors="replace") as file:
                    file.write(text)
                Path(name).replace(path)
            except BaseException:
                with suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            raise UsageError(
                f"{path} can't be written: {error.strerror or error}", hint="choose another file"
            ) from error


def _markdown(messages: list[dict[str, object]]) -> str:
    return "\n".join(f"## {one['role']}\n\n{_text(one['content'])}\n" for one in messages)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    return "\n".join(str(part.get("text") or f"[{part.get('type')}]") for part in parts if isinstance(part, Mapping))
