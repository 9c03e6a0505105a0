"""What scripts may rely on: exit statuses, error codes, and the JSON of every command, as the pages promise them.

The README's table and docs/json.md are read here and compared with what the installed command does.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub; its stubs would be a dependency for one call
from typer.main import get_command

from e2e.inside import inside
from e2e.usershell import QUICK, Done, Shell, bring_up, make_shell
from gpuserve.cli.app import app
from gpuserve.errors import GpuserveError

ROOT = Path(__file__).parents[2]
NAME = "contract"
NO_MODEL = ("--model", "openai/gpt-oss-20b", "--no-check")
#: Rows of the README's table that no test here can bring about, and why.
NOT_PROVOKED = {(1, "error"): "a defect of gpuserve: there is none to provoke on purpose"}


# -- the exit statuses -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A command that fails: how, and what it must say."""

    situation: str
    argv: tuple[str, ...]
    status: int
    code: str
    env: Mapping[str, str] = field(default_factory=dict)


NOBODY = {"DAYTONA_API_URL": "http://127.0.0.1:9/api", "DAYTONA_API_KEY": "dtn_0123456789abcdef"}
FAULT = ("up", *QUICK, "--name", "faulty", "--label")
GPU = ("up", *QUICK, "--name", "faulty", "--gpu", "H100", "--no-check", "--label")

AWAY = ("--replicas", "1", "--gateway", "sandbox")
CASES = [
    Case("a flag that doesn't exist", ("status", "--nope"), 2, "usage"),
    Case("a batch of nothing", ("batch",), 2, "usage"),
    Case("a batch without an input", ("batch", "no-such.jsonl"), 2, "usage"),
    Case("nothing named to delete", ("down",), 2, "usage"),
    Case("a time to live that is too short", ("up", *QUICK, "--ttl", "5s"), 2, "usage"),
    Case("an idle limit that is too short", ("up", *QUICK, "--idle", "5s"), 2, "usage"),
    Case("no limit, not said out loud", ("extend", NAME, "0"), 2, "usage"),
    Case("reap told two things", ("reap", "--yes", "--dry-run"), 2, "usage"),
    Case("a share for too long", ("share", NAME, "--expires", "25h"), 2, "usage"),
    Case("open to everybody, not said out loud", ("up", *QUICK, "--access", "open"), 2, "usage"),
    Case("a key to change where there is none", ("share", NAME, "--rotate-key", "--yes"), 5, "conflict"),
    Case("a link that nobody answers to", ("status", "--url", "http://127.0.0.1:9"), 12, "network"),
    Case("no name at all", ("status", "../x"), 2, "usage"),
    Case("an unknown engine", ("plan", "m", "--engine", "nope"), 2, "usage"),
    Case("prices that are none", ("status", "--local"), 2, "config", {"GPUSERVE_PRICES": "H100"}),
    Case("an address that is none", ("status",), 2, "config", {"DAYTONA_API_URL": "ftp://x"}),
    Case("no key", ("up", *NO_MODEL), 3, "not_authenticated"),
    Case("a deployment that isn't there: down", ("down", "no-such"), 4, "not_found"),
    Case("a deployment that isn't there: status", ("status", "no-such"), 4, "not_found"),
    Case("a deployment that isn't there: logs", ("logs", "no-such"), 4, "not_found"),
    Case("a deployment that isn't there: share", ("share", "no-such"), 4, "not_found"),
    Case("a deployment that isn't there: extend", ("extend", "no-such", "1h"), 4, "not_found"),
    Case("a deployment that isn't there: wait", ("wait", "no-such"), 4, "not_found"),
    Case("a deployment that isn't there: connect", ("connect", "no-such"), 4, "not_found"),
    Case("a deployment that isn't there: env", ("env", "no-such"), 4, "not_found"),
    Case("a deployment that isn't there: snippet", ("snippet", "no-such"), 4, "not_found"),
    Case("a fleet that isn't there: fleet status", ("fleet", "status", "no-such"), 4, "not_found"),
    Case("a fleet that isn't there: fleet down", ("fleet", "down", "no-such"), 4, "not_found"),
    Case("a fleet that isn't there: fleet scale", ("fleet", "scale", "no-such", "2"), 4, "not_found"),
    Case("more ready than there are", ("fleet", "up", *QUICK, "--replicas", "1", "--min-ready", "2"), 2, "usage"),
    Case("a gateway nowhere", ("fleet", "up", *QUICK, "--replicas", "1", "--gateway", "mars"), 2, "usage"),
    Case("a kept fleet, kept by nobody", ("fleet", "up", *QUICK, *AWAY, "--keep", "1"), 2, "usage"),
    Case("a gateway without a key", ("fleet", "up", *QUICK, *AWAY, "--access", "open"), 2, "usage"),
    Case("a fleet open to everybody", ("fleet", "up", *QUICK, "--replicas", "1", "--public"), 2, "usage"),
    Case("a snippet for nobody", ("snippet", NAME, "--for", "nope"), 2, "usage"),
    Case("a deployment that isn't there: query", ("query", "hi", "--id", "no-such"), 4, "not_found"),
    Case("a name that is taken", ("up", *QUICK, "--name", NAME, "--served-as", "other"), 5, "conflict"),
    Case("no free GPU", (*GPU, "host/fault=no-capacity", "--timeout", "3s"), 6, "no_capacity"),
    Case("the organisation's limit", (*GPU, "host/fault=quota"), 7, "quota"),
    Case("a model that is too large", ("plan", "openai/gpt-oss-120b", "--gpu", "RTX-4090"), 8, "does_not_fit"),
    Case("an engine that dies", ("up", *QUICK, "--name", "faulty", "--", "--no-such-flag"), 9, "boot_failed"),
    Case("a build that fails", (*FAULT, "host/fault=build-failed"), 9, "boot_failed"),
    Case("not in time", (*FAULT, "host/fault=slow-boot=8", "--timeout", "3s"), 10, "timed_out"),
    Case("too long a question", ("query", "word " * 4000, "--id", NAME), 11, "engine_error"),
    Case(
        "an answer that is cut",
        ("query", "hi", "--schema", '{"type":"array"}', "--max-tokens", "1", "--id", NAME),
        15,
        "bad_reply",
    ),
    Case("nobody answers", ("up", *NO_MODEL), 12, "network", NOBODY),
    Case("the platform fails", (*FAULT, "host/fault=create=500"), 13, "platform_error"),
    Case("too many requests", (*FAULT, "host/fault=create=429"), 14, "rate_limited"),
]


