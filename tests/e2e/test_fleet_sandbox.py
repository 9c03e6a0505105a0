"""A fleet whose gateway runs in a sandbox: it answers when the machine that brought it up is gone, and tells nobody
what it holds.

The platform, the engines and the gateway are real. The user's shell ends as a closed laptop does, its whole process
group at once; from then on another home with the same account's key looks after the fleet.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from e2e.fleetbench import Crowd, Fleet
from e2e.fleetclients import Clients
from e2e.scriptedmodel import client
from e2e.test_ci_contract import conforms
from e2e.usershell import PROGRAM, QUICK, Shell, eventually, make_shell

if TYPE_CHECKING:
    from daytona import Sandbox

PLANTED = "hf_plantedPlantedPlantedPlanted"
UP = ("fleet", "up", *QUICK, "--name", "away", "--replicas", "2", "--gateway", "sandbox", "--json")


@dataclass
class Away:
    """The fleet, the shell on whose machine the platform runs, and the home of a colleague."""

    fleet: Fleet
    platform: Shell
    colleague: Shell
    account: str

    def chat(self, key: str = "", **more: Any) -> httpx.Response:
        asked = self.fleet.asked
        messages = [{"role": "user", "content": "Say hello."}]
        body = {"model": self.fleet.model, "messages": messages, "max_tokens": 8, "temperature": 0, **more}
        headers = {**asked["headers"], "Authorization": f"Bearer {key or self.fleet.key}"}
        return httpx.post(f"{asked['base_url']}/chat/completions", json=body, headers=headers, timeout=60)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.colleague.ok("fleet", "status", "away", "--json").data
        return found

    @property
    def gate(self) -> Sandbox:
        return client(self.platform).get("away")

    @property
    def home(self) -> Path:
        """The gateway's home, as its sandbox sees it."""
        return Path(self.gate.process.exec('sh -c "cd && pwd -P"').result.strip())

    def inside(self) -> list[psutil.Process]:
        """The processes of the gateway's sandbox."""
        found, gate = [], self.gate.id
        for one in psutil.process_iter():
            try:
                if "gpuserve-gateway.pyz" in one.cmdline() and one.environ()["DAYTONA_SANDBOX_ID"] == gate:
                    found += [one, *one.children(recursive=True)]
            except psutil.Error:
                continue
        return list({one.pid: one for one in found}.values())

    def smg(self) -> psutil.Process:
        """smg's process in the gateway's sandbox."""
        inside = self.inside()
        here = {one.pid for one in inside}
        (found,) = [one for one in inside if one.ppid() in here and "injector" not in one.cmdline()]
        return found


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    platform = make_shell(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("weights"))
    platform.ok("host", "start")
    info = platform.ok("host", "status", "--show-key", "--json").data
    colleague = make_shell(tmp_path_factory.mktemp("colleague"), platform.home)
    colleague.env |= {"DAYTONA_API_URL": info["api_url"], "DAYTONA_API_KEY": info["api_key"]}
    try:
        asked = bring_up_and_leave(platform)
        yield Away(Fleet(platform, "away", asked), platform, colleague, info["api_key"])
        went = colleague.ok("fleet", "down", "away", "--drain", "0s", "--json").data["went"]
        assert [one["name"] for one in went][-1] == "away"  # the gateway last
        assert all(one["deleted"] for one in went)
        assert colleague.live() == []
        assert platform.processes() == []
    finally:
        platform.ok("host", "stop")  # with all that a failed test left


def bring_up_and_leave(shell: Shell) -> dict[str, Any]:
    """The hand-off, printed by a shell that is then killed with all that it started."""
    out = shell.home / "out"
    script = f'{PROGRAM} {" ".join(UP)} >"{out}" 2>&1; sleep 600'
    laptop = subprocess.Popen(
        ["sh", "-c", script], env={**shell.env, "HF_TOKEN": PLANTED}, cwd=shell.home, start_new_session=True
    )
    try:
        found: dict[str, Any] = eventually(lambda: _handed_off(out, laptop), within=180)
    finally:
        os.killpg(laptop.pid, signal.SIGKILL)
        laptop.wait()
    return found


