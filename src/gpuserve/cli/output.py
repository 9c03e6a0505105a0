"""Everything that gpuserve prints. stdout carries what a script wants; everything for a person goes to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from gpuserve.redaction import Redactor

if TYPE_CHECKING:
    from rich.console import Console

_LABEL_WIDTH = 10


#: Invisible characters that ordinary writing needs: they join emoji and letters, or are a blank of another width.
_HARMLESS = "\n\t\u200c\u200d\u00a0\u00ad\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
#: What JSON may hold as it is, but a terminal, or an encoder, had better not get: C1 controls, marks that turn the
#: direction of text, line separators, halves of a pair, tags.
_RISKY = re.compile(
    "[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def plain(text: str) -> str:
    """``text`` without control characters: what came from elsewhere must not drive the terminal.

    Neither colours nor titles nor the direction of text: each such character is shown as U+FFFD.
    """
    return "".join(char if char.isprintable() or char in _HARMLESS else "�" for char in text.replace("\r\n", "\n"))


def json_text(document: object) -> str:
    """``document`` as JSON on one line: exact for whoever reads it as JSON, harmless to a terminal that shows it."""
    return _RISKY.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(document, ensure_ascii=False))


def shown_path(path: str) -> str:
    """``path`` as a person types it: the home directory as ``~``."""
    from pathlib import Path

    home = str(Path.home())
    return f"~{path.removeprefix(home)}" if path.startswith(f"{home}/") else path


def _put(stream: TextIO, text: str) -> None:
    """Writes at once. What the stream's encoding lacks, such as half of a pair of surrogates, becomes "?"."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


class Output:
    """Where one command's results and remarks go.

    ``json`` puts one document, ``{"data": …}``, on stdout (or lines, where a command streams); ``quiet`` drops the
    remarks, ``verbose`` adds to them.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose

    @property
    def lively(self) -> bool:
        """Whether stderr is a terminal on which things may move."""
        return sys.stderr.isatty() and not self.quiet and not self.as_json and os.environ.get("TERM") != "dumb"

    def data(self, payload: object) -> None:
        """The command's result, in JSON mode only; nothing otherwise."""
        if self.as_json:
            self.line({"data": payload})

    def line(self, document: Mapping[str, object]) -> None:
        """One JSON document on a line of stdout, whatever the mode."""
        self.write(json_text(document) + "\n")

    def write(self, text: str) -> None:
        """Text on stdout, as it is, at once."""
        _put(sys.stdout, text)

    def result(self, text: str) -> None:
        """The command's result for a person or a script; nothing in JSON mode."""
        if not self.as_json:
            self.write(text if text.endswith("\n") else text + "\n")

    def say(self, label: str, text: str) -> None:
        """A remark on stderr: a word that tells what it is about, and the remark."""
        if not self.quiet:
            self.remark(label, text)

    def warn(self, text: str) -> None:
        """Something a person should know, even with ``--quiet``."""
        self.remark("warning", text)

    def detail(self, label: str, text: str) -> None:
        """A remark that only ``--verbose`` shows."""
        if self.verbose:
            self.remark(label, text)

    def raw(self, text: str) -> None:
        """Text on stderr, as it is."""
        _put(sys.stderr, text)

    def remark(self, label: str, text: str) -> None:
        """A remark that was asked for, or that must not be missed: said even with ``--quiet``."""
        lines = plain(text).splitlines() or [""]
        shown = f"{label:<{_LABEL_WIDTH}}{lines[0]}\n"
        self.raw(shown + "".join(f"{'':<{_LABEL_WIDTH}}{line}\n" for line in lines[1:]))

    def console(self, *, to_stdout: bool = False) -> Console:
        """A rich console; ``NO_COLOR`` and pipes are honoured by rich itself."""
        from rich.console import Console

        return Console(stderr=not to_stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout: drawn on a terminal, tab-separated off it."""
        if not sys.stdout.isatty():
            self.write("\n".join("\t".join(map(plain, row)) for row in (columns, *rows)) + "\n")
            return
        self.console(to_stdout=True).print(make_table(columns, rows))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A rich table without ruling lines."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def report_error(error: Mapping[str, object], *, as_json: bool) -> None:
    """The last words of a command that failed: JSON on stdout, or one sentence and a hint on stderr."""
    redact = Redactor()
    if as_json:
        shown = {key: redact(value) if isinstance(value, str) else value for key, value in error.items()}
        _put(sys.stdout, json_text({"error": shown}) + "\n")
        return
    output = Output()
    output.raw(f"{'error':<{_LABEL_WIDTH}}{redact(plain(str(error['message'])))}\n")
    if error.get("hint"):
        output.raw(f"{'try':<{_LABEL_WIDTH}}{redact(plain(str(error['hint'])))}\n")
    if error.get("log_file"):
        output.raw(f"{'log':<{_LABEL_WIDTH}}{shown_path(str(error['log_file']))}\n")
