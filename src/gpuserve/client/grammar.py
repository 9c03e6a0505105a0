"""Languages of text: what a regular expression or a grammar is read into, written as GBNF, and checked against.

Grammars are recognised by Earley's method, expressions by an automaton (``automaton.py``). Neither goes back and tries
again, so no pattern hangs the program as Python's ``re`` can be made to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuserve.errors import UsageError

#: Symbols to which a language may grow once its counted repetitions are written out.
LARGEST = 50_000
#: Steps that a check may take: seconds of work, for texts far longer than a model's answer.
STEPS = 5_000_000


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set: ranges of code points, inclusive. ``loose`` names the classes (d, w, s) in it.

    Engines differ in whether \\d, \\w and \\s mean ASCII or all of Unicode. The ranges hold ASCII, which is what is
    asked for where gpuserve writes the grammar; a character that is in the class by the other reading is accepted too.
    """

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False
    loose: str = ""

    def holds(self, char: str) -> bool:
        """Whether ``char`` is in the set."""
        code = ord(char)
        if any(low <= code <= high for low, high in self.ranges) != self.negated:
            return True
        return not self.negated and any(_LOOSE[name](char) for name in self.loose)


_LOOSE = {"d": str.isdecimal, "w": lambda char: char.isalnum() or char == "_", "s": str.isspace}


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Whatever the rule of this name allows."""

    name: str


@dataclass(frozen=True, slots=True)
class Seq:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """Any one of them."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``part`` from ``low`` to ``high`` times; None: without end."""

    part: Node
    low: int
    high: int | None


Node = Chars | Literal | Ref | Seq | Alt | Repeat


def to_gbnf(node: Node) -> str:
    """A GBNF grammar of one rule, ``root``, for a node without references."""
    return f"root ::= {_gbnf(node)}"


def _gbnf(node: Node) -> str:
    if isinstance(node, Literal):
        return '"' + "".join(_quoted(char) for char in node.text) + '"'
    if isinstance(node, Chars):
        inside = "".join(
            _quoted(chr(low)) + (f"-{_quoted(chr(high))}" if high > low else "") for low, high in node.ranges
        )
        return f"[{'^' if node.negated else ''}{inside}]"
    if isinstance(node, Ref):
        return node.name
    if isinstance(node, Seq):
        return "(" + " ".join(map(_gbnf, node.parts)) + ")" if node.parts else '""'
    if isinstance(node, Alt):
        return "(" + " | ".join(map(_gbnf, node.options)) + ")"
    if node.high == 0:
        return '""'
    counts = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    exactly = node.low == node.high
    bounds = f"{{{node.low}}}" if exactly else f"{{{node.low},{'' if node.high is None else node.high}}}"
    return f"({_gbnf(node.part)}){counts.get((node.low, node.high), bounds)}"


def _quoted(char: str) -> str:
    code = ord(char)
    if char == " " or (char.isascii() and char.isalnum()):
        return char
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def too_large(limit: int) -> UsageError:
    """The error for a pattern of more than ``limit`` parts."""
    return UsageError(
        f"the pattern grows beyond {limit} parts once its repetitions are written out", hint="use smaller counts"
    )


Symbol = int | str | Chars


@dataclass(slots=True)
class _Compiler:
    """Writes nodes as productions of a context-free grammar; a symbol that is an int is a nonterminal."""

    rules: Mapping[str, Node]
    productions: list[list[tuple[Symbol, ...]]] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def fresh(self, *bodies: tuple[Symbol, ...]) -> int:
        self.size += sum(len(body) + 1 for body in bodies)
        if self.size > LARGEST:
            raise too_large(LARGEST)
        self.productions.append(list(bodies))
        return len(self.productions) - 1

    def rule(self, name: str) -> int:
        if name not in self.named:
            self.named[name] = self.fresh()
            self.productions[self.named[name]].append(self.symbols(self.rules[name]))
        return self.named[name]

    def symbols(self, node: Node) -> tuple[Symbol, ...]:
        if isinstance(node, Literal):
            return tuple(node.text)
        if isinstance(node, Chars):
            return (node,)
        if isinstance(node, Ref):
            return (self.rule(node.name),)
        if isinstance(node, Seq):
            return tuple(symbol for part in node.parts for symbol in self.symbols(part))
        if isinstance(node, Alt):
            return (self.fresh(*(self.symbols(option) for option in node.options)),)
        return self.repeated(node)

    def repeated(self, node: Repeat) -> tuple[Symbol, ...]:
        part = self.fresh(self.symbols(node.part))
        if max(node.low, node.high or 0) > LARGEST:
            self.fresh((part,) * (LARGEST + 1))
        if node.high is None:
            many = self.fresh(())
            self.productions[many].append((many, part))  # recursion on the left keeps the recogniser linear
            return (*((part,) * node.low), many)
        rest: tuple[Symbol, ...] = ()
        for _ in range(node.high - node.low):
            rest = (self.fresh((), (part, *rest)),)
        self.size += node.low
        return (*((part,) * node.low), *rest)