def kinds(base: type[GpuserveError] = GpuserveError) -> Iterator[type[GpuserveError]]:
    """Every error class."""
    yield base
    for one in base.__subclasses__():
        yield from kinds(one)


def promised() -> set[tuple[int, str]]:
    """Status and code of every row of the README's table but the first, which is no error."""
    rows = re.findall(r"^\| (\d+) \| (`.+?) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}


@pytest.fixture(scope="module", name="shell")
def within(shell: Shell) -> Shell:
    """The same shell, its commands run here."""
    return inside(shell)


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    """One deployment for all of these tests."""
    (shell.home / "rows.txt").write_text("hi\n")
    yield bring_up(shell, "--name", NAME)
    shell.run("down", "--all", "--yes")


def check_error(done: Done, status: int, code: str) -> None:
    assert (done.status, done.error["code"]) == (status, code), done
    kind = next(one for one in kinds() if one.code == code)
    assert (done.error["retryable"], kind.exit_status) == (kind.retryable, status)
    conforms("error", done.error)
    assert ("log_file" in done.error) is (code == "boot_failed")
    assert all(json.loads(line) for line in done.out.splitlines())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.situation)
def test_a_failure(shell: Shell, live: dict[str, Any], case: Case) -> None:
    ours, dashes, rest = case.argv[:1], "--" in case.argv, case.argv[1:]
    at = rest.index("--") if dashes else len(rest)
    done = shell.run(*ours, *rest[:at], "--json", *rest[at:], env=dict(case.env))
    check_error(done, case.status, case.code)
    assert [row["name"] for row in shell.live()] == [NAME]


def test_an_interruption(shell: Shell, live: dict[str, Any]) -> None:
    process = shell.start("logs", "-f", NAME, "--json")
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    check_error(Done(process.returncode, first + out, err), 130, "interrupted")


def test_every_status_that_the_readme_promises_is_provoked_or_excused() -> None:
    provoked = {(case.status, case.code) for case in CASES} | {(130, "interrupted")}
    assert promised() == provoked | set(NOT_PROVOKED)
    assert promised() == {(kind.exit_status, kind.code) for kind in kinds()}


