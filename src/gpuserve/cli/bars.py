"""The live part of ``up`` on a terminal: a bar for the running phase and for each file of a download, and a note."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpuserve.cli.narrator import Bar, Narrator, Phase
from gpuserve.cli.output import plain
from gpuserve.durations import format_clock

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

#: As many files of a download have a bar of their own.
_FILES = 4
_BAR_WIDTH = 16
_LABEL_WIDTH = 10


def terminal_console() -> Console:
    """A console on stderr that crops what is too wide; ``NO_COLOR`` is honoured by rich itself."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


class Board:
    """Draws a ``Narrator`` as it changes, below what is printed in the meantime. ``began`` is monotonic."""

    def __init__(self, narrator: Narrator, console: Console, *, began: float) -> None:
        from rich.live import Live

        self._narrator = narrator
        self._began = began
        self._note = ""
        self.console = console
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=8, transient=True)

    def start(self) -> None:
        """Begins to draw. What is written to stderr from now on appears above."""
        self._live.start()

    def stop(self) -> None:
        """Takes the drawing away; stderr is an ordinary stream again."""
        self._live.stop()

    def note(self, text: str) -> None:
        """The last line of a log, shown faintly below."""
        self._note = plain(text.replace("\t", " ").replace("\n", " ").rstrip())

    def render(self) -> RenderableType:
        """The rows as they are now, no wider than the console."""
        from rich.console import Group
        from rich.text import Text

        rows: list[RenderableType] = []
        phase = self._narrator.current
        if phase is not None:
            rows.append(self._rows(phase))
        if self._note:
            rows.append(Text(f"{'':<{_LABEL_WIDTH}}{self._note}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*rows)

    def _rows(self, phase: Phase) -> Table:
        from rich.table import Table

        table = Table.grid(expand=True)
        table.add_column(width=_LABEL_WIDTH)
        table.add_column(width=_BAR_WIDTH + 2)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(width=8, justify="right")
        took = self._narrator.seconds(phase, time.monotonic() - self._began)
        _add(table, phase.name, phase.share, phase.detail, format_clock(took))
        files = self._narrator.download.running() if phase.name == "download" else {}
        if len(files) > 1:
            for name, bar in list(files.items())[:_FILES]:
                _add(table, "", bar.share, name, _left(bar))
        return table


def _add(table: Table, label: str, share: float | None, text: str, clock: str) -> None:
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    bar = ProgressBar(total=1.0, completed=share or 0.0, width=_BAR_WIDTH, pulse=share is None)
    table.add_row(Text(label), Padding(bar, (0, 2, 0, 0)), Text(plain(text)), Text(clock))


def _left(bar: Bar) -> str:
    return format_clock((bar.total - bar.done) / bar.rate) if bar.rate else ""
