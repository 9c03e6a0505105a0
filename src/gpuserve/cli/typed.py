"""What a person types into ``chat``, or a pipe brings: messages of one line or several, and commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from gpuserve.errors import UsageError

#: Opens and ends a message of several lines.
BLOCK = '"""'


@dataclass(frozen=True, slots=True)
class Message:
    """Something to say to the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Order:
    """A command to the chat itself: its name, and what follows it."""

    name: str
    rest: str


class Stopped(Exception):
    """Ctrl-C while a line was typed: what was typed is dropped."""


def entries(read: Callable[[bool], str]) -> Iterator[Message | Order]:
    """What ``read`` brings, up to the end of file. ``read`` gets whether a message goes on in the line it reads.

    A line that ends in a backslash goes on in the next. A line that begins with three double quotes begins a block,
    which ends with three double quotes at the end of a line. A line that begins with a slash is a command; with two,
    a message that begins with one. Empty lines are passed over.
    """
    while True:
        try:
            line = read(False)
        except EOFError:
            return
        except Stopped:
            continue
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line[1:].strip().partition(" ")
            yield Order(name, rest.strip())
            continue
        with suppress(Stopped):
            text = _whole(line[1:] if line.startswith("//") else line, read)
            if text.strip():
                yield Message(text)


def _whole(line: str, read: Callable[[bool], str]) -> str:
    """The message that ``line`` begins; one that the end of file cuts is taken as far as it came."""
    lines = []
    with suppress(EOFError):
        if line.lstrip().startswith(BLOCK):
            line = line.lstrip()[len(BLOCK) :]
            while not line.rstrip().endswith(BLOCK):
                lines.append(line)
                line = read(True)
            return "\n".join([*lines, line.rstrip()[: -len(BLOCK)]]).strip("\n")
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = read(True)
        lines.append(line)
    return "\n".join(lines)


def reader(*, prompt: bool) -> Callable[[bool], str]:
    """Reads stdin line by line. With ``prompt``, as a person types: with a prompt, and readline where there is one."""
    return _ask if prompt else _line


def _line(_: bool) -> str:
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise UsageError("stdin is not UTF-8 text", hint="pipe text in") from error
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _ask(goes_on: bool) -> str:
    with suppress(ImportError):  # not everywhere; with it ``input`` has arrow keys and remembers lines
        import readline  # noqa: F401
    prompt = "... " if goes_on else ">>> "
    if not sys.stdout.isatty():  # stdout is the answers' alone
        sys.stderr.write(prompt)
        sys.stderr.flush()
        prompt = ""
    try:
        return input(prompt)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        raise Stopped from None
    except UnicodeDecodeError:
        sys.stderr.write("that was not UTF-8 text\n")
        raise Stopped from None