def test_what_is_gone_already_is_no_error_where_that_was_said(shell: Shell, live: dict[str, Any]) -> None:
    assert shell.ok("down", "no-such", "--ignore-not-found", "--json").data == []
    again = bring_up(shell, "--name", NAME)
    assert (again["id"], again["name"]) == (live["id"], NAME)


# -- the shapes --------------------------------------------------------------------------------------------------------

KINDS = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def sections() -> dict[str, str]:
    """docs/json.md by heading."""
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


SECTIONS = sections()


def described(command: str) -> dict[str, str]:
    """Field to type, as the page says."""
    found = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", SECTIONS[command], re.MULTILINE))
    assert found, command
    return found


def conforms(command: str, payload: Any) -> None:
    """Fails unless ``payload`` is what the page says of ``command``: these fields, of these types, and no other."""
    fields = described(command)
    for one in payload if isinstance(payload, list) else [payload]:
        required = {name for name, kind in fields.items() if "optional" not in kind}
        assert required <= set(one) <= set(fields), (command, required ^ set(one))
        for name, value in one.items():
            words = [word.strip() for word in re.split(r" or |,", fields[name]) if word.strip() != "optional"]
            allowed = tuple(kind for word in words for kind in KINDS[word])
            assert isinstance(value, allowed), (command, name, value)
            assert not isinstance(value, bool) or "boolean" in words, (command, name, value)


def commands(group: Any, path: tuple[str, ...] = ()) -> set[str]:
    inner = getattr(group, "commands", None)
    if inner is None:
        return {" ".join(path)}
    return {found for name, one in inner.items() for found in commands(one, (*path, name))}


#: Headings that are no command's name.
EXTRA = {
    "error",
    "bench --compare",
    "share list",
    "share --public",
    "share --rotate-key",
    "share --revoke",
    "status --url",
    "fleet status worker",
    "fleet status gateway",
}


def test_the_page_tells_of_every_command_and_of_no_other() -> None:
    assert set(SECTIONS) == commands(get_command(app)) | EXTRA


OUT = ("-o", "bench.json")
#: Commands that succeed while one deployment is live, and under which heading the page has them.
SUCCESSES = [
    ("plan", ("plan", "openai/gpt-oss-20b", "--no-check")),
    ("plan", ("up", *QUICK, "--idle", "30m", "--dry-run", "--no-check")),
    ("up", ("up", *QUICK, "--name", NAME)),
    ("wait", ("wait", NAME)),
    ("query", ("query", "hi", "--id", NAME, "--max-tokens", "2")),
    ("query", ("query", "hi", "--id", NAME, "--schema", '{"enum": [{"a": 1}, [2]]}')),
    ("cache-check", ("cache-check", NAME, "--pairs", "1", "--tokens", "64")),
    ("query", ("query", "hi", "--id", NAME, "--max-tokens", "2", "--tools", "sandbox", "--yes")),
    ("exec", ("exec", NAME, "--python", "/dev/null")),
    ("cp", ("cp", "/etc/hostname", f"{NAME}:name")),
    ("chat", ("chat", NAME, "--max-tokens", "2")),
    ("env", ("env", NAME)),
    ("snippet", ("snippet", NAME, "--for", "curl")),
    ("batch", ("batch", "rows.txt", "--id", NAME, "--max-tokens", "2")),
    ("bench", ("bench", NAME, "-c", "1", "--requests", "2", "--prompt-tokens", "64", "--output-tokens", "2", *OUT)),
    ("bench --compare", ("bench", "--compare", "bench.json", "bench.json")),
    ("logs", ("logs", NAME, "--tail", "1")),
    ("status", ("status",)),
    ("status", ("status", NAME)),
    ("share", ("share", NAME)),
    ("share list", ("share", "list", NAME)),
    ("share --public", ("share", NAME, "--public", "off")),
    ("share --revoke", ("share", NAME, "--revoke")),
    ("extend", ("extend", NAME, "2h")),
    ("reap", ("reap", "--older-than", "0s")),
    ("models", ("models", "qwen3")),
    ("doctor", ("doctor", "--local")),
    ("host start", ("host", "start")),
    ("host status", ("host", "status", "--show-key")),
]


