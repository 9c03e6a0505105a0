"""A way in that leads nowhere says why: an ended link, a wrong token, a wrong key and a dead server are four things."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.inside import inside
from e2e.usershell import Shell, bring_up, eventually, make_shell


@pytest.fixture(scope="module", name="shell")
def within(shell: Shell) -> Shell:
    """The same shell, its commands run here."""
    return inside(shell)


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    yield bring_up(shell, "--name", "words", "--env", "LLAMA_API_KEY=words-key-1")
    shell.run("down", "words")


def told(shell: Shell, url: str, *more: str, **env: str) -> tuple[int, str]:
    """How trying ``url`` ends, and what is said."""
    done = shell.run("status", "--url", url, *more, "--json", env=env)
    return done.status, done.error["message"] if done.status else " ".join(done.data["models"])


@pytest.fixture
def colleague(shell: Shell, tmp_path: Path) -> Shell:
    """Somebody else, who has no account and no cache, only what was given to them."""
    return inside(make_shell(tmp_path, Path(shell.env["LLAMA_CACHE"])))


def test_each_obstacle_has_words_of_its_own(shell: Shell, colleague: Shell, live: dict[str, Any]) -> None:
    key, token = {"K": live["api_key"]}, {"T": live["token"]}
    assert live["api_key"] == "words-key-1"
    url = live["endpoint"]
    by_token = ("--token-from", "T")
    by_key = ("--key-from", "K")
    assert told(colleague, url, *by_token, *by_key, **key, **token) == (0, live["served_model"])
    said = {
        "nothing": told(colleague, url),
        "wrong token": told(colleague, url, *by_token, *by_key, T="wrong-token", **key),
        "no key": told(colleague, url, *by_token, **token),
        "wrong key": told(colleague, url, *by_token, *by_key, K="words-key-2", **token),
        "no server": told(colleague, "http://127.0.0.1:9/preview/1-x", *by_token, **token),
    }
    assert "wants a credential" in said["nothing"][1]
    assert "refuses the preview token" in said["wrong token"][1]
    assert "the engine wants an API key" in said["no key"][1]
    assert "the engine refuses its API key" in said["wrong key"][1]
    assert "can't connect" in said["no server"][1]
    assert [status for status, _ in said.values()] == [3, 3, 3, 3, 12]


def test_an_ended_link_is_told_apart(shell: Shell, colleague: Shell, live: dict[str, Any]) -> None:
    key = {"K": live["api_key"]}
    one, other = (shell.ok("share", "words", "--expires", life, "-q").out.strip() for life in ("10m", "3s"))
    assert told(colleague, f"{one}/v1", "--key-from", "K", **key) == (0, live["served_model"])
    assert "the engine wants an API key" in told(colleague, one)[1]
    shell.ok("share", "words", "--revoke", "--url", one)
    eventually(lambda: told(colleague, other, "--key-from", "K", **key)[0] == 3, within=15)
    for url in (one, other):  # whoever only has the URL can't know which of both it was
        assert "has expired or was revoked" in told(colleague, url)[1]
    assert "was revoked on this machine" in told(shell, one)[1]  # where it was handed out, that is known
    assert "the signed URL expired" in told(shell, other)[1]


def test_a_dead_server_is_told_apart_from_an_ended_link(shell: Shell, colleague: Shell, live: dict[str, Any]) -> None:
    url = shell.ok("share", "words", "--expires", "10m", "-q").out.strip()
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("DAYTONA_SANDBOX_ID") == live["id"] and "LLAMA_API_KEY" in environment:
                os.kill(process.pid, signal.SIGKILL)
        except (psutil.Error, OSError):
            continue
    eventually(lambda: told(colleague, url)[0] == 12)
    assert "nothing listens behind" in told(colleague, url)[1]
    dead = next(row for row in shell.live() if row["name"] == "words")
    assert dead["health"] == "not ready"
    assert dead["detail"] == "the engine ended with exit code 137; why: gpuserve wait words"
    shell.ok("down", "words")
    status, message = told(colleague, url)
    assert (status, "its sandbox is gone" in message) == (3, True)
