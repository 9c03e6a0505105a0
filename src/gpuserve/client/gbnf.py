"""GBNF, the notation of grammars that llama.cpp made and vLLM and SGLang (by xgrammar) read as EBNF."""

from __future__ import annotations

import re

from gpuserve.client.grammar import Alt, Chars, Literal, Node, Ref, Repeat, Seq, counted
from gpuserve.errors import UsageError

_BLANK = re.compile(r"(?:[ \t]|#[^\n]*)*")
_BLANKS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_COUNT = re.compile(r"\{\s*(\d{1,6})\s*(,\s*(\d{0,6})\s*)?\}")
_ESCAPE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "b": "\b", "0": "\0"}
_DEEPEST = 100


def is_lark(text: str) -> bool:
    """Whether ``text`` is written in Lark's notation, as llguidance reads it, rather than in GBNF."""
    return bool(re.search(r"^\s*(?:%llguidance\b|\??start\s*:)", text, re.MULTILINE))


def parse(text: str, where: str) -> dict[str, Node]:
    """The rules of the grammar ``text``; ``where`` is what errors call it.

    Raises:
        UsageError: what is wrong, with its line.
    """
    return _Parser(text, where).rules()


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._at = 0
        self._depth = 0
        self._used: dict[str, int] = {}

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self._skip(_BLANKS)
        while self._at < len(self._text):
            name = self._name("the name of a rule")
            if not self._peek("::="):
                raise self._wrong(f"expected ::= after {name}")
            self._at += 3
            self._skip(_BLANKS)
            if name in found:
                raise self._wrong(f"the rule {name} stands there twice")
            found[name] = self._alternatives()
            before = self._at
            self._skip(_BLANKS)
            if self._at < len(self._text) and "\n" not in self._text[before : self._at]:
                raise self._wrong(f"unexpected {self._text[self._at]!r}")
        self._check(found)
        return found

    def _check(self, found: dict[str, Node]) -> None:
        if "root" not in found:
            raise UsageError(
                f"{self._where} has no rule called root", hint='a grammar begins with: root ::= "yes" | "no"'
            )
        for name, at in self._used.items():
            if name not in found:
                raise self._wrong(f"the rule {name} is used and nowhere given", at)

    def _wrong(self, what: str, at: int | None = None) -> UsageError:
        line = self._text.count("\n", 0, self._at if at is None else at) + 1
        return UsageError(f"{self._where}, line {line}: {what}", hint='grammars are GBNF: root ::= "yes" | "no"')

    def _skip(self, blanks: re.Pattern[str]) -> None:
        found = blanks.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _name(self, what: str) -> str:
        found = _NAME.match(self._text, self._at)
        if not found:
            raise self._wrong(f"expected {what}, not {self._text[self._at : self._at + 1]!r}")
        self._at = found.end()
        self._skip(_BLANK)
        return found[0]

    def _between(self) -> None:
        """Blanks after an element; a group goes on over lines, a rule only where the next line begins with a bar."""
        self._skip(_BLANKS if self._depth else _BLANK)
        rest = _BLANKS.match(self._text, self._at)
        if rest and self._text.startswith("|", rest.end()):
            self._at = rest.end()

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._peek("|"):
            self._at += 1
            self._skip(_BLANKS)
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)\r\n":
            part = self._element()
            parts.append(self._counted(part))
            self._between()
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _element(self) -> Node:
        char = self._text[self._at]
        if char == '"':
            return self._literal()
        if char == "[":
            return self._set()
        if char == "(":
            return self._group()
        if char == ".":
            self._at += 1
            return Chars((), negated=True)
        start = self._at
        name = self._name("a rule, a text, a set or a group")
        self._at = start + len(name)
        self._used.setdefault(name, start)
        return Ref(name)

    def _group(self) -> Node:
        start = self._at
        self._at += 1
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong(f"groups nested deeper than {_DEEPEST}")
        self._skip(_BLANKS)
        node = self._alternatives()
        self._depth -= 1
        if not self._peek(")"):
            raise self._wrong("a ( that nothing closes", start)
        self._at += 1
        return node

    def _counted(self, part: Node) -> Node:
        char = self._text[self._at : self._at + 1]
        bounds: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if char in bounds and char:
            self._at += 1
            return Repeat(part, *bounds[char])
        if char != "{":
            return part
        found = _COUNT.match(self._text, self._at)
        if not found:
            raise self._wrong("a { that counts nothing")
        low, high = counted(found, self._wrong)
        self._at = found.end()
        return Repeat(part, low, high)

    def _char(self, opened: str, start: int) -> str:
        """One character of a text or a set, which ``opened`` at ``start``."""
        char = self._text[self._at : self._at + 1]
        if char in ("", "\n"):
            raise self._wrong(f"a {opened} that nothing closes on its line", start)
        self._at += 1
        if char != "\\":
            return char
        coded = _ESCAPE.match(self._text, self._at)
        if coded:
            self._at = coded.end()
            code = int(coded[1] or coded[2] or coded[3], 16)
            if code > 0x10FFFF:
                raise self._wrong(f"there is no character of the code {code:X}")
            return chr(code)
        char = self._text[self._at : self._at + 1]
        if not char or (char.isalnum() and char not in _CONTROLS):
            raise self._wrong(f"the unknown escape \\{char}")
        self._at += 1
        return _CONTROLS.get(char, char)

    def _literal(self) -> Node:
        start = self._at
        self._at += 1
        text = []
        while not self._peek('"'):
            text.append(self._char('"', start))
        self._at += 1
        return Literal("".join(text))

    def _set(self) -> Node:
        start = self._at
        self._at += 1
        negated = self._peek("^")
        self._at += negated
        ranges = []
        while not self._peek("]"):
            low = high = self._char("[", start)
            if self._peek("-") and not self._peek("-]"):
                self._at += 1
                high = self._char("[", start)
            if ord(high) < ord(low):
                raise self._wrong("a range that ends before it begins")
            ranges.append((ord(low), ord(high)))
        self._at += 1
        return Chars(tuple(ranges), negated)
