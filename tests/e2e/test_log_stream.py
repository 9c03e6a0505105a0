"""An engine's log and life through the real SDK, with a proxy in between that spoils the log's stream."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from daytona import AsyncDaytona, CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig

from e2e.usershell import eventually
from fakes.proxy import LogProxy, Spoil
from gpuserve.host.daemon import HostInfo
from gpuserve.redaction import Redactor
from gpuserve.sandboxes.session import EngineSession
from gpuserve.serving.enginelog import LogFile, Tail

# The SDK leaves a connection that is given up to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

#: Writes a numbered log of some 20 KiB at a varying pace: long lines, bars, bytes that are no UTF-8; and a copy of it.
ENGINE = r"""
import os, sys, time
copy = open(sys.argv[1], "wb")
pause = float(sys.argv[2])
def write(data):
    copy.write(data); copy.flush()
    sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
for number in range(100):
    odd = {0: b"x" * 900, 1: b"\r 10%\r 20%", 2: b"\xff\xfe \xe2\x82 \xc3", 3: "ü€𝄞".encode() * 9}
    text = b"%04d " % number + odd.get(number % 7, b"loading " * (number % 40)) + b"\n"
    write(text[: len(text) // 2]); write(text[len(text) // 2 :])
    time.sleep(pause * (number % 3))
    while number == 50 and len(sys.argv) > 3 and not os.path.exists(sys.argv[3]):
        time.sleep(0.01)
copy.close()
sys.exit(3)
"""


@pytest.fixture
def proxy(host: HostInfo) -> Iterator[LogProxy]:
    with LogProxy(host.url) as made:
        yield made


@pytest.fixture(scope="module")
def shared_sandbox(shared_client: Daytona) -> Iterator[str]:
    """One plain sandbox for this module; each test has a session of its own in it."""
    made = shared_client.create(CreateSandboxFromSnapshotParams(ephemeral=True), timeout=30)
    yield made.id
    made.delete(timeout=30, wait=True)
    gc.collect()  # while the mark above still holds


_names = iter(range(1_000_000))


def session(proxy: LogProxy, host: HostInfo, sandbox_id: str) -> EngineSession:
    """A session that is reached through the proxy."""
    config = DaytonaConfig(api_key=host.key, api_url=proxy.url, target="us-east-1")
    return EngineSession(Daytona(config).get(sandbox_id), f"e{next(_names)}", connect=lambda: AsyncDaytona(config))


def engine_command(tmp_path: Path, pause: float = 0.0) -> tuple[str, Path]:
    script, copy = tmp_path / "engine.py", tmp_path / "truth"
    script.write_text(ENGINE, encoding="utf-8")
    return f"{sys.executable} -IS {script} {copy} {pause}", copy


@pytest.mark.parametrize(
    "cut", [pytest.param(at, marks=[] if at % 4096 == 0 else [pytest.mark.slow]) for at in range(0, 21 * 1024, 1024)]
)
def test_a_stream_cut_anywhere(proxy: LogProxy, host: HostInfo, shared_sandbox: str, tmp_path: Path, cut: int) -> None:
    proxy.spoil = [Spoil(cut=cut), Spoil(cut=cut // 2)]
    one, (command, copy) = session(proxy, host, shared_sandbox), engine_command(tmp_path, 0.004)
    saved, gate = tmp_path / "saved.log", tmp_path / "gate"
    one.launch(f"{command} {gate}")
    with Tail(one, LogFile(saved, Redactor())) as tail:
        eventually(lambda: proxy.counts.streams >= 1)
        gate.touch()  # in the middle of the log
        assert tail.ended.wait(60), "the end was not noticed"
        tail.finish()
    assert tail.exit_code == 3
    assert "".join(tail.drain()) == "".join(tail.whole)
    assert saved.read_bytes() == copy.read_bytes().decode("utf-8", "replace").encode()


@pytest.mark.parametrize(
    "always",
    [
        Spoil(cut=0),
        Spoil(cut=0, polite=True),
        Spoil(cut=5000),
        Spoil(cut=5000, polite=True),
        Spoil(cut=5000, stall=True),
        Spoil(twice=True),
        Spoil(status=502),
        Spoil(delay=0.05),
    ],
    ids=str,
)
def test_every_stream_is_spoilt(
    proxy: LogProxy, host: HostInfo, shared_sandbox: str, tmp_path: Path, always: Spoil
) -> None:
    proxy.always = always
    one = session(proxy, host, shared_sandbox)
    command, copy = engine_command(tmp_path, 0.03)
    saved, gate = tmp_path / "saved.log", tmp_path / "gate"
    one.launch(f"{command} {gate}")
    cut_short = always.cut is not None and not always.stall
    with Tail(one, LogFile(saved, Redactor())) as tail:
        eventually(lambda: proxy.counts.streams >= (2 if cut_short else 1))
        gate.touch()
        assert tail.ended.wait(60)
        tail.finish()
    truth = copy.read_bytes().decode("utf-8", "replace")
    assert tail.exit_code == 3
    assert saved.read_bytes() == truth.encode()
    if not always.twice:  # what was shown already can't be taken back; only the copy can
        assert "".join(tail.drain()) == truth


def test_a_whole_stream_costs_little_more_than_the_log(
    proxy: LogProxy, host: HostInfo, shared_sandbox: str, tmp_path: Path
) -> None:
    """As at readiness: the engine goes on, and nobody listens any more."""
    one = session(proxy, host, shared_sandbox)
    command, copy = engine_command(tmp_path, 0.02)
    one.launch(f"{command}; sleep 300")
    saved = tmp_path / "saved.log"
    with Tail(one, LogFile(saved, Redactor())) as tail:
        eventually(lambda: b"0099 " in saved.read_bytes())
        tail.finish()
    assert saved.read_bytes() == copy.read_bytes().decode("utf-8", "replace").encode()
    assert proxy.counts.snapshots == 0
    assert proxy.fetched <= 1.2 * copy.stat().st_size
    assert not tail.ended.is_set()


@contextmanager
def tailed(one: EngineSession, saved: Path) -> Iterator[Tail]:
    with Tail(one, LogFile(saved, Redactor())) as tail:
        yield tail
        tail.finish()


def shell_of(marker: str) -> tuple[psutil.Process, psutil.Process]:
    """The engine whose command line holds ``marker``, and the shell that started it."""
    for process in psutil.process_iter():
        try:
            if marker in process.cmdline() and "DAYTONA_SANDBOX_ID" in process.environ():
                parent = process.parent()
                assert parent is not None
                return process, parent
        except (psutil.Error, OSError):
            continue
    raise AssertionError("no such process")


SLEEPER = "{python} -ISc 'import sys, time; print(\"up\", flush=True); time.sleep(300)' {marker}"


def sleeper(tmp_path: Path) -> tuple[str, str]:
    marker = f"engine-of-{tmp_path.name}-{os.getpid()}"
    return SLEEPER.format(python=sys.executable, marker=marker), marker


def test_an_engine_that_took_its_shells_place_is_killed(
    proxy: LogProxy, host: HostInfo, shared_sandbox: str, tmp_path: Path
) -> None:
    one = session(proxy, host, shared_sandbox)
    command, marker = sleeper(tmp_path)
    one.launch(f"exec {command}")
    with tailed(one, tmp_path / "saved") as tail:
        eventually(lambda: "up\n" in "".join(tail.whole))
        assert not tail.ended.wait(2.0)  # silent, and alive
        shell_of(marker)[0].send_signal(signal.SIGKILL)
        assert tail.ended.wait(20)
    assert tail.exit_code is None
    assert tail.error is None
    assert (tmp_path / "saved").read_text() == "up\n"


def test_a_killed_shell_is_no_dead_engine(proxy: LogProxy, host: HostInfo, shared_sandbox: str, tmp_path: Path) -> None:
    one = session(proxy, host, shared_sandbox)
    command, marker = sleeper(tmp_path)
    one.launch(command)
    with tailed(one, tmp_path / "saved") as tail:
        eventually(lambda: "up\n" in "".join(tail.whole))
        engine, shell = shell_of(marker)
        shell.kill()
        assert not tail.ended.wait(3.0)
        assert engine.is_running()
        engine.kill()
        assert tail.ended.wait(20)
    assert tail.exit_code is None


def test_a_live_engine_that_leaves_no_note_is_never_taken_for_dead(
    proxy: LogProxy, host: HostInfo, shared_sandbox: str, tmp_path: Path
) -> None:
    one = session(proxy, host, shared_sandbox)
    command, marker = sleeper(tmp_path)
    one.launch(f'rm "$HOME"/.{one._name}.stat; {command}')
    with tailed(one, tmp_path / "saved") as tail:
        eventually(lambda: "up\n" in "".join(tail.whole))
        assert one.alive() is None
        assert not tail.ended.wait(2.0)
        shell_of(marker)[0].kill()
        assert tail.ended.wait(20)
    assert tail.exit_code == 137


def test_nothing_of_a_closed_stream_is_left(
    proxy: LogProxy, host: HostInfo, shared_sandbox: str, tmp_path: Path
) -> None:
    one = session(proxy, host, shared_sandbox)
    command, _ = sleeper(tmp_path)
    one.launch(command)
    with tailed(one, tmp_path / "saved") as tail:
        eventually(lambda: "up\n" in "".join(tail.whole))
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("gpuserve-log")])
