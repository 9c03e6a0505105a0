"""What ``gpuserve --help`` may not load: module names, which are the same on every machine."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "aiohttp",
    "daytona",
    "filelock",
    "httpx",
    "httpx2",
    "jsonschema",
    "huggingface_hub",
    "openai",
    "psutil",
    "pydantic_settings",
    "smg",
    "socketio",
    "starlette",
    "uvicorn",
)
SCRIPT = """
import contextlib, io, json, sys
from gpuserve.cli.main import run
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    status = run(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]))
"""


def loaded_by(*argv: str) -> tuple[int, set[str]]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *argv], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stdout)
    return status, set(modules)


@pytest.mark.parametrize(
    "argv",
    [
        ("--help",),
        ("--version",),
        *((one, "--help") for one in ("up", "query", "batch", "bench", "host")),
        ("fleet", "up", "--help"),
    ],
)
def test_help_loads_nothing_heavy(argv: tuple[str, ...]) -> None:
    status, modules = loaded_by(*argv)
    assert status == 0
    assert modules.isdisjoint(HEAVY)


def test_a_missing_key_is_told_without_loading_the_sdk() -> None:
    status, modules = loaded_by("up", "--model", "openai/gpt-oss-20b")
    assert status == 3
    assert modules.isdisjoint({"daytona", "openai", "httpx", "aiohttp", "socketio"})


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import json, sys, gpuserve; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert modules.isdisjoint((*HEAVY, "pydantic", "typer", "rich", "gpuserve.api"))


def test_the_list_is_of_modules_that_exist() -> None:
    """A misspelt name would never be found in ``sys.modules``, and the tests above could not fail."""
    import importlib.util

    absent = [name for name in HEAVY if importlib.util.find_spec(name) is None]
    assert absent == [
        name for name in absent if name in ("starlette", "uvicorn")
    ]  # named by the contract, not installed
