"""Regular expressions as engines take them: for the whole answer, and without what no automaton can do.

Whatever is read here means the same to every engine: literals, classes, groups, ``|``, ``* + ? {m,n}``, ``.`` (no line
feed), \\d \\w \\s and their opposites. Looking around, going back to a group and word boundaries are refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuserve.client.grammar import Alt, Chars, Literal, Node, Repeat, Seq, counted
from gpuserve.errors import UsageError

_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_REFUSED = {
    "b": "a word boundary (\\b)",
    "B": "a word boundary (\\B)",
    "A": "an anchor (\\A); the whole answer is matched anyway",
    "Z": "an anchor (\\Z); the whole answer is matched anyway",
    "z": "an anchor (\\z); the whole answer is matched anyway",
    "p": "a Unicode property (\\p)",
    "P": "a Unicode property (\\P)",
    "k": "a reference back to a group (\\k)",
}
_META = "\\.^$*+?{}[]()|"
_COUNT = re.compile(r"\{(\d{1,6})(,(\d{0,6}))?\}")
_NAME = re.compile(r"\?P?<[A-Za-z_]\w*>", re.ASCII)
_LAST = 0x10FFFF
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class Regex:
    """What was read, and the pattern to send: without anchors, laziness and names, which change nothing here."""

    node: Node
    pattern: str


def parse(pattern: str) -> Regex:
    """Reads ``pattern``.

    Raises:
        UsageError: it is no regular expression, or has something that not every engine takes; says what and where.
    """
    if not pattern:
        raise UsageError("the regular expression is empty", hint="for example --regex '[A-Z]{3}-[0-9]+'")
    return _Parser(pattern).whole()


def escape(text: str) -> str:
    """``text`` as a pattern for itself."""
    return "".join(f"\\{char}" if char in _META else char for char in text)


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0
        self._cuts: list[tuple[int, int, str]] = []

    def whole(self) -> Regex:
        node = self._alternatives()
        if self._at < len(self._pattern):
            raise self._wrong("a ) that closes nothing")
        sent, end = [], 0
        for start, stop, instead in sorted(self._cuts):
            sent += [self._pattern[end:start], instead]
            end = stop
        return Regex(node, "".join(sent) + self._pattern[end:])

    def _wrong(self, what: str, at: int | None = None) -> UsageError:
        place = (self._at if at is None else at) + 1
        return UsageError(
            f"the regular expression can't be used: {what}, at character {place}",
            hint="engines take literals, classes, groups, |, * + ? {m,n}, and . \\d \\w \\s",
        )

    def _peek(self, text: str) -> bool:
        return self._pattern.startswith(text, self._at)

    def _cut(self, length: int, instead: str = "") -> None:
        self._cuts.append((self._at, self._at + length, instead))
        self._at += length

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._peek("|"):
            self._at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        if self._peek("^") and not self._depth:
            self._cut(1)
        while self._at < len(self._pattern) and not (self._peek("|") or self._peek(")")):
            if self._peek("$") and not self._depth and self._pattern[self._at + 1 : self._at + 2] in ("", "|"):
                self._cut(1)
                continue
            part = self._counted(self._atom())
            last = parts[-1] if parts else None
            if isinstance(part, Literal) and isinstance(last, Literal):
                parts[-1] = Literal(last.text + part.text)
            else:
                parts.append(part)
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _counted(self, part: Node) -> Node:
        start = self._at
        char = self._pattern[start : start + 1]
        if not char or char not in "*+?{":
            return part
        if char == "{":
            low, high = self._bounds()
        else:
            self._at += 1
            low, high = (1 if char == "+" else 0), (1 if char == "?" else None)
        if self._peek("?"):
            self._cut(1)  # lazy: how it is searched for, not what is matched
        elif self._peek("+"):
            raise self._wrong("a possessive repetition")
        if self._pattern[self._at : self._at + 1] in ("*", "?", "{"):
            raise self._wrong("a repetition of a repetition")
        return Repeat(part, low, high)

    def _bounds(self) -> tuple[int, int | None]:
        found = _COUNT.match(self._pattern, self._at)
        if not found:
            raise self._wrong("a { that counts nothing; write \\{ for the character")
        low, high = counted(found, self._wrong)
        self._at = found.end()
        return low, high

    def _atom(self) -> Node:
        start, char = self._at, self._pattern[self._at]
        if char == "(":
            return self._group()
        if char == "[":
            return self._set()
        if char in "*+?{":
            raise self._wrong(f"a {char} that repeats nothing; write \\{char} for the character")
        if char in "^$":
            raise self._wrong(f"a {char} in the middle; the whole answer is matched anyway", start)
        self._at += 1
        if char == ".":
            return Chars(((0x0A, 0x0A),), negated=True)
        if char == "\\":
            read = self._escape()
            return Literal(read) if isinstance(read, str) else read
        return Literal(char)

    def _group(self) -> Node:
        start = self._at
        self._at += 1
        named = _NAME.match(self._pattern, self._at)
        if named:
            self._cut(named.end() - named.start(), "?:")
        elif self._peek("?:"):
            self._at += 2
        elif self._peek("?"):
            kind = "a look-around" if self._pattern[self._at + 1 : self._at + 2] in ("=", "!", "<") else "a (? group"
            raise self._wrong(kind, start)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong(f"groups nested deeper than {_DEEPEST}")
        node = self._alternatives()
        self._depth -= 1
        if not self._peek(")"):
            raise self._wrong("a ( that nothing closes", start)
        self._at += 1
        return node

    def _escape(self) -> str | Chars:
        """What follows a backslash: one character, or a class."""
        start = self._at - 1
        char = self._pattern[self._at : self._at + 1]
        self._at += 1
        if char.lower() in _CLASSES and char:
            return Chars(_CLASSES[char.lower()], negated=char.isupper(), loose=char if char.islower() else "")
        if char in _REFUSED:
            raise self._wrong(_REFUSED[char], start)
        if char.isdigit() and char != "0":
            raise self._wrong("a reference back to a group", start)
        if char in ("x", "u"):
            digits = self._pattern[self._at : self._at + (2 if char == "x" else 4)]
            if not re.fullmatch(r"[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}", digits):
                raise self._wrong(f"\\{char} without its hexadecimal digits", start)
            self._at += len(digits)
            return chr(int(digits, 16))
        if char in _CONTROLS and char:
            return _CONTROLS[char]
        if not char or char.isalnum():
            raise self._wrong(f"the unknown escape \\{char}", start)
        return char

    def _set(self) -> Node:
        start = self._at
        self._at += 1
        negated = self._peek("^")
        self._at += negated
        ranges: list[tuple[int, int]] = []
        loose = ""
        first = True
        while first or not self._peek("]"):
            first = False
            read = self._set_char(start)
            if isinstance(read, Chars):
                ranges += _complement(read.ranges) if read.negated else read.ranges
                loose += read.loose
                continue
            ranges.append((ord(read), ord(self._range_end(read, start))))
        self._at += 1
        return Chars(tuple(ranges), negated, "" if negated else loose)

    def _set_char(self, start: int) -> str | Chars:
        if self._at >= len(self._pattern):
            raise self._wrong("a [ that nothing closes", start)
        char = self._pattern[self._at]
        if char == "[":
            raise self._wrong("a [ inside a set; write \\[ for the character")
        self._at += 1
        return self._escape() if char == "\\" else char

    def _range_end(self, low: str, start: int) -> str:
        if not self._peek("-") or self._pattern[self._at + 1 : self._at + 2] in ("]", ""):
            return low
        self._at += 1
        high = self._set_char(start)
        if isinstance(high, Chars) or ord(high) < ord(low):
            raise self._wrong("a range that ends before it begins")
        return high


def _complement(ranges: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    gaps, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    return [*gaps, (start, _LAST)]
