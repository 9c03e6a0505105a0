"""The local cache: complete, private, safe among processes, and never in the way."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gpuserve import state
from gpuserve.records import Deployment, Endpoint
from gpuserve.state import REMEMBERED, Cache, Remembered, Share, default_path

LATER = datetime.now(UTC) + timedelta(hours=1)
EARLIER = datetime.now(UTC) - timedelta(seconds=1)


def deployment(sandbox_id: str = "sb-1", **more: Any) -> Deployment:
    known: dict[str, Any] = {
        "name": f"name-{sandbox_id}", "place": "daytona", "state": "started", "engine": "vllm", "model": "org/tiny",
        "served_model": "tiny", "port": 8000, "session": "serve", "run_id": "r1",
    }  # fmt: skip
    return Deployment(sandbox_id=sandbox_id, **(known | more))


def entry(sandbox_id: str = "sb-1", **more: Any) -> Remembered:
    endpoint = Endpoint(
        url="https://8000-sb.proxy.example",
        served_model="tiny",
        headers={"x-daytona-preview-token": "tok"},
        api_key="key",
    )
    return Remembered(deployment=deployment(sandbox_id, **more), endpoint=endpoint, api_url="https://api.example")


def share(token: str = "tok-1", expires_at: datetime = LATER) -> Share:
    return Share(url=f"https://8000-{token}.proxy.example", token=token, port=8000, expires_at=expires_at)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "gpuserve" / "deployments.json")


def ids(cache: Cache) -> list[str]:
    return [each.deployment.sandbox_id for each in cache.all()]


def test_every_field_comes_back(cache: Cache) -> None:
    full = deployment(
        image="vllm:1",
        gpu="H100",
        target="us",
        public=True,
        access="key",
        keyed=True,
        created_at=EARLIER,
        expires_at=LATER,
        error="none",
        labels={"a": "b"},
    )
    plain = deployment("plain")
    same = [each.name for each in fields(Deployment) if getattr(full, each.name) == getattr(plain, each.name)]
    assert set(same) <= {"place", "state", "engine", "model", "served_model", "port", "session", "run_id"}
    remembered = Remembered(deployment=full, endpoint=entry().endpoint, api_url="https://api.example")
    cache.remember(remembered)
    [back] = Cache(cache.path).all()
    assert back == remembered
    assert back.place == "daytona"
    assert cache.warning == ""


def test_a_deployment_without_an_endpoint_comes_back(cache: Cache) -> None:
    cache.remember(Remembered(deployment=deployment()))
    [back] = cache.all()
    assert back == Remembered(deployment=deployment(), endpoint=None, api_url="")


def test_remembering_again_replaces_but_keeps_the_credential(cache: Cache) -> None:
    cache.remember(entry(state="creating"))
    cache.remember(Remembered(deployment=deployment(state="started"), api_url="https://api.example"))
    assert cache.all() == [entry(state="started")]


def test_forget(cache: Cache) -> None:
    cache.remember(entry("a"))
    cache.remember(entry("b"))
    cache.note_share("a", share())
    cache.forget("a")
    cache.forget("never-known")
    assert ids(cache) == ["b"]
    assert cache.shares("a") == []


def test_shares(cache: Cache) -> None:
    cache.note_share("sb-1", share("one"))
    cache.note_share("sb-1", share("two"))
    cache.note_share("sb-1", share("one", LATER + timedelta(hours=1)))
    cache.remember(entry())
    assert [each.token for each in cache.shares("sb-1")] == ["two", "one"]
    assert cache.shares("sb-1")[0] == share("two")
    cache.end_share("sb-1", "two")
    cache.end_share("sb-2", "unknown")
    assert [each.token for each in cache.shares("sb-1")] == ["one"]
    assert "tok" not in repr(share())


def test_what_has_ended_is_remembered_for_a_week_without_its_credential(cache: Cache) -> None:
    for token, expires_at in (("tok-revoked", LATER), ("tok-expired", EARLIER), ("tok-live", LATER)):
        cache.note_share("sb-1", share(token, expires_at))
    cache.note_share("sb-2", share("tok-long-ago", EARLIER - REMEMBERED))
    cache.end_share("sb-1", "tok-revoked")
    cache.end_share("sb-2", "tok-unknown")
    known = cache.all_shares()
    assert set(known) == {"sb-1"}
    assert [one.lives for one in known["sb-1"]] == [False, False, True]
    assert [one.revoked_at is None for one in known["sb-1"]] == [False, True, True]
    assert [one.is_for("tok-revoked") for one in known["sb-1"]] == [True, False, False]
    content = cache.path.read_text()
    assert ("tok-revoked" in content, "tok-expired" in content, "tok-live" in content) == (False, False, True)


def test_what_has_expired_is_not_told_of_and_leaves_the_file(cache: Cache) -> None:
    cache.remember(entry("gone", expires_at=EARLIER))
    cache.remember(entry("lives", expires_at=LATER))
    cache.note_share("lives", share("old", EARLIER))
    cache.note_share("lives", share("new"))
    assert ids(cache) == ["lives"]
    assert [each.token for each in cache.shares("lives")] == ["new"]
    assert "gone" not in cache.path.read_text()
    assert '"old"' not in cache.path.read_text()


def test_only_the_owner_can_read_it(cache: Cache) -> None:
    cache.path.parent.mkdir(mode=0o700)
    cache.path.write_text("{}")
    cache.path.chmod(0o644)
    previous = os.umask(0)
    try:
        cache.remember(entry())
    finally:
        os.umask(previous)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in cache.path.parent.iterdir()}
    assert modes.pop("deployments.json") == 0o600
    assert modes.pop("deployments.json.lock", 0o600) == 0o600
    assert set(modes) == {"deployments.json.bad"}


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_path() == tmp_path / ".cache/gpuserve/deployments.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_path() == tmp_path / ".cache/gpuserve/deployments.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    (tmp_path / "x/gpuserve").mkdir(parents=True, mode=0o755)
    cache = Cache()
    cache.remember(entry())
    assert stat.S_IMODE((tmp_path / "x/gpuserve").stat().st_mode) == 0o700
    assert ids(Cache(tmp_path / "x/gpuserve/deployments.json")) == ["sb-1"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"version": 2, "deployments": {}}',
        b'{"deployments": {}}',
        b'{"version": 1, "deployments": []}',
        b'{"version": 1, "deployments": {}, "shares": 7}',
    ],
)
@pytest.mark.parametrize("act", [lambda cache: cache.all(), lambda cache: cache.forget("x")])
def test_a_file_that_is_no_good_is_moved_aside(cache: Cache, content: bytes, act: Callable[[Cache], object]) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(content)
    act(cache)
    assert "deployments.json.bad" in cache.warning
    assert cache.path.with_name("deployments.json.bad").read_bytes() == content
    cache.remember(entry())
    assert ids(Cache(cache.path)) == ["sb-1"]


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item["deployment"].pop("name"),
        lambda item: item["deployment"].update(port="8000"),
        lambda item: item["deployment"].update(port=True),
        lambda item: item["deployment"].update(expires_at="soon"),
        lambda item: item["deployment"].update(created_at="2026-11-22T12:00:00"),
        lambda item: item["deployment"].update(labels={"a": 1}),
        lambda item: item.update(deployment=None),
        lambda item: item.update(endpoint={"url": 7, "served_model": "x"}),
        lambda item: item.pop("api_url"),
    ],
)
def test_an_entry_that_can_not_be_read_is_left_out_alone(cache: Cache, change: Callable[[Any], object]) -> None:
    cache.remember(entry("bad"))
    cache.remember(entry("good"))
    content = json.loads(cache.path.read_text())
    change(content["deployments"]["bad"])
    cache.path.write_text(json.dumps(content))
    assert ids(cache) == ["good"]
    cache.remember(entry("more"))
    assert ids(cache) == ["good", "more"]


def test_fields_of_a_later_gpuserve_are_passed_over(cache: Cache) -> None:
    cache.remember(entry())
    content = json.loads(cache.path.read_text())
    content["deployments"]["sb-1"]["deployment"]["colour"] = "blue"
    cache.path.write_text(json.dumps(content))
    assert cache.all() == [entry()]


def test_a_directory_that_can_not_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "deployments.json")
    cache.remember(entry())
    cache.note_share("sb-1", share())
    assert "can't be" in cache.warning
    assert cache.all() == []
    assert cache.shares("sb-1") == []
    cache.forget("sb-1")


def test_a_cache_that_is_a_directory_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "deployments.json").mkdir()
    cache = Cache(tmp_path / "deployments.json")
    cache.remember(entry())
    assert cache.warning
    assert cache.all() == []


def test_a_lock_that_is_never_given_back_is_a_warning(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_LOCK_TIMEOUT", 0.1)
    cache.remember(entry())
    with FileLock(f"{cache.path}.lock"):
        cache.forget("sb-1")
        assert "locked by another process" in cache.warning
        assert ids(cache) == ["sb-1"]


def test_a_share_that_can_not_be_read_is_left_out_alone(cache: Cache) -> None:
    cache.note_share("sb-1", share("bad"))
    cache.note_share("sb-1", share("good"))
    content = json.loads(cache.path.read_text())
    content["shares"]["sb-1"][0]["expires_at"] = None
    content["shares"]["sb-2"] = "odd"
    cache.path.write_text(json.dumps(content))
    assert [each.token for each in cache.shares("sb-1")] == ["good"]
    assert cache.shares("sb-2") == []


def test_what_a_killed_writer_left_is_no_hindrance(cache: Cache) -> None:
    cache.path.parent.mkdir()
    cache.path.with_name("deployments.json.new").write_text("half a fi")
    cache.remember(entry())
    assert ids(cache) == ["sb-1"]
    assert not cache.path.with_name("deployments.json.new").exists()


WRITER = """
import sys
from pathlib import Path
from gpuserve.records import Deployment
from gpuserve.state import Cache, Remembered

cache, me = Cache(Path(sys.argv[1])), sys.argv[2]
for number in range(10):
    cache.remember(Remembered(deployment=Deployment(
        name="n", sandbox_id=f"{me}-{number}", place="local", state="started", engine="e", model="m",
        served_model="m", port=1, session="s", run_id="r")))
    if number % 2:
        cache.forget(f"{me}-{number}")
assert not cache.warning, cache.warning
"""


def test_writers_in_several_processes_lose_nothing(cache: Cache) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(cache.path), name]) for name in "abc"]
    try:
        while any(writer.poll() is None for writer in writers):
            for each in cache.all():  # a reader at any moment sees a whole file
                assert each.deployment.place == "local"
        assert [writer.returncode for writer in writers] == [0, 0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert sorted(ids(cache)) == sorted(f"{name}-{number}" for name in "abc" for number in range(0, 10, 2))
    assert cache.warning == ""
