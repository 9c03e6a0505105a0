"""How often the preview looks at the process table: once for all requests that come together."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gpuserve.host import ports
from gpuserve.host.ports import Ports


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each look at the machine's connections, which stays as it is."""
    found: list[str] = []
    real = psutil.net_connections

    def counted(kind: str) -> object:
        found.append(kind)
        return real(kind)

    monkeypatch.setattr(psutil, "net_connections", counted)
    return found


def owner(monkeypatch: pytest.MonkeyPatch, *pids: int) -> None:
    """The sandbox's processes are these."""
    monkeypatch.setattr(ports, "members", lambda *_: dict.fromkeys(pids))


def together(asked: Ports, port: int, *names: str) -> list[bool]:
    """The answers to requests that come at the same moment, one for each sandbox named."""

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(asked.allowed(name, Path(), port) for name in names))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("good", [True, False])
def test_requests_that_come_together_look_once(
    monkeypatch: pytest.MonkeyPatch, port: int, looks: list[str], good: bool
) -> None:
    owner(monkeypatch, *((os.getpid(),) if good else ()))
    asked = Ports()
    assert together(asked, port, *["one"] * 200) == [good] * 200
    assert len(looks) == 1
    assert together(asked, port, *["one"] * 10) == [good] * 10
    assert len(looks) == (1 if good else 2)


def test_one_that_goes_away_takes_no_answer_from_the_others(
    monkeypatch: pytest.MonkeyPatch, port: int, looks: list[str]
) -> None:
    owner(monkeypatch, os.getpid())

    async def two() -> tuple[bool, bool]:
        asked = Ports()
        first, second = (asyncio.create_task(asked.allowed("one", Path(), port)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        return await second, first.cancelled()

    assert asyncio.run(two()) == (True, True)
    assert len(looks) == 1


def test_each_sandbox_is_looked_at_by_itself(monkeypatch: pytest.MonkeyPatch, port: int, looks: list[str]) -> None:
    monkeypatch.setattr(ports, "members", lambda name, _: {os.getpid(): None} if name == "one" else {})
    assert together(Ports(), port, "one", "two") == [True, False]
    assert len(looks) == 2


def test_a_failed_look_is_not_kept(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no table")

    asked = Ports()
    monkeypatch.setattr(ports, "members", broken)
    with pytest.raises(RuntimeError, match="no table"):
        together(asked, port, "one")
    owner(monkeypatch, os.getpid())
    assert together(asked, port, "one") == [True]
