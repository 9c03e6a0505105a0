"""The engine's own key in a sandbox, and an engine that is started anew with another."""

from __future__ import annotations

import shlex

import pytest
from daytona import Sandbox

from gpuserve.errors import NotFound
from gpuserve.sandboxes import keyfile
from gpuserve.sandboxes.session import EngineSession
from host_tools import until

ENGINE = 'printf "%s\\n" "$(cat "$HOME"/.gpuserve-key)" >>"$HOME"/seen; sleep 300'


def in_home(sandbox: Sandbox, command: str) -> str:
    return str(sandbox.process.exec(f"sh -c {shlex.quote(command)}").result).strip()


def test_the_first_key_stays_until_it_is_replaced(sandbox: Sandbox) -> None:
    assert keyfile.read(sandbox) == ""
    assert keyfile.keep(sandbox, "first-key-1") == "first-key-1"
    assert keyfile.keep(sandbox, "other-key-2") == "first-key-1"
    keyfile.replace(sandbox, "third-key-3")
    assert keyfile.read(sandbox) == "third-key-3"
    assert in_home(sandbox, 'stat -c %a "$HOME"/.gpuserve-key') == "600"
    assert in_home(sandbox, 'ls -A "$HOME" | grep -c gpuserve-key') == "1"


def test_an_engine_starts_anew_with_another_key_by_the_same_command(sandbox: Sandbox) -> None:
    engine = EngineSession(sandbox, "engine")
    engine.launch(ENGINE, key="first-key-1")
    until(lambda: in_home(sandbox, 'cat "$HOME"/seen 2>/dev/null || true') == "first-key-1")
    before = engine.command_id
    engine.restart(key="second-key-2")
    until(lambda: in_home(sandbox, 'cat "$HOME"/seen').split() == ["first-key-1", "second-key-2"])
    assert engine.command_id != before
    assert engine.alive()


def test_what_outlives_its_session_is_killed(sandbox: Sandbox) -> None:
    """As a platform that ended the session but not the engine would leave it."""
    engine = EngineSession(sandbox, "engine")
    engine.launch("trap '' TERM HUP; sleep 300; sleep 301")
    until(lambda: engine.alive() is True)
    engine._end_all()
    assert engine.alive() is False


def test_without_an_engine_there_is_nothing_to_start_anew(sandbox: Sandbox) -> None:
    sandbox.process.create_session("engine")
    with pytest.raises(NotFound, match="no engine was started"):
        EngineSession(sandbox, "engine").restart(key="first-key-1")
    assert keyfile.read(sandbox) == ""
