"""Takes thinking out of an answer where the engine left it in, because it has no parser for the model.

A model writes its thinking between two marks before it answers. Some templates write the first mark into the prompt;
then the answer begins inside.
"""

from __future__ import annotations

from dataclasses import dataclass

#: How models mark their thinking: Qwen, DeepSeek, GLM, Nemotron and most; Seed-OSS; Mistral.
MARKS = (("<think>", "</think>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class Part:
    """What a piece of text turned out to be. ``undo``: all that was taken for reasoning before is content after all."""

    reasoning: str = ""
    content: str = ""
    undo: bool = False


class Splitter:
    """Takes the text of an answer piece by piece, and tells reasoning from content as soon as that can be told."""

    def __init__(self, *, inside: bool = False) -> None:
        self._state = "inside" if inside else "start"
        self._assumed = inside  # no opening mark was seen
        self._close = "</think>"
        self._held = ""
        self._all: list[str] = []

    def parsed(self) -> None:
        """The engine tells reasoning apart by itself: whatever else comes is content."""
        if self._state == "start" or (self._state == "inside" and self._assumed and not self._all):
            self._state = "content"

    def feed(self, text: str) -> Part:
        """What of ``text``, and of what was held back before, is certain now."""
        if self._state == "content":
            return Part(content=text)
        self._held += text
        return self._begin() if self._state == "start" else self._go_on()

    def _begin(self) -> Part:
        bare = self._held.lstrip()
        for opened, close in MARKS:
            if bare.startswith(opened):
                self._state, self._close, self._held = "inside", close, bare[len(opened) :]
                return self._go_on()
        if any(opened.startswith(bare) for opened, _ in MARKS):
            return Part()
        self._state = "content"
        return Part(content=self._drop())

    def _go_on(self) -> Part:
        if self._state == "after":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "content"
            return Part(content=self._drop())
        if self._assumed and not self._all and self._held.lstrip().startswith("<think>"):
            self._held = self._held.lstrip().removeprefix("<think>")
            self._assumed = False
        before, found, after = self._held.partition(self._close)
        if found:
            self._all.append(before)
            self._held, self._state = after, "after"
            rest = self._go_on()
            return Part(reasoning=before, content=rest.content)
        keep = _overlap(self._held, self._close)
        if self._assumed and not self._all and "<think>".startswith(self._held.lstrip()):
            keep = len(self._held)
        sure, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        if sure:
            self._all.append(sure)
        return Part(reasoning=sure)

    def _drop(self) -> str:
        held, self._held = self._held, ""
        return held

    def finish(self, *, stopped: bool) -> Part:
        """What was held back. If the model ``stopped`` by itself, thinking that was assumed and has no end was none."""
        if self._state == "inside":
            if self._assumed and stopped:
                return Part(content="".join(self._all) + self._drop(), undo=True)
            return Part(reasoning=self._drop())
        return Part() if self._state == "after" else Part(content=self._drop())


def _overlap(text: str, mark: str) -> int:
    """How many of the last characters of ``text`` may be the beginning of ``mark``."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)


def split_late(content: str, reasoning: str) -> tuple[str, str]:
    """Content and reasoning of a whole answer that closes, at the end of a line, a thinking which it never opened."""
    if reasoning:
        return content, reasoning
    for opened, close in MARKS:
        before, found, after = content.partition(close)
        quoted = opened in before or close in after or before.count("```") % 2
        if found and after.startswith("\n") and not quoted:
            return after.lstrip(), before
    return content, reasoning
