"""An answer as it comes, drawn as markdown on a terminal.

Blocks that are done are printed once and for all; only the block that still grows is drawn anew, a few times a second
and never more of it than the screen holds. So nothing that was said scrolls away undrawn, and nothing flickers. A block
that gets too long to be drawn again and again is written as plain text from there on.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from gpuserve.cli.output import plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

#: Characters of a growing block from which on it is plain text.
LONGEST = 6000
#: Seconds between two drawings.
_PAUSE = 0.1

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MAY_GO_ON = re.compile(r"\s|[-*+](?: |$)|\d{1,9}(?:$|[.)](?: |$))")
_GOES_ON = re.compile(r"\s|[-*+] |\d{1,9}[.)] ")


def split(text: str) -> int:
    """Where in ``text`` the blocks end that nothing more can change: the length of that part, 0 for none.

    A blank line ends a block, but not within a fence, nor where an indented line or another item of a list follows.
    """
    fence, at, end, blank = "", 0, 0, False
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            # Of a line that has only begun its first two characters say whether it goes on with the block.
            return at if blank and not fence and len(line) > 1 and not _may_go_on(line) else end
        mark = _FENCE.match(line)
        if blank and not fence and line.strip() and not _GOES_ON.match(line):
            end = at
        if mark and not fence:
            fence = mark[1]
        elif mark and fence and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        blank = not line.strip()
        at += len(line)
    return end


def _may_go_on(line: str) -> bool:
    return bool(_MAY_GO_ON.match(line))


class Drawn:
    """Markdown for rich, with what the model wrote made harmless: also what it hid in entities.

    HTML is shown, not dropped; links and pictures show where they lead; references are left as they stand.
    """

    def __init__(self, text: str, *, height: int = 0) -> None:
        self._text = text
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from markdown_it import MarkdownIt
        from rich.markdown import Markdown
        from rich.segment import Segment

        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        parser.disable(["reference", "image"])
        markdown = Markdown("", hyperlinks=False)
        markdown.parsed = parser.parse(plain(self._text))
        folded = options.update(no_wrap=False, overflow="fold")  # a word longer than a line goes on in the next
        lines = console.render_lines(markdown, folded, pad=False)
        for line in lines[-self._height :] if self._height else lines:
            for segment in line:
                yield Segment(plain(segment.text), segment.style)
            yield Segment.line()


class MarkdownView:
    """One answer on a terminal: ``add`` its pieces, then ``close``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = ""
        self._live: Live | None = None
        self._drawn = 0.0
        self._plain = False

    def add(self, text: str) -> None:
        """Shows one piece."""
        if self._plain:
            self._write(text)
            return
        self._tail += text
        if end := split(self._tail):
            self._settle(self._tail[:end])
            self._tail = self._tail[end:]
        if len(self._tail) > LONGEST:
            self._erase()
            self._write(self._tail)
            self._tail, self._plain = "", True
        elif time.monotonic() - self._drawn > _PAUSE:
            self._draw()

    def close(self) -> None:
        """Prints what is left."""
        self._erase()
        if self._plain:
            self._console.file.write("\n")
        elif self._tail.strip():
            self._console.print(Drawn(self._tail), end="")
        self._console.file.flush()
        self._tail, self._plain = "", False

    def _settle(self, text: str) -> None:
        self._erase()
        if text.strip():
            self._console.print(Drawn(text), end="")
            self._console.file.write("\n")

    def _write(self, text: str) -> None:
        self._console.file.write(plain(text))
        self._console.file.flush()

    def _draw(self) -> None:
        from rich.live import Live

        self._drawn = time.monotonic()
        shown: Any = Drawn(self._tail, height=max(1, self._console.size.height - 2))
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(shown, refresh=True)

    def _erase(self) -> None:
        """Takes the growing block off the screen: what follows stands in its place."""
        if self._live is not None:
            self._live.stop()
            self._live = None
