"""What the tests of real engines share: whether their environment is there, and what a killed engine left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.usershell import Shell

_MAPPED = re.compile(r"^\S+ \S+ \S+ \S+ \d+ +(/dev/shm/\S+)$", re.MULTILINE)


def need(config: pytest.Config, marker: str, program: Path, command: str) -> None:
    """Returns if ``program`` is there. Else the test fails where its marker was asked for, and is skipped elsewhere."""
    if program.exists():
        return
    why = f"{program} is missing; build it: {command}"
    asked = re.sub(rf"not\s+{marker}\b", "", str(config.option.markexpr))
    if marker in asked:
        pytest.fail(why)
    pytest.skip(why)


def phases(out: str) -> list[str]:
    """The phases of a boot in the order in which ``up --json`` or ``wait --json`` told them."""
    events = [json.loads(line).get("event", {}) for line in out.splitlines()]
    return list(dict.fromkeys(event["phase"] for event in events if event.get("kind") == "boot"))


def figures(out: str) -> dict[str, float]:
    """The figures of a boot, the last of each."""
    events = [json.loads(line).get("event", {}) for line in out.splitlines()]
    return {name: value for event in events for name, value in event.get("figures", {}).items()}


def members(sandbox_id: str) -> list[psutil.Process]:
    """The processes of a sandbox: those that carry its mark, and all that descends from them."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("DAYTONA_SANDBOX_ID") == sandbox_id:
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except (psutil.Error, OSError):
            continue
    return list(found.values())


def titled(processes: Sequence[psutil.Process], title: str) -> psutil.Process:
    """The one process whose command line holds ``title``."""
    (found,) = [one for one in processes if title in " ".join(one.cmdline())]
    return found


def traces(processes: Sequence[psutil.Process]) -> set[Path]:
    """What these processes have outside their sandbox: shared memory, and their directory for temporary files."""
    found: set[Path] = set()
    for process in processes:
        found |= {Path(path) for path in _MAPPED.findall(Path(f"/proc/{process.pid}/maps").read_text())}
        found |= {Path(value) for name, value in process.environ().items() if name == "TMPDIR"}
    return found


def nothing_left(shell: Shell, sandbox_id: str, processes: Sequence[psutil.Process], left: set[Path]) -> None:
    """Fails unless the sandbox is gone with its processes, its directory, and ``left``."""
    assert sandbox_id not in [row["sandbox_id"] for row in shell.live()]
    assert [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert members(sandbox_id) == []
    assert not (shell.home / "state" / "gpuserve" / "host" / "sandboxes" / sandbox_id).exists()
    assert [path for path in left if path.exists()] == []


def data(shell: Shell, *argv: str) -> Any:
    """The ``data`` of a command that must succeed."""
    return shell.ok(*argv, "--json", timeout=600).data
