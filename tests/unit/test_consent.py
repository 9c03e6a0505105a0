"""The question before something that can't be taken back, on a real terminal and off it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpuserve.cli.consent import OPEN, agreed
from gpuserve.errors import Interrupted, UsageError


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> Iterator[None]:
    """A terminal on which ``answer`` has been typed."""
    master, slave = os.openpty()
    try:
        os.write(master, answer.encode())
        with os.fdopen(slave, "r") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            yield
    finally:
        os.close(master)


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " yes \n"])
def test_a_yes_is_a_yes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str) -> None:
    with terminal(monkeypatch, answer):
        agreed(OPEN, yes=False)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.endswith("with no credential. Go on? [y/N] ")


@pytest.mark.parametrize("answer", ["n\n", "\n", "yeah\n", "\x04"])
def test_all_else_is_a_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    with terminal(monkeypatch, answer), pytest.raises(Interrupted, match="nothing was changed"):
        agreed(OPEN, yes=False)


def test_nobody_is_asked_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nobody:  # noqa: PTH123  # a stream is what is needed
        monkeypatch.setattr(sys, "stdin", nobody)
        with pytest.raises(UsageError) as caught:
            agreed(OPEN, yes=False)
        agreed(OPEN, yes=True)
    assert caught.value.hint == "say so with --yes"
