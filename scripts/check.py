"""Every check, in the order of what fails fastest. The README's test command; stops at the first that fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
CHECKS: tuple[tuple[str, ...], ...] = (
    (PYTHON, "-m", "ruff", "format", "--check", "."),
    (PYTHON, "-m", "ruff", "check", "."),
    (PYTHON, "-m", "mypy"),
    (str(Path(PYTHON).with_name("lint-imports")),),
    (PYTHON, "scripts/cli_docs.py", "--check"),
    (PYTHON, "scripts/host_coverage.py", "--check"),
    (PYTHON, "scripts/env_example.py", "--check"),
    (PYTHON, "scripts/fit_table.py", "--check"),
    # Two at a time, file by file: most tests wait for processes more than they compute. Coverage has its own command in
    # the README: it makes each of some thousand processes half as slow again.
    (PYTHON, "-m", "pytest", "-n", "2", "--dist", "loadfile"),
)


def main() -> int:
    """0 if all passed, else the status of the first that did not."""
    for check in CHECKS:
        print("$", " ".join(check).replace(PYTHON, "python"), flush=True)
        if shutil.which(check[0]) is None:
            print(f"{check[0]} is not installed: pip install -e '.[local,gateway,dev]' -c constraints.txt")
            return 1
        status = subprocess.run(check, cwd=ROOT, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
