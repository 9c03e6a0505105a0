"""Writes docs/cli.md from the commands' own help; ``--check`` only says whether it is up to date."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from generated import written_or_checked

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# Commands

Made from `gpuserve --help` by `scripts/cli_docs.py`; don't edit by hand.
"""


def commands(group: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command below ``group``, depth first, groups included."""
    found = [path]
    for name, inner in sorted(getattr(group, "commands", {}).items()):
        found += commands(inner, (*path, name))
    return found


def page() -> str:
    """The whole page."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from gpuserve.cli.app import app

    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"})
    parts = [HEAD]
    for path in commands(get_command(app)):
        shown = runner.invoke(app, [*path, "--help"], prog_name="gpuserve").output
        text = "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).strip("\n").splitlines())
        parts.append(f"## {' '.join(('gpuserve', *path))}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """0 if the page is up to date, or was written."""
    os.environ.update(COLUMNS="100", TERMINAL_WIDTH="100")
    return written_or_checked(TARGET, page(), doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
