"""Matches a language without rules of its own, as a regular expression is one, in time linear in the text's length."""

from __future__ import annotations

from gpuserve.client.grammar import Alt, Chars, Literal, Node, Ref, Repeat, Seq, too_large

#: States to which an expression may grow once its counted repetitions are written out.
LARGEST = 20_000


class Automaton:
    """All texts that ``node`` allows.

    Raises:
        UsageError: it is too large once counted repetitions are written out.
    """

    def __init__(self, node: Node) -> None:
        self._empty: list[list[int]] = []  # where a state leads without a character
        self._step: list[tuple[str | Chars, int] | None] = []  # and where with one
        self._start = self._state()
        self._end = self._add(node, self._start)

    def holds(self, text: str) -> bool:
        """Whether the whole of ``text`` is allowed."""
        states = self._closed({self._start})
        for char in text:
            states = self._closed({step[1] for state in states if (step := self._step[state]) and _fits(step[0], char)})
            if not states:
                return False
        return self._end in states

    def _closed(self, states: set[int]) -> set[int]:
        waiting = list(states)
        while waiting:
            new = [state for state in self._empty[waiting.pop()] if state not in states]
            states.update(new)
            waiting += new
        return states

    def _state(self, before: int | None = None) -> int:
        if len(self._step) >= LARGEST:
            raise too_large(LARGEST)
        self._empty.append([])
        self._step.append(None)
        if before is not None:
            self._empty[before].append(len(self._step) - 1)
        return len(self._step) - 1

    def _reading(self, what: str | Chars, start: int) -> int:
        begin = self._state(start)
        end = self._state()
        self._step[begin] = (what, end)
        return end

    def _add(self, node: Node, start: int) -> int:
        """Adds what reads ``node`` from the state ``start``; gives back the state where that ends."""
        if isinstance(node, Literal):
            for char in node.text:
                start = self._reading(char, start)
            return start
        if isinstance(node, Chars):
            return self._reading(node, start)
        if isinstance(node, Seq):
            for part in node.parts:
                start = self._add(part, start)
            return start
        if isinstance(node, Alt):
            end = self._state()
            for option in node.options:
                self._empty[self._add(option, self._state(start))].append(end)
            return end
        assert not isinstance(node, Ref), "an expression refers to no rule"
        return self._repeated(node, start)

    def _repeated(self, node: Repeat, start: int) -> int:
        for _ in range(node.low):
            start = self._add(node.part, self._state(start))
        if node.high is None:
            begin = self._state(start)
            self._empty[self._add(node.part, begin)].append(begin)
            return self._state(begin)
        end = self._state()
        for _ in range(node.high - node.low):
            self._empty[start].append(end)
            start = self._add(node.part, self._state(start))
        self._empty[start].append(end)
        return end


def _fits(what: str | Chars, char: str) -> bool:
    return what == char if isinstance(what, str) else what.holds(char)
