"""Writes .env.example from the settings' own descriptions; ``--check`` only says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from generated import written_or_checked

TARGET = Path(__file__).parent.parent / ".env.example"
#: What a .env file may not set; see gpuserve.settings.
NOT_HERE = ("DAYTONA_API_URL",)


def text() -> str:
    """The whole file: every setting, commented out but for the key."""
    from gpuserve.settings import Settings

    lines = ["# Copy to .env and fill in. gpuserve up --local needs none of this.", ""]
    for field in Settings.model_fields.values():
        if field.alias in NOT_HERE:
            continue
        lines += [f"# {field.description}", f"{'' if field.alias == 'DAYTONA_API_KEY' else '# '}{field.alias}=", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> int:
    """0 if the file is up to date, or was written."""
    return written_or_checked(TARGET, text(), doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