class Language:
    """All texts that ``root`` allows, a rule of ``rules``.

    Raises:
        UsageError: it is too large once counted repetitions are written out.
    """

    def __init__(self, rules: Mapping[str, Node], root: str = "root") -> None:
        compiler = _Compiler(rules)
        self._root = compiler.rule(root)
        self._productions = compiler.productions
        self._nullable = self._find_nullable()
        self._work = 0

    def _find_nullable(self) -> frozenset[int]:
        found: set[int] = set()
        grown = True
        while grown:
            grown = False
            for number, bodies in enumerate(self._productions):
                if number not in found and any(all(symbol in found for symbol in body) for body in bodies):
                    found.add(number)
                    grown = True
        return frozenset(found)

    def holds(self, text: str) -> bool | None:
        """Whether the whole of ``text`` is allowed; None if that takes more than ``STEPS`` steps to tell."""
        steps = 0
        waiting: list[dict[int, list[_Item]]] = []
        column: dict[_Item, None] = {(self._root, number, 0, 0): None for number in range(self._count(self._root))}
        for place in range(len(text) + 1):
            wanting = self._fill(column, place, waiting)
            steps += self._work
            if steps > STEPS:
                return None
            if place == len(text):
                return any(self._is_whole(item) for item in column)
            waiting.append(wanting)
            column = self._scan(column, text[place])
            if not column:
                return False
        return False

    def _count(self, symbol: int) -> int:
        return len(self._productions[symbol])

    def _is_whole(self, item: _Item) -> bool:
        symbol, number, dot, origin = item
        return symbol == self._root and origin == 0 and dot == len(self._productions[symbol][number])

    def _fill(
        self, column: dict[_Item, None], place: int, waiting: list[dict[int, list[_Item]]]
    ) -> dict[int, list[_Item]]:
        """Predicts and completes until nothing new comes; gives back who waits for which nonterminal here."""
        wanting: dict[int, list[_Item]] = {}
        agenda = list(column)
        self._work = 0
        for item in agenda:  # grows while it is read
            symbol, number, dot, origin = item
            body = self._productions[symbol][number]
            if dot < len(body):
                following = body[dot]
                if not isinstance(following, int):
                    continue
                if following not in wanting:
                    wanting[following] = []
                    new = [(following, one, 0, place) for one in range(self._count(following))]
                else:
                    new = []
                wanting[following].append(item)
                if following in self._nullable:
                    new.append((symbol, number, dot + 1, origin))
            elif origin == place:
                continue  # it is empty: who waits for it was moved on when it was predicted
            else:
                new = [(one[0], one[1], one[2] + 1, one[3]) for one in waiting[origin].get(symbol, ())]
            self._work += 1 + len(new)
            for one in new:
                if one not in column:
                    column[one] = None
                    agenda.append(one)
        return wanting

    def _scan(self, column: dict[_Item, None], char: str) -> dict[_Item, None]:
        moved: dict[_Item, None] = {}
        for symbol, number, dot, origin in column:
            body = self._productions[symbol][number]
            if dot < len(body):
                following = body[dot]
                if (
                    following == char
                    if isinstance(following, str)
                    else isinstance(following, Chars) and following.holds(char)
                ):
                    moved[(symbol, number, dot + 1, origin)] = None
        return moved


#: A production (nonterminal and number), how much of it is read, and where it began.
_Item = tuple[int, int, int, int]


def counted(found: re.Match[str], wrong: Callable[[str], UsageError]) -> tuple[int, int | None]:
    """The least and the greatest of a count, None for no end; ``found`` has n, ``,m`` and m of {n}, {n,} or {n,m}.

    Raises:
        UsageError: the one that ``wrong`` makes of what is wrong with it.
    """
    low = int(found[1])
    high = low if found[2] is None else int(found[3]) if found[3] else None
    if high is not None and high < low:
        raise wrong(f"a count from {low} to {high}")
    return low, high
