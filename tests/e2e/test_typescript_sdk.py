"""Daytona's TypeScript SDK, unmodified from npm, against the local host: ``pytest -m typescript``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from e2e.programs import guest, run, said
from e2e.usershell import Shell

STORY = Path(__file__).parents[1] / "typescript"
INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")

pytestmark = [
    pytest.mark.typescript,
    pytest.mark.skipif(not shutil.which("node"), reason="node is not installed"),
    pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the story with the SDK beside it."""
    place = tmp_path_factory.mktemp("typescript") / "story"
    shutil.copytree(STORY, place, ignore=shutil.ignore_patterns("node_modules"))
    done = run(INSTALL, dict(os.environ), place)
    assert done.returncode == 0, done.stderr
    return place


def test_the_whole_story(shell: Shell, installed: Path) -> None:
    with guest(shell) as env:
        done = run(["node", "by_hand.mjs"], env, installed)
    assert done.returncode == 0, done.stderr
    told = said(done)
    name = told["created"]
    assert "ghcr.io/ggml-org/llama.cpp:server-cuda" in told["built"] or "built before" in told["built"]
    assert "Paris" in told["chat"]
    assert told["stream"].replace("|", "") == told["chat"]
    assert told["stream"].count("|") > 3
    assert told["inside"] == "smollm2"
    assert told["exit code"] == "3 three"
    assert told["files"] == "content.bin 14"
    assert json.loads(told["followed"]) == {"out": "out 1\nout 2\nout 3\n", "err": "err 1\nerr 2\nerr 3\n"}
    assert (told["signed"], told["revoked"], told["expired"]) == ("200", "401", "401")
    assert told["listed"] == f"[ '{name}' ]"
    assert told["gone"] == f"{name} []"
    assert "listening on http://127.0.0.1:" in done.stderr
