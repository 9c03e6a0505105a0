"""The README's commands are those that CI and the tests run, and its claims about files hold."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[:-1] == ["set -euo pipefail", 'cd "$(dirname "$0")/.."']
    assert f"```sh\n{lines[-1]}\n```" in README


def test_what_it_links_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_is_told_of() -> None:
    from typer.main import get_command

    from gpuserve.cli.app import app

    for name in get_command(app).commands:  # type: ignore[attr-defined]  # Typer's group has them
        assert f"| `{name}` |" in README


def test_the_constraints_name_versions_and_no_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert len(pinned) > 30
    assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", line)] == []
