"""What ``connect``, ``env`` and ``snippet`` say to input that can't be right, before anything is asked or started."""

from __future__ import annotations

import json

import pytest

from gpuserve.cli.main import run

WRONG = {
    "two names": (["connect", "one", "two"], "unexpected argument 'two'"),
    "no command": (["connect", "one", "--"], "no command after --"),
    "no such way": (["connect", "--via", "magic"], "--via can't be 'magic'"),
    "no such port": (["connect", "--port", "65536"], "65535"),
    "no key": (["connect", "--key-env", "NOT_SET"], "$NOT_SET holds no key"),
    "no such form": (["env", "--format", "nope"], "unknown output format 'nope'"),
    "reveal nothing": (["snippet", "--reveal", "--connect", "8000"], "don't go together"),
}


@pytest.mark.parametrize(("argv", "words"), WRONG.values(), ids=WRONG)
def test_it_is_told(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err


def test_stdout_can_not_be_both_json_and_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["connect", "--json", "--", "true"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_words_of_the_command_are_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a key or a host there is nothing to connect to; the flags after -- weren't taken for ours."""
    assert run(["connect", "--", "sh", "--json", "--port", "x", "--"]) in (3, 4)
    assert capsys.readouterr().out == ""
