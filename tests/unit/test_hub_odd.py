"""Whatever a Hub answers, what comes out is a record, a silence or one of our errors."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fakes.hub import SHA, Answer, FakeHub, Repository
from gpuserve.catalog.hub import HubFacts, HubSilence, look_up
from gpuserve.catalog.hubfacts import facts_from
from gpuserve.catalog.hubjudge import architectures, judge
from gpuserve.catalog.hubshape import shape_from_config
from gpuserve.errors import GpuserveError, UsageError

FILES = {"config.json": b"{}", "model.safetensors.index.json": b"{}", "adapter_config.json": b"{}"}
ABOUT = "/api/models/org/model"
NAMES = (
    "id sha gated private siblings rfilename size config architectures model_type gguf safetensors total parameters "
    "text_config num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_size layer_types "
    "sliding_window max_position_embeddings rope_scaling rope_type factor original_max_position_embeddings "
    "quantization_config quant_method config_groups weights num_bits kv_lora_rank qk_rope_head_dim attn_type_list "
    "full_attention_interval attn_layer_period linear_attn_config full_attn_layers metadata total_size weight_map "
    "hybrid_override_pattern base_model_name_or_path name branches tags converts info files index access ggufs"
)
WORDS = st.sampled_from(NAMES.split())
VALUES = st.sampled_from(
    ["org/model", "auto", "manual", "yarn", "full_attention", "sliding_attention", "LlamaForCausalLM", "fp8", "M*-E",
     "model.safetensors", "\x1b[31m", "../..", 0, -1, 1, 36, 10**30, 1.5, 1e308, float("nan"), True, False, None]
)  # fmt: skip
JSON = st.recursive(
    VALUES | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=6),
    max_leaves=25,
)
TABLES = st.dictionaries(WORDS, JSON, max_size=14)
GOOD = {
    "id": "org/model",
    "sha": SHA,
    "siblings": [{"rfilename": name, "size": 10} for name in (*FILES, "model.safetensors", "m-Q4_K_M.gguf")],
}
BODIES = st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())
STATUS = st.sampled_from([200, 200, 200, 201, 300, 301, 302, 307, 400, 401, 402, 403, 404, 405, 409, 410, 416, 422,
                          429, 451, 500, 503, 599])  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(["X-Error-Code", "X-Error-Message", "Location", "RateLimit", "Retry-After", "Content-Type",
                     "X-HF-Warning", "Link"]),
    st.sampled_from(["RepoNotFound", "RevisionNotFound", "GatedRepo", "EntryNotFound", "", "nonsense", "/", "http://[",
                     "gopher://x", "application/json", '"api";r=0;t=x', "9" * 40,
                     "Access to this resource is disabled."]),
    max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        fake.add(Repository("org/model", FILES))
        yield fake


def look(hub: FakeHub, revision: str = "") -> None:
    told: tuple[str, ...]
    try:
        found = look_up("org/model", endpoint=hub.url, timeout=30, revision=revision, engine="llamacpp")
    except GpuserveError as error:
        told = (error.message, error.hint)
    else:
        assert isinstance(found, HubFacts | HubSilence)
        told = said_of(found) if isinstance(found, HubFacts) else (found.reason,)
    assert all(text.isprintable() for text in told)


def said_of(facts: HubFacts) -> tuple[str, ...]:
    told = [facts.model, facts.revision, facts.base_model, *facts.notes]
    for engine in ("vllm", "sglang", "llamacpp", "other"):
        try:
            told += judge(facts, engine, architectures("vllm"))
        except UsageError as error:
            told += [error.message, error.hint]
    return tuple(told)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=STATUS, headers=HEADERS, body=BODIES)
@example(status=200, headers={}, body=b"[" * 100_000)
@example(status=200, headers={}, body=b'{"id": ' + b"9" * 5000 + b"}")
@example(status=200, headers={}, body=json.dumps({"id": "org/model", "siblings": [{"rfilename": 5}]}).encode())
@example(status=200, headers={}, body=json.dumps({"id": "org/\u202emodel"}).encode())
@example(status=307, headers={"Location": "/"}, body=b"")
def test_any_answer_to_the_first_question(hub: FakeHub, status: int, headers: dict[str, str], body: bytes) -> None:
    hub.overrides = {ABOUT: Answer(status, body, headers)}
    look(hub)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=TABLES)
def test_any_repository(hub: FakeHub, more: dict[str, object]) -> None:
    hub.overrides = {ABOUT: Answer(200, json.dumps({**GOOD, **more}).encode())}
    look(hub)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=STATUS, headers=HEADERS, bodies=st.tuples(BODIES, BODIES, BODIES))
@example(status=200, headers={}, bodies=(b"[]", b"[1]", b'"x"'))
def test_any_files(hub: FakeHub, status: int, headers: dict[str, str], bodies: tuple[bytes, bytes, bytes]) -> None:
    hub.overrides = {ABOUT: Answer(200, json.dumps(GOOD).encode())}
    for name, body in zip(FILES, bodies, strict=True):
        hub.overrides[f"/org/model/resolve/{SHA}/{name}"] = Answer(status, body, headers)
    look(hub)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=STATUS, body=BODIES, refs=BODIES)
def test_any_search_and_any_refs(hub: FakeHub, status: int, body: bytes, refs: bytes) -> None:
    missing = Answer(401, b"", {"X-Error-Code": "RepoNotFound"})
    hub.overrides = {ABOUT: missing, "/api/models": Answer(status, body), f"{ABOUT}/refs": Answer(status, refs)}
    look(hub)
    hub.overrides[f"{ABOUT}/revision/other"] = Answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
    look(hub, "other")


@settings(max_examples=400)
@given(config=TABLES, size=st.integers(0, 1 << 50))
def test_any_configuration(config: dict[str, object], size: int) -> None:
    shape = shape_from_config(config, size)
    assert not shape or (shape["max_context"] > 0 and shape["weight_gib"] > 0)


@settings(max_examples=300)
@given(material=TABLES, info=TABLES, files=st.dictionaries(st.text(max_size=20), JSON, max_size=5))
def test_any_material(material: dict[str, object], info: dict[str, object], files: dict[str, object]) -> None:
    found = facts_from({**material, "info": {"id": "org/model", **info}, "files": files}, "Q4_K_M")
    assert found is None or found.model
