"""A fleet of scripted engines on the real local host, behind the real gateway, and a crowd that asks it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import psutil
import pytest

from e2e.scriptedmodel import client
from e2e.usershell import Shell, eventually, make_shell
from fakes import fleetengine

SCRIPTED = ("--local", "--engine", "vllm", "--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--no-check")


@dataclass
class Fleet:
    """One fleet as its user sees it. ``asked`` is how its hand-off was printed."""

    shell: Shell
    name: str
    asked: dict[str, Any] = field(repr=False)

    @property
    def base(self) -> str:
        return str(self.asked["endpoint"])

    @property
    def key(self) -> str:
        return str(self.asked["api_key"])

    @property
    def model(self) -> str:
        return str(self.asked["served_model"])

    @property
    def home(self) -> Path:
        """Its directory on this machine."""
        return self.shell.home / "state" / "gpuserve" / "fleets" / self.name

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "fleet.json").read_text())
        return found

    @property
    def log(self) -> str:
        return (self.home / "fleet.log").read_text()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.shell.ok("fleet", "status", self.name, "--json").data
        return found

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the keeper says of each, by name, without the command's start."""
        import httpx

        record = self.record
        url = f"http://127.0.0.1:{record['injector_port']}/control/status"
        try:
            answer = httpx.post(url, headers={"Authorization": f"Bearer {record['control_key']}"}, timeout=5)
        except httpx.HTTPError:
            return {}
        return {row["name"]: row for row in answer.json()["workers"]}

    def rotation(self) -> set[str]:
        """Those that the gateway sends requests to."""
        import httpx

        try:
            answer = httpx.get(f"{self.base}/workers", headers={"Authorization": f"Bearer {self.key}"}, timeout=5)
        except httpx.HTTPError:
            return set()
        return {one["url"].rsplit("/", 1)[-1] for one in answer.json()["workers"] if one["status"] == "ready"}

    def processes(self) -> dict[str, psutil.Process]:
        """The supervisor, the keeper and the gateway."""
        boss = psutil.Process(int((self.home / "supervisor.lock").read_text()))
        found = {"supervisor": boss}
        for child in boss.children():
            found["keeper" if any("keeper" in word for word in child.cmdline()) else "gateway"] = child
        return found

    def engine(self, worker: str) -> list[psutil.Process]:
        """The processes of a worker's engine."""
        sandbox = self.workers()[worker]["sandbox_id"]
        return [one for one in psutil.process_iter() if _serves(one, sandbox)]

    def behave(self, worker: str, how: str) -> None:
        """How the worker's scripted engine is from now on."""
        Path(self.shell.env["BEHAVIOUR"], self.workers()[worker]["sandbox_id"]).write_text(how)

    def wait_for(self, count: int, *, without: str = "", within: float = 30.0) -> set[str]:
        """Returns once the gateway sends requests to ``count`` workers, none of them ``without``."""
        found: set[str] = eventually(
            lambda: found if len(found := self.rotation()) == count and without not in found else None, within=within
        )
        return found


def _serves(process: psutil.Process, sandbox: str) -> bool:
    try:
        engine = any(word in " ".join(process.cmdline()) for word in ("--port",))
        return engine and process.environ().get("DAYTONA_SANDBOX_ID") == sandbox
    except psutil.Error:
        return False