@pytest.mark.parametrize(("heading", "argv"), SUCCESSES, ids=[" ".join(argv[:2]) for _, argv in SUCCESSES])
def test_the_shape_of_a_success(shell: Shell, live: dict[str, Any], heading: str, argv: tuple[str, ...]) -> None:
    done = shell.ok(*argv, "--json")
    assert done.data
    conforms(heading, done.data)
    assert all(json.loads(line) for line in done.out.splitlines())
    assert isinstance(done.data, list) is ("array of objects" in SECTIONS[heading] and argv != ("status", NAME))


def test_the_shape_of_what_follows_from_a_link_and_a_key(shell: Shell, live: dict[str, Any]) -> None:
    keyed = bring_up(shell, "--name", "shape-key", "--access", "key")
    conforms("up", keyed)
    tried = shell.ok("status", "--url", keyed["endpoint"], "--key-from", "K", "--json", env={"K": keyed["api_key"]})
    conforms("status --url", tried.data)
    conforms("share --rotate-key", shell.ok("share", "shape-key", "--rotate-key", "--yes", "--json").data)
    shell.ok("down", "shape-key")


def test_the_shape_of_an_end(shell: Shell, live: dict[str, Any]) -> None:
    bring_up(shell, "--name", "ending", "--no-wait", "--gpu", "H100", "--no-check")
    ended = shell.ok("down", "ending", "--json", env={"GPUSERVE_PRICES": "H100=3.95"}).data
    conforms("down", ended)
    assert ended[0]["cost_per_hour"] == 3.95


def test_the_shape_of_a_host_that_does_not_run(shell: Shell, tmp_path: Path) -> None:
    other = make_shell(tmp_path, Path(shell.env["LLAMA_CACHE"]))
    conforms("host stop", other.ok("host", "stop", "--json").data)
    conforms("host status", other.ok("host", "status", "--json").data)


# -- the workflow ------------------------------------------------------------------------------------------------------


def workflow() -> dict[str, Any]:
    text = (ROOT / "examples" / "github-actions.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def lines(step: Mapping[str, Any]) -> list[list[str]]:
    """The calls of gpuserve in a step, as a shell would split them."""
    env = {"NAME": "ci-17-1"}
    split = [shlex.split(re.sub(r"\$(\w+)", lambda found: env[found[1]], line)) for line in _ours(step)]
    return [words[1:] for words in split]


def _ours(step: Mapping[str, Any]) -> list[str]:
    return [line for line in str(step.get("run", "")).splitlines() if line.startswith("gpuserve ")]


def test_the_workflow_ends_what_it_begins_whatever_happens() -> None:
    (job,) = workflow()["jobs"].values()
    steps = job["steps"]
    assert steps[-1]["if"] == "always()"
    assert lines(steps[-1]) == [["down", "ci-17-1", "--ignore-not-found"]]
    up = next(words for step in steps for words in lines(step) if words[0] == "up")
    assert {"--name", "--ttl", "-o"} <= set(up)
    outputs = {name for step in steps for name in re.findall(r"steps\.up\.outputs\.([\w-]+)", json.dumps(step))}
    from gpuserve.access import github, token_endpoint
    from gpuserve.records import Deployment

    one = Deployment(
        name="n", sandbox_id="i", place="p", state="started", engine="e", model="m", served_model="m",
        port=1, session="s", run_id="r",
    )  # fmt: skip
    given = github(token_endpoint("http://x", "t", "m"), one).outputs
    assert outputs
    assert outputs <= set(re.findall(r"^([\w-]+)=", given, re.MULTILINE))


def test_every_command_of_the_workflow_is_understood(shell: Shell) -> None:
    (job,) = workflow()["jobs"].values()
    calls = [words for step in job["steps"] for words in lines(step)]
    assert {words[0] for words in calls} == {"up", "query", "logs", "down"}
    group: Any = get_command(app)
    for name, *rest in calls:
        assert group.commands[name].make_context(name, list(rest)).params  # raises for what it doesn't know
    (up,) = [words for words in calls if words[0] == "up"]
    planned = shell.ok(*up, "--dry-run", "--no-check", "--json").data
    assert (planned["name"], planned["ttl_seconds"]) == ("ci-17-1", 45 * 60)
