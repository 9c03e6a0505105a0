"""What the scripts that make a file of the repository have in common: they write it, or say that it is out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def written_or_checked(target: Path, text: str, *, doc: str | None) -> int:
    """Writes ``text`` to ``target``, or with ``--check`` returns 1 if it isn't what stands there."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    if not parser.parse_args().check:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    print(f"{target.name} is out of date: run python scripts/{Path(sys.argv[0]).name}", file=sys.stderr)
    return 1