@contextmanager
def scripted_shell(directory: Path) -> Iterator[Shell]:
    """A shell on whose host the scripted engine is ``vllm``."""
    programs, images, behaviour = directory / "bin", directory / "images.toml", directory / "behaviour"
    for one in (programs, behaviour):
        one.mkdir()
    engine = Path(fleetengine.__file__).read_text(encoding="utf-8")
    (programs / "vllm").write_text(f"#!{sys.executable} -IS\n{engine}")
    (programs / "vllm").chmod(0o755)
    lines = ("[[image]]", 'pattern = "vllm/vllm-openai:*"', f"path = [{json.dumps(str(programs))}]")
    images.write_text("\n".join((*lines, f"env = {{ BEHAVIOUR = {json.dumps(str(behaviour))} }}")))
    shell = make_shell(directory / "home", directory / "weights")
    shell.home.mkdir()
    shell.env |= {
        "GPUSERVE_HOST_IMAGES": str(images),
        "GPUSERVE_HOST_GPUS": "H100:32,RTX-PRO-6000:2",
        "BEHAVIOUR": str(behaviour),
    }
    shell.ok("host", "start")
    try:
        yield shell
    finally:
        shell.end_started()
        for left in (shell.home / "state" / "gpuserve" / "fleets").glob("*"):  # a failed test's
            shell.run("fleet", "down", left.name, "--drain", "0s")
        shell.ok("host", "stop")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell whose fleets are scripted, for the module that imports this name."""
    with scripted_shell(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@contextmanager
def fleet_of(shell: Shell, name: str, *argv: str) -> Iterator[Fleet]:
    """A fleet; at its end none of it may be left."""
    try:
        fleet = Fleet(shell, name, shell.ok("fleet", "up", "--name", name, "--json", *argv).data)
        mine = list(fleet.processes().values())
        yield fleet
        mine += [one for one in fleet.processes().values() if one not in mine]
    finally:
        shell.ok("fleet", "down", name, "--drain", "0s", "--ignore-not-found")
    assert not [one for one in mine if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not (shell.home / "state" / "gpuserve" / "fleets" / name).exists()
    assert [one.name for one in client(shell).list()] == []


def kill(processes: list[psutil.Process], number: int = signal.SIGKILL) -> None:
    for one in processes:
        os.kill(one.pid, number)


# -- the crowd ---------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """How one request ended: its status, the worker that the gateway named, and the text."""

    status: int
    worker: str
    text: str
    broken: bool = False

    @property
    def good(self) -> bool:
        # An event's field, which no text can hold: quotation marks are escaped there. A real model may say the word.
        return self.status == 200 and not self.broken and '"error"' not in self.text


#: What customers were told that was no answer, word for word.
UGLY: list[str] = []


@asynccontextmanager
async def customers(fleet: Fleet) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the fleet without a limit to its connections."""
    async with aiohttp.ClientSession(
        headers={**fleet.asked["headers"], "Authorization": f"Bearer {fleet.key}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=90),
    ) as client:
        yield client


async def ask(client: aiohttp.ClientSession, fleet: Fleet, words: str = "hi", **more: Any) -> Told:
    """One question."""
    body = {"model": fleet.model, "messages": [{"role": "user", "content": words}], **more}
    try:
        url = f"{fleet.base}/v1/chat/completions"
        async with client.post(url, json=body, allow_redirects=False) as answer:
            worker = answer.headers.get("x-smg-routed-worker-id", "").rsplit("/", 1)[-1]
            pieces, broken = [], False
            try:
                async for piece in answer.content.iter_any():
                    pieces.append(piece)
            except aiohttp.ClientError:
                broken = True
            told = Told(answer.status, worker, b"".join(pieces).decode(), broken)
            if not told.good:
                UGLY.append(f"{answer.headers}{told.text}")
            return told
    except aiohttp.ClientError as error:
        return Told(0, "", repr(error), broken=True)


class Crowd:
    """Asks ``at_once`` questions all the time, until its end; ``told`` are the answers."""

    def __init__(self, fleet: Fleet, at_once: int, **more: Any) -> None:
        self._fleet, self._at_once, self._more = fleet, at_once, more
        self.told: list[Told] = []
        self._going = True

    async def __aenter__(self) -> Self:
        self._client = customers(self._fleet)
        client = await self._client.__aenter__()
        self._tasks = [asyncio.create_task(self._ask(client, number)) for number in range(self._at_once)]
        return self

    async def _ask(self, client: aiohttp.ClientSession, number: int) -> None:
        while self._going:
            self.told.append(await ask(client, self._fleet, f"{number} " * 20, **self._more))

    async def __aexit__(self, *rest: object) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)
        await self._client.__aexit__(None, None, None)

    @property
    def bad(self) -> list[Told]:
        return [one for one in self.told if not one.good]


def report(what: str, crowd: Crowd, began: float) -> None:
    """The numbers of one fault, for the closing note (``pytest -s``)."""
    seconds = time.monotonic() - began
    print(f"\n{what}: {len(crowd.told)} requests, {len(crowd.bad)} lost, {seconds:.1f} s until all was well")  # noqa: T201  # the numbers


async def shares(
    fleet: Fleet, groups: int, each: int, at_once: int, *, long: int = 300, told: list[Told] | None = None, **more: Any
) -> dict[int, Counter[str]]:
    """How often each worker answered each group of questions that begin with the same long text."""
    found: dict[int, Counter[str]] = {number: Counter() for number in range(groups)}
    gate = asyncio.Semaphore(at_once)

    async with customers(fleet) as client:

        async def one(group: int, turn: int) -> None:
            async with gate:
                answer = await ask(client, fleet, f"context {group} " * long + f"question {turn}", **more)
                assert answer.good, answer
                found[group][answer.worker] += 1
                if told is not None:
                    told.append(answer)

        await asyncio.gather(*(one(group, turn) for turn in range(each) for group in range(groups)))
    return found