def _handed_off(out: Path, laptop: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    lines = out.read_text().splitlines() if out.exists() else []
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert laptop.poll() is None, lines
    assert not [one for one in told if "error" in one], lines
    return next((one["data"] for one in told if "data" in one), None)


def test_it_answers_when_the_shell_that_brought_it_up_is_gone(away: Away) -> None:
    conforms("fleet up", away.fleet.asked)
    fleets = away.platform.home / "state" / "gpuserve" / "fleets"
    assert not fleets.exists() or list(fleets.iterdir()) == []  # nothing of it lives on this machine
    answer = away.chat()
    assert answer.status_code == 200, answer.text
    whole = answer.json()["choices"][0]["message"]["content"]
    events = [line.removeprefix("data: ") for line in away.chat(stream=True).text.splitlines() if line]
    assert events[-1] == "[DONE]"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == whole
    for key in ("wrong", "EMPTY"):
        assert away.chat(key=key).status_code == 401
    unarmed = httpx.post(f"{away.fleet.base}/v1/chat/completions", json={}, headers={"Authorization": "Bearer wrong"})
    assert unarmed.status_code in (307, 401)


def test_no_credential_of_a_worker_is_where_others_look(away: Away) -> None:
    sdk, gate = client(away.platform), away.gate
    workers = [sdk.get(name) for name in away.fleet.asked["workers"]]
    account = away.account
    planted = [*(one.get_preview_link(1).token for one in workers), PLANTED]
    assert len(set(planted)) == 3
    session = gate.process.get_session("gateway")
    (command,) = session.commands
    logs = gate.process.get_session_command_logs("gateway", command.id)
    told = [json.dumps(gate.labels), json.dumps(gate.env), command.command, logs.output or "", gate.build_info or ""]
    processes = away.inside()
    assert len(processes) == 3
    told += [f"{one.cmdline()}{one.environ()}" for one in processes]
    key = {**away.fleet.asked["headers"], "Authorization": f"Bearer {away.fleet.key}"}
    asked = [httpx.get(f"{away.fleet.base}{path}", headers=key) for path in ("/workers", "/v1/models", "/health")]
    asked += [away.chat(), away.chat(model="no-such"), away.chat(messages="nonsense")]
    told += [f"{one.headers}{one.text}" for one in asked]
    told += [httpx.get(f"http://127.0.0.2:{port}/metrics").text for port in _inner(processes, "smg")]
    home = away.home
    told += [(home / ".gpuserve-gateway" / name).read_text() for name in ("workers.json", "status.json", "order.json")]
    assert not [text for text in told for one in (*planted, account, away.fleet.key) if one in str(text)]
    # Where they are, they are for its owner only; the account's key and the Hub's token are nowhere.
    files = {one: one.read_text(errors="replace") for one in home.rglob("*") if one.is_file()}
    assert {one.name for one, text in files.items() if planted[0] in text} == {"roster.json"}
    assert {one.name for one, text in files.items() if away.fleet.key in text} == {".gpuserve-key"}
    assert not [one for one, text in files.items() if account in text or PLANTED in text]
    private = [home / ".gpuserve-key", home / ".gpuserve-gateway" / "roster.json"]
    assert {one.stat().st_mode & 0o777 for one in private} == {0o600}
    assert (home / ".gpuserve-gateway").stat().st_mode & 0o777 == 0o700


def _inner(processes: list[psutil.Process], name: str) -> set[int]:
    """The ports that a process of the gateway listens on beside the one for clients."""
    found = [one for each in processes if any(name in word for word in each.cmdline()[:1]) for one in _listening(each)]
    return {one.port for one in found if one.ip == "127.0.0.2"}


def _listening(process: psutil.Process) -> list[Any]:
    return [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]


def test_a_preview_reaches_nothing_but_the_gateways_port(away: Away) -> None:
    ports = {one.port: one.ip for each in away.inside() for one in _listening(each)}
    (outer,) = [port for port, ip in ports.items() if ip == "127.0.0.1"]
    assert len(ports) == 4
    for port in ports:
        link = away.gate.get_preview_link(port)
        status = httpx.get(f"{link.url}/health", headers={"x-daytona-preview-token": link.token}).status_code
        assert status == (200 if port == outer else 502)


def test_a_colleague_sees_it_from_another_home(away: Away) -> None:
    state = away.status()
    conforms("fleet status", state)
    assert (state["gateway"], state["gateway_place"], state["in_rotation"]) == ("runs", "sandbox", 2)
    conforms("fleet status gateway", state["gateway_sandbox"])
    assert state["gateway_sandbox"]["health"] == "ready"


@pytest.mark.slow
def test_commands_that_mean_one_deployment_mean_the_gateway(away: Away) -> None:
    assert away.colleague.ok("query", "hi", "--max-tokens", "2").out.strip()  # all that lives is this fleet
    asked = ("query", "hi", "--id", "away", "--temperature", "0", "--max-tokens", "16", "--schema", '{"enum": [1, 2]}')
    assert away.colleague.ok(*asked).out.strip() in ("1", "2")


@pytest.mark.slow
def test_one_more_and_one_less_under_load_and_nothing_is_lost(away: Away) -> None:
    before = {one["name"] for one in away.status()["workers"]}

    async def story() -> None:
        async with asyncio.timeout(300):
            async with (
                Crowd(away.fleet, 3, max_tokens=4) as whole,
                Crowd(away.fleet, 2, max_tokens=8, stream=True) as streamed,
            ):
                data = (await asyncio.to_thread(away.colleague.ok, "fleet", "scale", "away", "3", "--json")).data
                (came,) = data["came"]
                assert {one["name"] for one in away.status()["workers"] if one["in_rotation"]} == before | {came}
                gone = min(before)
                data = (await asyncio.to_thread(away.colleague.ok, "fleet", "remove", "away", gone, "--json")).data
                assert ([one["name"] for one in data["went"]], data["cut"]) == ([gone], 0)
            print(f"\n{len(whole.told)} whole, {len(streamed.told)} streamed")  # noqa: T201  # the numbers
            assert whole.bad == []
            assert streamed.bad == []

    asyncio.run(story())
    # What a new worker is asked for came from another, not from a file: the Hub's token was in none.
    sdk = client(away.platform)
    assert all((sdk.get(one["name"]).env or {}).get("HF_TOKEN") == PLANTED for one in away.status()["workers"])


@pytest.mark.slow
def test_a_gateway_that_ended_is_started_with_its_key(away: Away) -> None:
    processes = away.inside()
    for one in processes:
        one.kill()
    eventually(lambda: away.status()["gateway"] == "stopped", within=60)
    data = away.colleague.ok("fleet", "start", "away", "--json").data
    conforms("fleet start", data)
    assert data["api_key"] == away.fleet.key
    eventually(lambda: away.chat().status_code == 200)


@pytest.mark.slow
def test_whoever_asks_again_as_usual_loses_nothing_when_smg_is_killed(away: Away) -> None:
    """Through the platform's preview proxy, which answers 502 for what was in smg's hands: that is asked again."""
    told = away.home / ".gpuserve-gateway" / "status.json"

    def workers() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(told.read_text())["workers"]
        return found

    async def story() -> None:
        asked = {"max_tokens": 12, "temperature": 0}
        async with asyncio.timeout(240), Clients(away.fleet, whole=3, streams=3, asked=asked) as crowd:
            for _ in range(2):
                await crowd.more(6)
                smg = await asyncio.to_thread(away.smg)
                await asyncio.to_thread(eventually, lambda: sum(one["in_flight"] for one in workers()) > 1, every=0.01)
                smg.kill()
                await asyncio.to_thread(eventually, lambda: not smg.is_running(), every=0.01)  # noqa: B023
                await asyncio.to_thread(eventually, lambda: {one["gateway"] for one in workers()} == {"ready"})
            await crowd.more(6)
        print(f"\nsmg killed twice in a sandbox: {crowd.toll}")  # noqa: T201  # the numbers
        assert (crowd.toll.lost, crowd.toll.short) == ([], [])

    asyncio.run(story())


@pytest.mark.slow
def test_it_is_shared_as_any_port_is(away: Away) -> None:
    signed = away.colleague.ok("share", "away").out.strip()
    body = {"model": away.fleet.model, "prompt": "x", "max_tokens": 1}
    for key, status in ((away.fleet.key, 200), ("wrong", 401)):
        answer = httpx.post(
            f"{signed}/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )
        assert answer.status_code == status
    data = away.colleague.ok("share", "away", "--public", "on", "--json").data
    assert (data["access"], data["api_key"]) == ("key", away.fleet.key)
    headers = {"Authorization": f"Bearer {data['api_key']}"}
    assert httpx.post(f"{data['base_url']}/completions", json=body, headers=headers, timeout=60).status_code == 200
    assert httpx.post(f"{data['base_url']}/completions", json=body, timeout=60).status_code == 401
    away.colleague.ok("share", "away", "--public", "off")


@pytest.mark.slow
def test_a_worker_whose_credential_went_bad_is_told_of_and_refreshed(away: Away) -> None:
    roster = away.home / ".gpuserve-gateway" / "roster.json"
    worker = min(one["name"] for one in away.status()["workers"])
    token = client(away.platform).get(worker).get_preview_link(1).token
    draft = roster.with_suffix(".draft")
    draft.write_text(roster.read_text().replace(token, "x" * len(token)))
    draft.replace(roster)
    eventually(
        lambda: [one["worker_state"] for one in away.status()["workers"] if one["name"] == worker] == ["refused"]
    )
    assert away.chat().status_code == 200
    away.colleague.ok("fleet", "start", "away")
    eventually(lambda: away.status()["in_rotation"] == 2)


@pytest.mark.slow
def test_workers_are_rolled(away: Away) -> None:
    before = {one["name"] for one in away.status()["workers"]}
    rolled = ("fleet", "roll", "away", "--json", "--local", "--", "--threads", "1", "--ctx-size", "1024")
    data = away.platform.ok(*rolled).data
    assert {one["name"] for one in data["went"]} == before
    assert {one["name"] for one in away.status()["workers"] if one["in_rotation"]} == set(data["came"])
    assert "1024" in (away.home / ".gpuserve-gateway" / "order.json").read_text()
    assert away.chat().status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "code"), [("build-failed", "boot_failed"), ("dead-proxy", "timed_out")])
def test_a_gateway_that_cannot_be_had_leaves_nothing(away: Away, fault: str, code: str) -> None:
    before = {row["name"] for row in away.platform.live()}
    up = ("fleet", "up", *QUICK, "--name", "g", "--replicas", "1", "--gateway", "sandbox", "--json")
    done = away.platform.run(*up, "--label", f"host/fault={fault}")
    assert done.error["code"] == code, done
    assert {row["name"] for row in away.platform.live()} == before
