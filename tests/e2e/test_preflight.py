"""The Hub and the platform asked before anything is created, by the installed command.

The Hub is a server of ours that answers as the real one does; the platform is the local host, whose own log of requests
proves that nothing was created.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.inside import inside
from e2e.usershell import QUICK, Shell
from fakes.hub import Answer, FakeHub, Repository

TOKEN = "hf_plantedplantedplanted"
SMALL: dict[str, bytes | int] = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
    "model.safetensors": 1000,
}


@pytest.fixture(scope="module", name="shell")
def within(shell: Shell) -> Shell:
    """The same shell, its commands run here."""
    return inside(shell)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        made.tokens.add(TOKEN)
        made.add(Repository("acme/open-7b", files=SMALL, branches=("main", "v1")))
        made.add(Repository("acme/gated-7b", files=SMALL, gated="manual", readers=("hf_reader",)))
        made.add(Repository("acme/only-gguf", files={"m-Q4_K_M.gguf": 1000}))
        made.add(Repository("acme/adapter", files={"adapter_config.json": b"{}", "adapter_model.safetensors": 10}))
        made.add(Repository("google/gemma-4-12B-it", files=SMALL))
        yield made


def creations(shell: Shell) -> int:
    """Create requests that the host has seen."""
    info = json.loads((shell.home / "state" / "gpuserve" / "host" / "host.json").read_text())
    seen = httpx.get(f"{info['url']}/_host/requests", headers={"Authorization": f"Bearer {info['key']}"}).json()
    return sum(1 for one in seen if one["method"] == "POST" and one["path"] == "/api/sandbox")


CASES = [
    ("acme/opn-7b", {}, (), 4, "not_found", "acme/open-7b"),
    ("acme/nothing-like-it", {}, (), 4, "not_found", ""),
    ("acme/gated-7b", {}, (), 3, "not_authenticated", "HF_TOKEN"),
    ("acme/gated-7b", {"HF_TOKEN": TOKEN}, (), 3, "not_authenticated", "acme/gated-7b"),
    ("acme/open-7b", {}, ("--revision", "v2"), 4, "not_found", "did you mean main?"),
    ("acme/only-gguf", {}, (), 2, "usage", "--engine llamacpp"),
    ("acme/adapter", {}, (), 2, "usage", ""),
    ("google/gemma-4-12B-it", {}, (), 2, "usage", "--image"),
]


@pytest.mark.parametrize(("model", "env", "flags", "status", "code", "helps"), CASES, ids=[str(c[0]) for c in CASES])
def test_a_model_that_cannot_be_served_creates_nothing(
    shell: Shell,
    hub: FakeHub,
    model: str,
    env: dict[str, str],
    flags: tuple[str, ...],
    status: int,
    code: str,
    helps: str,
) -> None:
    before = creations(shell)
    done = shell.run(
        "up", "--local", "--engine", "vllm", "--model", model, *flags, "--json", env={"HF_ENDPOINT": hub.url, **env}
    )
    assert (done.status, done.error["code"]) == (status, code)
    assert helps in done.error["message"] + done.error["hint"]
    assert creations(shell) == before
    assert TOKEN not in done.out + done.err


@pytest.mark.parametrize(
    "trouble", [Answer(429, headers={"Retry-After": "60"}), Answer(503), None], ids=["429", "503", "down"]
)
def test_a_hub_in_trouble_is_a_warning(shell: Shell, hub: FakeHub, trouble: Answer | None) -> None:
    hub.trouble = trouble
    address = hub.url if trouble else "http://127.0.0.1:9"
    plan = shell.ok("plan", "acme/open-7b", "--json", env={"HF_ENDPOINT": address}).data
    assert "wasn't checked on the Hub" in " ".join(plan["notes"])


def test_no_check_asks_nobody(shell: Shell, hub: FakeHub) -> None:
    shell.ok("plan", "acme/opn-7b", "--no-check", "--json", env={"HF_ENDPOINT": hub.url})
    assert hub.seen == []


def test_a_second_look_is_answered_from_the_cache(shell: Shell, hub: FakeHub) -> None:
    for _ in range(2):
        shell.ok("plan", "acme/open-7b", "--json", env={"HF_ENDPOINT": hub.url})
    asked = [path for path in hub.paths if path.startswith("/api/models/acme/open-7b")]
    assert len(asked) == 1


def test_the_platform_is_asked_and_its_no_is_told(shell: Shell) -> None:
    before = creations(shell)
    done = shell.run("up", *QUICK, "--gpu", "B200", "--json")
    assert (done.status, done.error["code"]) == (7, "quota")
    assert "allowed: H100" in done.error["message"]
    assert creations(shell) == before


def test_a_platform_that_says_nothing_is_a_warning(shell: Shell, hub: FakeHub) -> None:
    env = {"DAYTONA_API_KEY": "dtn_planted", "DAYTONA_API_URL": "http://127.0.0.1:9/api", "HF_ENDPOINT": hub.url}
    plan = shell.ok("plan", "openai/gpt-oss-20b", "--json", env={**env, "HF_HUB_OFFLINE": "1"}).data
    assert "can't be read from the platform" in " ".join(plan["notes"])
    assert plan["gpus"] == ["H100", "RTX-PRO-6000"]


def findings(done: Any) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in json.loads(done.out.splitlines()[0])["data"]}


def test_doctor_on_the_local_host(shell: Shell, hub: FakeHub) -> None:
    found = findings(shell.ok("doctor", "--local", "--json", env={"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}))
    assert found["api"]["state"] == found["key"]["state"] == found["quota"]["state"] == "ok"
    assert "H100 1" in found["capacity"]["detail"]
    assert found["embedded engine"]["state"] == "ok"
    assert found["hugging face"] | {"mend": ""} == {
        "name": "hugging face",
        "state": "ok",
        "detail": "the Hub knows this token as somebody's",
        "mend": "",
    }


def test_doctor_names_what_is_broken_and_how_to_mend_it(shell: Shell, hub: FakeHub) -> None:
    env = {"DAYTONA_API_KEY": "dtn_planted", "DAYTONA_API_URL": "http://127.0.0.1:9/api"}
    done = shell.run("doctor", "--json", env={**env, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_nobodyknowsthisone"})
    assert done.status == 13
    found = findings(done)
    assert found["api"]["state"] == found["key"]["state"] == "failed"
    assert "DAYTONA_API_URL" in found["api"]["mend"]
    assert "dtn_planted" not in done.out + done.err
    text = shell.run("doctor", env=env)
    assert "FAILED" in text.out


def test_models_lists_what_is_known(shell: Shell) -> None:
    table = shell.ok("models", "gpt-oss").out.splitlines()
    assert table[0].startswith("MODEL\tPARAMS")
    assert [line.split("\t")[0] for line in table[1:]] == ["openai/gpt-oss-20b", "openai/gpt-oss-120b"]
    assert shell.run("models", "nonesuch", "--json").status == 4
