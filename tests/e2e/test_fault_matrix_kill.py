"""``up`` is killed at several of its calls, and planted secrets are looked for wherever they must not be."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from e2e.faultbench import Bench, open_bench, up_argv
from e2e.usershell import Shell, eventually, make_shell
from fakes.faultyapi import Ending, Fault

SANDBOX = "/api/sandbox/[^/]+"
SESSION = "/toolbox/[^/]+/process/session"
#: Where ``up`` hangs when it is killed: before the call has done its work, or after.
POINTS: dict[str, tuple[str, str, Ending]] = {
    "create sent": ("POST", "/api/sandbox", "silent-after"),
    "session made": ("POST", SESSION, "silent-after"),
    "engine not yet started": ("POST", f"{SESSION}/vllm/exec", "silent"),
    "engine started": ("POST", f"{SESSION}/vllm/exec", "silent-after"),
    "while it waits": ("GET", "/preview/[^/]+/health", "silent"),
}
SECRETS = {"HF_TOKEN": "hf_plantedplantedplanted0001", "ENGINE_API_KEY": "planted-engine-key-0002"}


@pytest.fixture(scope="module")
def whole_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One host and one proxy for all tests here."""
    with open_bench(tmp_path_factory.mktemp("bench")) as made:
        yield made


@pytest.fixture
def bench(whole_bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    """The bench, empty before and after."""
    for name, value in whole_bench.env.items():
        monkeypatch.setenv(name, value)
    whole_bench.capsys = capsys
    whole_bench.restart()
    yield whole_bench
    whole_bench.restart()


@pytest.fixture
def user(bench: Bench, tmp_path: Path) -> Iterator[Shell]:
    """A user's shell that knows the faulty API as Daytona."""
    shell = make_shell(tmp_path / "home", tmp_path / "weights")
    shell.home.mkdir()
    shell.env |= bench.env
    yield shell
    shell.end_started()


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed(bench: Bench, user: Shell, point: str) -> None:
    """Nobody could tidy up, yet the same command goes on with the same sandbox, and one engine runs in it."""
    method, path, ending = POINTS[point]
    bench.api.add(Fault(method, path, ending=ending))
    process = user.start(*up_argv("--name", "phoenix"))
    # The sandbox may be used before its create request is answered: then the fault doesn't hold it up.
    eventually(lambda: bench.api.struck and bench.live() == ["phoenix"])
    process.kill()
    process.communicate()
    before = [one.id for one in bench.client.list()]
    creates = bench.creates()
    bench.api.disarm()
    done = bench.up("--name", "phoenix")
    assert done.status == 0, done
    assert done.data["ready"] is True
    assert [one.id for one in bench.client.list()] == before == [done.data["id"]]
    assert bench.creates() == creates == 1
    assert bench.starts() == 1
    assert bench.run("down", "phoenix", "--json").data[0]["deleted"] is True
    assert bench.live() == []


def test_killed_before_anything_exists(bench: Bench, user: Shell) -> None:
    bench.api.add(Fault("POST", "/api/sandbox", ending="silent"))
    process = user.start(*up_argv("--name", "never"))
    eventually(lambda: bench.api.struck)
    process.kill()
    process.communicate()
    assert bench.live() == []
    assert bench.run("down", "never", "--ignore-not-found").status == 0


def command_lines() -> str:
    """Every command line on this machine that can be read."""
    found = []
    for process in psutil.process_iter():
        try:
            found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return "\n".join(found)


def spilled(folder: Path, secrets: dict[str, str]) -> list[str]:
    """The secrets found in files below ``folder`` other than the 0600 cache."""
    found = []
    for file in folder.rglob("*"):
        if not file.is_file() or (file.name == "deployments.json" and file.stat().st_mode & 0o777 == 0o600):
            continue
        content = file.read_bytes()
        found += [f"{name} in {file.name}" for name, secret in secrets.items() if secret.encode() in content]
    return found


def in_text(text: str, secrets: dict[str, str]) -> list[str]:
    """The names of the secrets that ``text`` holds."""
    return [name for name, secret in secrets.items() if secret in text]


def test_no_secret_is_spilled_in_a_run_full_of_faults(
    bench: Bench, user: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine itself prints its key and the token; faults make every part of gpuserve speak."""
    user.env |= SECRETS
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    secrets = {**SECRETS, "API key": bench.info.key}
    bench.api.add(
        Fault("GET", SANDBOX, status=503, times=2, skip=2),
        Fault("GET", f"{SESSION}/vllm/command/[^/]+/logs", ending="reset", times=2),
        Fault("GET", "/preview/[^/]+/health", status=502, times=8),
    )
    process = user.start(*up_argv("--name", "hush", "--env", "ENGINE_API_KEY", "--debug", "-v"))
    eventually(lambda: bench.starts() == 1)
    argv = command_lines()
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    handed = json.loads(out.splitlines()[-1])["data"]
    said = [err, *(line for line in out.splitlines()[:-1])]
    link = bench.run("share", "hush", "--json").data["url"]
    secrets |= {"preview token": handed["token"], "signed URL": link.rsplit("-", 1)[1]}
    for command in (
        ("status", "--json"),
        ("logs", "hush"),
        ("status", "hush"),
        ("share", "hush", "--revoke", "--json"),
    ):
        done = bench.run(*command, "--debug")
        assert done.status == 0, done
        said += [done.out, done.err]
    bench.api.add(Fault("", "/(api/sandbox|toolbox).*", status=401))
    for words in ("status", "logs hush", "share hush", "down hush"):
        refused = bench.run(*words.split(), "--debug", "--json")
        assert refused.status == 3, refused
        said += [refused.out, refused.err]
    bench.api.disarm()
    assert in_text("\n".join(said), secrets) == []
    assert in_text(argv + command_lines(), secrets) == []
    assert in_text(json.dumps([one.labels for one in bench.client.list()]), secrets) == []
    assert spilled(tmp_path, secrets) == []
    assert list(user.home.rglob("hush.log")), "the engine's log was saved, and searched"
    assert bench.run("down", "hush").status == 0


def test_the_search_for_secrets_finds_one(tmp_path: Path) -> None:
    (tmp_path / "leak").write_text("x planted-engine-key-0002 y")
    (tmp_path / "deployments.json").write_text("planted-engine-key-0002")
    (tmp_path / "deployments.json").chmod(0o644)
    assert len(spilled(tmp_path, SECRETS)) == 2
    (tmp_path / "deployments.json").chmod(0o600)
    assert spilled(tmp_path, SECRETS) == ["ENGINE_API_KEY in leak"]
    process = subprocess.Popen(["sleep", "30"])
    try:
        assert "sleep 30" in command_lines()
    finally:
        process.kill()
        process.wait()
