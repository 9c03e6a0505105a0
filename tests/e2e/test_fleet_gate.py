"""The program of a gateway's sandbox, packed and run on its own: what its file says, it does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from e2e.usershell import eventually
from fakes import fleetengine
from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.fleet.away.pack import program
from gpuserve.serving.fleet.away.roster import PROGRAM, ROSTER, STATUS, Entry, Roster
from gpuserve.serving.fleet.files import write_private

KEY = "sk-planted-key-of-the-gateway"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Gate:
    """The running program, and the scripted engines behind it."""

    folder: Path
    port: int
    engines: dict[str, str]
    process: subprocess.Popen[bytes]

    def tell(self, stamp: str, *entries: Entry) -> dict[str, Any]:
        """Writes the file; what the gate says once it goes by it."""
        write_private(self.folder / ROSTER, Roster(stamp, entries).as_text())
        return self.said(lambda told: told["stamp"] == stamp)

    def said(self, check: Any) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            try:
                told: dict[str, Any] = json.loads((self.folder / STATUS).read_text())
            except FileNotFoundError:
                return None
            return told if check(told) else None

        found: dict[str, Any] = eventually(look)
        return found

    def ready(self, *names: str) -> dict[str, Any]:
        """Waits until smg sends requests to just these."""
        return self.said(lambda told: {one["name"] for one in told["workers"] if one["gateway"] == "ready"} == {*names})

    def child(self, role: str) -> psutil.Process:
        """One of the two that the program keeps alive: ``injector`` or ``smg``."""
        children = psutil.Process(self.process.pid).children()
        (found,) = [one for one in children if (role == "injector") == ("injector" in one.cmdline())]
        return found

    def ask(self, key: str = KEY, **more: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=BODY | more, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def entry(self, name: str, *, token: str = "", draining: bool = False) -> Entry:
        deployment = Deployment(
            name=name, sandbox_id=f"id-{name}", place="x", state="started", engine="vllm", model="m", served_model="m",
            port=1, session="s", run_id="r",
        )  # fmt: skip
        headers = {"x-daytona-preview-token": token or f"planted-token-of-{name}"}
        return Entry(
            deployment, Endpoint(url=self.engines[name], served_model="m", headers=headers, api_key="k-ey"), draining
        )


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    home = tmp_path_factory.mktemp("gate")
    ports, folder = [free_port() for _ in range(2)], home / ".gpuserve-gateway"
    folder.mkdir(mode=0o700)
    (folder / PROGRAM).write_bytes(program())
    (home / ".gpuserve-key").write_text(KEY)
    engines = [
        subprocess.Popen(
            [sys.executable, "-IS", fleetengine.__file__, "--served-model-name", "m", "--port", str(port)],
            env={"DAYTONA_SANDBOX_ID": f"id-{name}", "BEHAVIOUR": str(home)},
        )
        for name, port in zip(("a", "b"), ports, strict=True)
    ]
    port = free_port()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-I", PROGRAM, "--port", str(port)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    urls = {name: f"http://127.0.0.1:{one}" for name, one in zip(("a", "b"), ports, strict=True)}
    try:
        yield Gate(folder, port, urls, process)
    finally:
        children = psutil.Process(process.pid).children()
        process.terminate()
        process.wait(20)
        for engine in engines:
            engine.kill()
            engine.wait()
        assert not [one for one in children if one.is_running()]


def test_what_is_packed_is_all_it_needs(gate: Gate) -> None:
    with zipfile.ZipFile(gate.folder / PROGRAM) as archive:
        names = set(archive.namelist())
    assert "gpuserve/proxy/relay.py" in names
    assert not {"gpuserve/settings.py", "gpuserve/state.py", "gpuserve/sandboxes/manager.py"} & names
    eventually(lambda: _status(f"http://127.0.0.1:{gate.port}/health") == 200)


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.HTTPError:
        return 0


def test_workers_come_and_go_by_the_file(gate: Gate) -> None:
    gate.tell("one", gate.entry("a"))
    gate.ready("a")
    assert gate.ask().json()["choices"][0]["message"]["content"] == "id-a"
    assert gate.ask(key="wrong").status_code == 401
    gate.tell("two", gate.entry("a"), gate.entry("b"))
    gate.ready("a", "b")
    told = gate.tell("three", gate.entry("a", draining=True), gate.entry("b"))
    assert [one["state"] for one in told["workers"]] == ["draining", "ready"]
    gate.ready("b")
    assert {gate.ask().json()["choices"][0]["message"]["content"] for _ in range(4)} == {"id-b"}
    assert [one["name"] for one in gate.tell("four", gate.entry("b"))["workers"]] == ["b"]
    told = gate.tell("five", gate.entry("b", token="planted-another-token"))
    assert told["workers"][0]["in_rotation"]
    assert gate.ask().status_code == 200
    asked = [json.loads(line) for line in (gate.folder.parent / "asked").read_text().splitlines()]
    assert [one["headers"]["x-daytona-preview-token"] for one in asked][-2:] == [
        "planted-token-of-b",
        "planted-another-token",
    ]
    assert {one["headers"]["Authorization"] for one in asked} == {"Bearer k-ey"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "stamp": "x", "workers": [{}]}'])
def test_a_file_that_is_no_good_changes_nothing(gate: Gate, text: str) -> None:
    gate.tell("good", gate.entry("b"))
    gate.ready("b")
    log, words = gate.folder.parent / "log", "can't be read, the last one stays"
    before = log.read_text().count(words)
    write_private(gate.folder / ROSTER, text)
    eventually(lambda: log.read_text().count(words) > before)
    assert gate.ask().status_code == 200


def test_a_gateway_that_is_told_to_end_ends_what_it_has_begun(gate: Gate) -> None:
    gate.tell("end", gate.entry("b"))
    gate.ready("b")
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(gate.ask, delay=1.5)
        streamed = pool.submit(gate.ask, stream=True, pieces=15, pause=0.1)
        gate.said(lambda told: sum(one["in_flight"] for one in told["workers"]) == 2)
        smg = gate.child("smg")
        smg.terminate()
    assert whole.result().json()["choices"][0]["message"]["content"] == "id-b"
    lines = [line for line in streamed.result().text.splitlines() if line]
    assert (lines[-1], sum("content" in line for line in lines)) == ("data: [DONE]", 15)
    eventually(lambda: not smg.is_running(), every=0.05)
    assert gate.ask().status_code == 200  # it is started again


@pytest.mark.slow
@pytest.mark.parametrize("child", ["injector", "smg"])
def test_a_child_that_is_killed_is_back_with_all_its_workers(gate: Gate, child: str) -> None:
    gate.tell(child, gate.entry("a"), gate.entry("b"))
    gate.ready("a", "b")
    victim = gate.child(child)
    victim.kill()
    eventually(lambda: not victim.is_running())
    assert gate.ask().status_code == 200  # what comes meanwhile waits
    gate.ready("a", "b")


def test_nothing_secret_is_where_others_look(gate: Gate) -> None:
    gate.tell("last", gate.entry("a"), gate.entry("b"))
    gate.ready("a", "b")
    bad = gate.ask(model="no-such"), gate.ask(messages="nonsense")
    listed = httpx.get(f"http://127.0.0.1:{gate.port}/workers", headers={"Authorization": f"Bearer {KEY}"})
    told = [f"{one.headers}{one.text}" for one in (*bad, listed)]
    told += [(gate.folder / name).read_text() for name in (STATUS, "workers.json")] + [
        (gate.folder.parent / "log").read_text()
    ]
    processes = [psutil.Process(gate.process.pid), *psutil.Process(gate.process.pid).children()]
    assert len(processes) == 3
    told += [f"{one.cmdline()}{one.environ()}" for one in processes]
    assert not [text for text in told if "planted" in text]
    assert {oct(one.stat().st_mode & 0o777) for one in gate.folder.iterdir() if one.name != PROGRAM} == {"0o600"}


def test_only_the_gateways_own_port_is_on_the_address_that_previews_lead_to(gate: Gate) -> None:
    listening = [
        one.laddr
        for each in (psutil.Process(gate.process.pid), *psutil.Process(gate.process.pid).children())
        for one in each.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    ]
    outer = {one.port for one in listening if one.ip == "127.0.0.1"}
    assert outer == {gate.port}
    assert {one.ip for one in listening} == {"127.0.0.1", "127.0.0.2"}
