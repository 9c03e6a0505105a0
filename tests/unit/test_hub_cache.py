"""What is kept of the Hub's answers: how long, for whom, and what survives a Hub that is silent."""

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.hub import Answer, FakeHub, Repository
from gpuserve.catalog import hubcache
from gpuserve.catalog.hub import HubFacts, HubSilence, default_cache, look_up
from gpuserve.errors import NotAuthenticated, NotFound

TOKEN = "hf_theReadersOwnToken0001"
FILES: dict[str, bytes | int] = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": 1000}


@pytest.fixture(autouse=True)
def _no_hub_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        fake.tokens = {TOKEN}
        fake.add(Repository("org/model", FILES))
        fake.add(Repository("org/gated", FILES, gated="auto", readers=(TOKEN,)))
        yield fake


def age(folder: Path, seconds: float) -> None:
    for file in folder.iterdir():
        content = json.loads(file.read_text())
        content["at"] -= seconds
        file.write_text(json.dumps(content))


def test_a_second_look_asks_nobody_and_says_the_same(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    first = look_up("org/model", endpoint=hub.url, cache=folder, timeout=30)
    asked = len(hub.seen)
    assert look_up("org/model", endpoint=hub.url, cache=folder, timeout=30) == first
    assert len(hub.seen) == asked
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]


def test_one_answer_serves_every_quantisation(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(Repository("org/m-GGUF", {"m-Q8_0.gguf": 80, "m-Q4_K_M.gguf": 40}))
    look_up("org/m-GGUF", endpoint=hub.url, cache=tmp_path, timeout=30)
    found = look_up("org/m-GGUF:Q8_0", endpoint=hub.url, cache=tmp_path, timeout=30)
    assert isinstance(found, HubFacts)
    assert (found.weight_bytes, len(hub.seen)) == (80, 1)


def test_model_revision_and_whether_there_is_a_token_are_told_apart(hub: FakeHub, tmp_path: Path) -> None:
    look_up("org/gated", endpoint=hub.url, cache=tmp_path, token=TOKEN, timeout=30)
    with pytest.raises(NotAuthenticated):
        look_up("org/gated", endpoint=hub.url, cache=tmp_path, timeout=30)
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    with pytest.raises(NotFound):
        look_up("org/model", revision="other", endpoint=hub.url, cache=tmp_path, timeout=30)


def test_no_token_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    look_up("org/gated", endpoint=hub.url, cache=tmp_path, token=TOKEN, timeout=30)
    kept = [file.name + file.read_text() for file in tmp_path.iterdir()]
    assert len(kept) == 1
    assert TOKEN not in kept[0]


def test_after_a_quarter_of_an_hour_the_hub_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    age(tmp_path, 16 * 60)
    hub.add(Repository("org/model", {**FILES, "model.safetensors": 2000}))
    found = look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    assert isinstance(found, HubFacts)
    assert (found.weight_bytes, found.stale) == (2000, False)


@pytest.mark.parametrize("how", ["down", "offline"])
def test_an_old_answer_serves_while_the_hub_is_silent_and_says_so(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    age(tmp_path, 2 * 3600 + 5)
    if how == "down":
        hub.trouble = Answer(503)
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    assert isinstance(found, HubFacts)
    assert (found.weight_bytes, found.stale) == (1000, True)
    assert found.notes[-1].split("; used")[1].startswith(" what it said 2h")


def test_a_refusal_is_no_silence(hub: FakeHub, tmp_path: Path) -> None:
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    age(tmp_path, 3600)
    del hub.repositories["org/model"]
    with pytest.raises(NotFound):
        look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)


def test_an_answer_from_the_future_is_not_new(hub: FakeHub, tmp_path: Path) -> None:
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    age(tmp_path, -3600)
    asked = len(hub.seen)
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    assert len(hub.seen) > asked


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 1, "at": "x", "material": {}}', b"\xff", b"[" * 100_000,
     b'{"version": 99, "at": 0, "material": {}}', b'{"version": 1, "at": 9e99, "material": {"info": 3}}'],
)  # fmt: skip
def test_a_damaged_file_is_no_answer_and_is_mended(hub: FakeHub, tmp_path: Path, content: bytes) -> None:
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    asked = len(hub.seen)
    assert isinstance(look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30), HubFacts)
    assert len(hub.seen) > asked
    assert json.loads(file.read_text())["material"]["info"]["id"] == "org/model"


def test_a_damaged_file_and_a_silent_hub_are_silence(hub: FakeHub, tmp_path: Path) -> None:
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({"version": 1, "at": time.time() - 9999, "material": {"info": {"id": 3}}}))
    hub.trouble = Answer(503)
    assert isinstance(look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30), HubSilence)


def test_a_folder_that_cannot_be_made_costs_nothing(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "hub"
    assert isinstance(look_up("org/model", endpoint=hub.url, cache=folder, timeout=30), HubFacts)


def test_old_files_go(hub: FakeHub, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("{}")
    os.utime(old, (0, 0))
    look_up("org/model", endpoint=hub.url, cache=tmp_path, timeout=30)
    assert old not in list(tmp_path.iterdir())


def test_the_folder_follows_the_users_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "gpuserve" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == Path.home() / ".cache" / "gpuserve" / "hub"


def test_keys_tell_their_parts_apart() -> None:
    assert (
        len({hubcache.key("a", "b"), hubcache.key("ab", ""), hubcache.key("a", "b", True), hubcache.key("b", "a")}) == 4
    )
