"""Look-ups at a Hub over HTTP, with the real client: each case the right record, error or silence, and its requests."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.hub import SHA, Answer, FakeHub, Repository, said
from gpuserve.catalog.hub import HubFacts, HubSilence, look_up, whoami
from gpuserve.errors import ConfigError, GpuserveError, NotAuthenticated, NotFound, UsageError

TOKEN, OTHER = "hf_theReadersOwnToken0001", "hf_somebodyElsesToken0002"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 4096,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
INDEX = {
    "metadata": {"total_size": 3_000_000_000},
    "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"},
}
SHARDED: dict[str, bytes | int] = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "model-1.safetensors": 1_500_001_000,
    "model-2.safetensors": 1_500_001_000,
    "original/consolidated.safetensors": 3_000_000_500,
    "consolidated.safetensors": 3_000_000_500,
}
GATED: dict[str, bytes | int] = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": 1000}


@pytest.fixture(autouse=True)
def _no_hub_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        fake.tokens = {TOKEN, OTHER}
        fake.add(Repository("Qwen/Qwen3-8B", SHARDED, aliases=("qwen/qwen3-8b",), tags=("v1.0",)))
        fake.add(Repository("meta-llama/Llama-9", GATED, gated="manual", readers=(TOKEN,)))
        fake.add(Repository("me/secret", GATED, private=True, readers=(TOKEN,)))
        yield fake


def facts(model: str, hub: FakeHub, **asked: object) -> HubFacts:
    found = look_up(model, endpoint=hub.url, timeout=30, **asked)  # type: ignore[arg-type]
    assert isinstance(found, HubFacts)
    return found


def silence(model: str, endpoint: str, *, timeout: float = 30) -> HubSilence:
    found = look_up(model, endpoint=endpoint, timeout=timeout)
    assert isinstance(found, HubSilence)
    return found


def refused(kind: type[GpuserveError], model: str, hub: FakeHub, **asked: object) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        look_up(model, endpoint=hub.url, timeout=30, **asked)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    return caught.value.message, caught.value.hint


def test_a_sharded_model_is_known_exactly_by_three_small_requests(hub: FakeHub) -> None:
    found = facts("Qwen/Qwen3-8B", hub)
    assert found.model == "Qwen/Qwen3-8B"
    assert found.revision == SHA
    assert (found.gated, found.access, found.private) == ("no", True, False)
    assert found.weight_bytes == 3_000_000_000
    assert found.weight_for("vllm") == 3_000_000_000
    assert found.formats == ("safetensors",)
    assert found.architectures == ("Qwen3ForCausalLM",)
    assert (found.model_type, found.max_context, found.quantization) == ("qwen3", 40960, "")
    assert found.shape["kv_bytes_per_token_vllm"] == 36 * 2 * 8 * 128 * 2
    assert (found.notes, found.stale, found.library) == ((), False, "transformers")
    assert hub.paths == [
        f"/Qwen/Qwen3-8B/resolve/{SHA}/config.json",
        f"/Qwen/Qwen3-8B/resolve/{SHA}/model.safetensors.index.json",
        "/api/models/Qwen/Qwen3-8B?blobs=true",
    ]


def test_the_second_round_trip_asks_for_everything_at_once(hub: FakeHub) -> None:
    together = threading.Barrier(4)
    hub.add(Repository("org/gated", SHARDED, gated="auto", readers=(TOKEN,)))
    hub.before = lambda path: None if path.endswith("blobs=true") else (together.wait(20), None)[1]
    found = facts("org/gated", hub, token=TOKEN, engine="llamacpp")
    assert not together.broken
    assert found.notes == ()
    assert len(hub.seen) == 5


def test_the_hubs_own_spelling_counts(hub: FakeHub) -> None:
    assert facts("qwen/qwen3-8b", hub).model == "Qwen/Qwen3-8B"


def test_the_endpoint_is_read_when_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub  # noqa: F401  # it has read HF_ENDPOINT for itself by now

    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    assert isinstance(look_up("Qwen/Qwen3-8B", timeout=30), HubFacts)
    assert hub.seen


def test_an_endpoint_that_is_no_address() -> None:
    with pytest.raises(ConfigError, match="HF_ENDPOINT is no"):
        look_up("Qwen/Qwen3-8B", endpoint="hub.example")


@pytest.mark.parametrize("revision", ["v1.0", "main", SHA])
def test_a_revision_that_is_there(hub: FakeHub, revision: str) -> None:
    assert facts("Qwen/Qwen3-8B", hub, revision=revision).revision == SHA
    assert f"/api/models/Qwen/Qwen3-8B/revision/{revision}?blobs=true" in hub.paths


def test_a_misspelt_name_gets_near_ones_from_the_hub_and_the_catalogue(hub: FakeHub) -> None:
    hub.add(Repository("acme/Rocket-7B-Instruct", GATED))
    message, hint = refused(NotFound, "acme/Roket-7B-Instruct", hub)
    assert message == "the Hub has no public model acme/Roket-7B-Instruct"
    assert hint.startswith("did you mean acme/Rocket-7B-Instruct?")
    assert "doesn't tell missing from private" in hint
    assert hub.paths == [
        "/api/models/acme/Roket-7B-Instruct?blobs=true",
        "/api/models?sort=downloads&author=acme&limit=100",
        "/api/models?sort=downloads&search=Roket-7B-Instruct&limit=20",
    ]
    _, hint = refused(NotFound, "openai/gpt-oss-20", hub)
    assert hint.startswith("did you mean openai/gpt-oss-20b")


def test_a_wrong_owner_gets_the_right_one(hub: FakeHub) -> None:
    hub.add(Repository("acme/Rocket-7B-Instruct", GATED))
    assert refused(NotFound, "acne/Rocket-7B-Instruct", hub)[1].startswith("did you mean acme/Rocket-7B-Instruct?")


def test_a_missing_model_with_a_token_may_be_hidden_from_it(hub: FakeHub) -> None:
    message, hint = refused(NotFound, "zz/qqqqqq", hub, token=TOKEN)
    assert message == "the Hub has no model zz/qqqqqq, or hides it from this HF_TOKEN"
    assert "did you mean" not in hint
    assert {one.token for one in hub.seen} == {TOKEN}


def test_a_private_model_looks_missing_without_its_token(hub: FakeHub) -> None:
    assert "private" in refused(NotFound, "me/secret", hub)[1]
    refused(NotFound, "me/secret", hub, token=OTHER)
    found = facts("me/secret", hub, token=TOKEN)
    assert (found.private, found.weight_bytes) == (True, 1000)


def test_gated_without_a_token(hub: FakeHub) -> None:
    message, hint = refused(NotAuthenticated, "meta-llama/Llama-9", hub)
    assert message == "meta-llama/Llama-9 is gated: only accounts that accepted its terms can download it"
    assert hint.startswith(f"accept the terms at {hub.url}/meta-llama/Llama-9 and set HF_TOKEN")
    assert hint.endswith("by hand")
    assert {one.token for one in hub.seen} == {""}


def test_a_token_saved_by_another_tool_is_not_used(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    refused(NotAuthenticated, "meta-llama/Llama-9", hub)
    assert {one.token for one in hub.seen} == {""}


def test_gated_with_a_token_that_has_access(hub: FakeHub) -> None:
    found = facts("meta-llama/Llama-9", hub, token=TOKEN)
    assert (found.gated, found.access, found.weight_bytes) == ("manual", True, 1000)
    assert hub.paths == [
        "/api/models/meta-llama/Llama-9/auth-check",
        "/api/models/meta-llama/Llama-9?blobs=true",
        f"/meta-llama/Llama-9/resolve/{SHA}/config.json",
    ]


@pytest.mark.parametrize(
    ("refusal", "says", "do"),
    [
        ("You are not in the authorized list.", "the account of this HF_TOKEN has no access", "accept the terms with"),
        ("Your request is awaiting a review from the repo authors.", "waits for its owners", "wait for them"),
        ("Your request has been rejected by the repo's authors.", "rejected the request", "another account"),
        ("Please enable it in your fine-grained token settings.", "may not read gated models", "settings/tokens"),
    ],
)
def test_gated_with_a_token_that_lacks_access(hub: FakeHub, refusal: str, says: str, do: str) -> None:
    hub.add(Repository("meta-llama/Llama-9", GATED, gated="auto", readers=(TOKEN,), refusal=refusal))
    message, hint = refused(NotAuthenticated, "meta-llama/Llama-9", hub, token=OTHER)
    assert says in message
    assert do in hint
    assert OTHER not in message + hint


def test_gated_with_a_gate_of_gguf_files_only(hub: FakeHub) -> None:
    hub.add(Repository("org/gated-GGUF", {"m-Q4_K_M.gguf": 10}, gated="auto", readers=(TOKEN,)))
    refused(NotAuthenticated, "org/gated-GGUF", hub, token=OTHER)
    assert facts("org/gated-GGUF", hub, token=TOKEN).access is True


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "meta-llama/Llama-9", "zz/qqqqqq"])
def test_a_bad_token(hub: FakeHub, model: str) -> None:
    message, hint = refused(NotAuthenticated, model, hub, token="hf_revoked000000000000")
    assert message == "the Hub refuses the HF_TOKEN: it is mistyped, expired or revoked"
    assert f"{hub.url}/settings/tokens" in hint
    assert "hf_revoked" not in message + hint


def test_a_bad_token_that_the_hub_takes_for_none_is_told_by_whoami(hub: FakeHub) -> None:
    hub.overrides["/api/models/zz/q"] = said(401, "RepoNotFound", "Invalid username or password.")
    message, _ = refused(NotAuthenticated, "zz/q", hub, token="hf_revoked000000000000")
    assert "mistyped, expired or revoked" in message
    assert "/api/whoami-v2" in hub.paths


def test_whose_a_token_is(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    assert whoami(TOKEN, timeout=30) == "somebody"
    for bad in ("hf_revoked000000000000", "hf_secret\n"):
        with pytest.raises(NotAuthenticated, match="HF_TOKEN") as caught:
            whoami(bad, timeout=30)
        assert bad not in caught.value.message + caught.value.hint
    hub.overrides["/api/whoami-v2"] = said(503, "", "")
    assert reason(whoami(TOKEN, timeout=30)).endswith("is in trouble (status 503)")
    hub.overrides["/api/whoami-v2"] = said(403, "", "no")
    assert reason(whoami(TOKEN, timeout=30)) == "the Hub answers with status 403"
    hub.overrides["/api/whoami-v2"] = Answer(200, b"[]")
    assert reason(whoami(TOKEN, timeout=30)) == "the Hub's answer names no account"


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_nobody_is_asked_whose_a_token_is_where_the_hub_may_not_be_asked(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv(switch, "ON")
    assert reason(whoami(TOKEN, timeout=30)) == "HF_HUB_OFFLINE is set"
    assert hub.seen == []
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(ConfigError, match="HF_ENDPOINT is no http"):
        whoami(TOKEN, timeout=30)


def reason(told: str | HubSilence) -> str:
    assert isinstance(told, HubSilence)
    return told.reason


def test_a_token_that_no_header_can_carry_is_sent_nowhere(hub: FakeHub) -> None:
    message, _ = refused(NotAuthenticated, "Qwen/Qwen3-8B", hub, token="hf_secret\n")
    assert "hf_secret" not in message
    assert hub.seen == []


def test_a_token_without_permission(hub: FakeHub) -> None:
    hub.overrides["/api/models/Qwen/Qwen3-8B"] = said(403, "", "Forbidden: you need the repo.content.read permission")
    assert "may not read" in refused(NotAuthenticated, "Qwen/Qwen3-8B", hub, token=TOKEN)[0]
    assert refused(NotAuthenticated, "Qwen/Qwen3-8B", hub)[1] == "set HF_TOKEN"


def test_a_disabled_model(hub: FakeHub) -> None:
    hub.overrides["/api/models/Qwen/Qwen3-8B"] = said(403, "", "Access to this resource is disabled.")
    assert refused(NotFound, "Qwen/Qwen3-8B", hub)[0] == "the Hub has disabled Qwen/Qwen3-8B"


def test_a_wrong_revision_is_named_with_near_ones(hub: FakeHub) -> None:
    message, hint = refused(NotFound, "Qwen/Qwen3-8B", hub, revision="v1.1")
    assert message == "Qwen/Qwen3-8B has no revision 'v1.1'"
    assert hint == "did you mean v1.0?"
    assert hub.paths == ["/api/models/Qwen/Qwen3-8B/refs", "/api/models/Qwen/Qwen3-8B/revision/v1.1?blobs=true"]
    assert refused(NotFound, "Qwen/Qwen3-8B", hub, revision="f" * 40)[1] == "did you mean main?"


def test_a_name_that_no_model_can_have(hub: FakeHub) -> None:
    assert "can't be the ID" in refused(UsageError, "org/name.git", hub)[0]
    assert hub.seen == []


def test_a_rate_limit_is_a_warning_that_says_until_when(hub: FakeHub) -> None:
    hub.trouble = Answer(429, b"", {"RateLimit": '"api";r=0;t=55'})
    found = silence("Qwen/Qwen3-8B", hub.url)
    assert found.kind == "rate_limited"
    assert found.reason.endswith("in 55 s")
    assert len(hub.seen) == 1
    hub.trouble = Answer(429, b"", {"Retry-After": "7"})
    assert silence("Qwen/Qwen3-8B", hub.url).reason.endswith("in 7 s")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_hub_in_trouble_is_a_warning(hub: FakeHub, status: int) -> None:
    hub.trouble = Answer(status, b"<html>")
    assert silence("Qwen/Qwen3-8B", hub.url).kind == "down"


@pytest.mark.parametrize("status", [403, 404, 418])
def test_something_that_is_no_hub_is_a_warning(hub: FakeHub, status: int) -> None:
    hub.trouble = Answer(status, b"<html>")
    assert silence("Qwen/Qwen3-8B", hub.url).kind == "odd"


def test_nobody_there_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = silence("Qwen/Qwen3-8B", f"http://user:pass@127.0.0.1:{port}")
    assert found.kind == "unreachable"
    assert "pass" not in found.reason


def test_a_hub_that_never_answers_is_a_warning(hub: FakeHub) -> None:
    hub.trouble = Answer(wait=True)
    assert silence("Qwen/Qwen3-8B", hub.url, timeout=0.3).kind == "timed_out"


def test_a_hub_that_stops_half_way_leaves_what_is_known(hub: FakeHub, tmp_path: Path) -> None:
    config = f"/Qwen/Qwen3-8B/resolve/{SHA}/config.json"
    hub.overrides[config] = Answer(503)
    found = facts("Qwen/Qwen3-8B", hub, cache=tmp_path)
    assert found.weight_bytes == 3_000_000_000
    assert found.shape == {}
    assert len(found.notes) == 1
    assert "config couldn't be read" in found.notes[0]
    assert list(tmp_path.iterdir()) == []


def test_a_gate_that_cannot_be_checked_is_told(hub: FakeHub) -> None:
    hub.overrides["/api/models/meta-llama/Llama-9/auth-check"] = Answer(503)
    hub.overrides[f"/meta-llama/Llama-9/resolve/{SHA}/config.json"] = Answer(503)
    found = facts("meta-llama/Llama-9", hub, token=TOKEN)
    assert found.access is None
    assert "couldn't be checked" in " ".join(found.notes)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nobody(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert silence("Qwen/Qwen3-8B", hub.url).kind == "offline"
    assert hub.seen == []


def test_a_path_asks_nobody(hub: FakeHub) -> None:
    assert silence("/models/mine", hub.url).kind == "path"
    assert hub.seen == []


def test_gguf_siblings_are_looked_for_when_llama_cpp_needs_them(hub: FakeHub) -> None:
    labels = ("gguf", "base_model:quantized:Qwen/Qwen3-8B")
    hub.add(Repository("Qwen/Qwen3-8B-GGUF", {"Qwen3-8B-Q4_K_M.gguf": 5}, labels=labels))
    assert facts("Qwen/Qwen3-8B", hub).gguf_siblings == ()
    assert facts("Qwen/Qwen3-8B", hub, engine="llamacpp").gguf_siblings == ("Qwen/Qwen3-8B-GGUF",)


def test_a_quantisation_is_weighed_by_itself(hub: FakeHub) -> None:
    hub.add(Repository("org/m-GGUF", {"m-Q8_0.gguf": 80, "m-Q4_K_M.gguf": 40, "mmproj-m-F16.gguf": 7}))
    assert facts("org/m-GGUF", hub).weight_bytes == 40
    found = facts("org/m-GGUF:q8_0", hub)
    assert (found.quant, found.weight_bytes, found.weight_for("llamacpp")) == ("Q8_0", 80, 80)
    assert found.weight_for("vllm") == 0
    assert found.gguf == {"Q8_0": 80, "Q4_K_M": 40}


def test_no_token_is_ever_repeated_even_by_a_server_that_does(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for status in (400, 401, 403, 404, 429, 500):
        headers = {"X-Error-Message": TOKEN, "X-Request-Id": TOKEN, "X-HF-Warning": f"{status}; be warned"}
        hub.trouble = Answer(status, json.dumps({"error": TOKEN}).encode(), headers)
        try:
            told = repr(look_up("Qwen/Qwen3-8B", endpoint=hub.url, token=TOKEN, timeout=30))
        except GpuserveError as error:
            told = f"{error!r} {error.hint}"
        assert TOKEN not in told
    assert TOKEN not in caplog.text
    assert "be warned" not in caplog.text
