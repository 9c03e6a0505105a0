"""Rules that every command keeps, looked up in the command tree itself."""

from typing import Any

import pytest
from typer.main import get_command

from gpuserve.cli.app import app


def commands(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command that does something, by its path."""
    inner = getattr(group, "commands", None)
    if inner is None:
        return {path: group}
    return {key: value for name, one in inner.items() for key, value in commands(one, (*path, name)).items()}


COMMANDS = commands(get_command(app))


def test_the_six_commands_and_the_host_are_there() -> None:
    assert {("up",), ("logs",), ("status",), ("share",), ("query",), ("down",)} < set(COMMANDS)
    assert {("host", "start"), ("host", "stop"), ("host", "status"), ("fleet", "up")} < set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--quiet", "--verbose", "--debug", "--local", "--env-file"} <= options
    assert command.help, "no description"
    assert "Example" in (command.epilog or ""), "no example"
    assert "--json" in (command.epilog or ""), "the shape of --json is not told"
    undescribed = [parameter.name for parameter in command.params if not parameter.help]
    assert not undescribed


def test_one_option_means_one_thing() -> None:
    short: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("-") and not option.startswith("--"):
                    short.setdefault(option, set()).add(parameter.name)
    allowed = {"-n": {"name", "tail"}, "-s": {"system"}}  # each the usual letter in its own command
    assert {option: names for option, names in short.items() if len(names) > 1} == {"-n": allowed["-n"]}
