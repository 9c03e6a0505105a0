"""What somebody may ask for is checked where it is written down, before anything is created."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from daytona import GpuType
from hypothesis import given
from hypothesis import strategies as st

from gpuserve.errors import UsageError
from gpuserve.records import GPU_TYPES, Deployment, Endpoint, ServeRequest, check_image, check_model, check_name

#: What no name, ID or reference may hold, whatever else it may.
NEVER = [
    "\n",
    "ok\n",
    "\nok",
    "a\nRUN x",
    "a\0",
    "\0",
    "a b\t",
    "ａ",
    "a١",
    "é",
    "a;b",
    "$(x)",
    "`x`",
    "a'b",
    'a"b',
    "a|b",
    "-a",
]


def refused(**fields: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        ServeRequest(**{"model": "org/tiny", "engine": "vllm", **fields})
    return caught.value


def taken(**fields: Any) -> ServeRequest:
    return ServeRequest(**{"model": "org/tiny", "engine": "vllm", **fields})


def test_gpu_types_are_the_sdks() -> None:
    known = {each.value for each in GpuType if each.name != "UNKNOWN_DEFAULT_OPEN_API"}
    assert set(GPU_TYPES) == known
    assert len(GPU_TYPES) == len(known)


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-oss-20b",
        "google/gemma-4-26B-A4B-it",
        "gpt2",
        "org/name:Q4_K_M",
        "a/b_c.d-1",
        "/models/x",
        "/a b/c.gguf",
        "/srv/models--org--name/snapshots/1",
    ],
)
def test_models(model: str) -> None:
    check_model(model)
    assert taken(model=model).model == model


@pytest.mark.parametrize(
    "model",
    [
        *NEVER,
        "",
        " ",
        "/",
        "a/b/c",
        "a//b",
        "../x",
        "a/..",
        "/models/../etc",
        "a..b",
        "a/",
        "/a\nb",
        "a--b/c",
        "https://hf.co/a/b",
        ".a/b",
        "_a",
        "a/b:",
        "a/b:c/d",
        "a:b:c",
        "a" * 97,
        "a/" + "b" * 97,
        "a @b",
        "/a;rm",
        "/a$x",
        "/a\0",
    ],
)
def test_model_ids_that_are_none(model: str) -> None:
    assert refused(model=model).hint


@pytest.mark.parametrize(
    "image",
    [
        "vllm/vllm-openai:v0.22.1",
        "lmsysorg/sglang:v0.5.12.post1-cu130",
        "ghcr.io/ggml-org/llama.cpp:server-cuda",
        "ubuntu",
        "localhost:5000/a/b:c",
        "a@sha256:" + "0" * 64,
        "a:b@sha256:" + "f" * 64,
        "x/a__b",
    ],
)
def test_images(image: str) -> None:
    check_image(image)
    assert taken(image=image).image == image


@pytest.mark.parametrize(
    "image",
    [
        *NEVER,
        " ",
        "A/b",
        "a:b:c:d",
        "a/",
        "/a",
        "a//b",
        "a:",
        "a@",
        "a@sha256:0",
        "a@sha256:" + "g" * 64,
        "../a",
        "a/../b",
        "a AS b",
        "a:b\\nRUN x",
        "a#b",
        "a:.b",
        "a" * 256,
        "https://a/b",
    ],
)
def test_image_references_that_are_none(image: str) -> None:
    assert refused(image=image).message


@pytest.mark.parametrize("name", ["a", "my-model", "gpt-oss-20b-7f3c", "a.b", "0", "a" * 63])
def test_names(name: str) -> None:
    check_name(name)
    assert taken(name=name).name == name


@pytest.mark.parametrize("name", [*NEVER, " ", "A", "a_b", "a-", ".a", "a/b", "..", "../a", "a" * 64])
def test_names_that_are_none(name: str) -> None:
    assert "my-model" in refused(name=name).hint


@pytest.mark.parametrize("field", ["served_as", "target", "revision"])
@pytest.mark.parametrize("text", [*(bad for bad in NEVER), " ", "a b", "a" * 129])
def test_other_texts_that_are_none(field: str, text: str) -> None:
    assert refused(**{field: text}).message


def test_other_texts() -> None:
    request = taken(served_as="org/tiny:v1@x+y", target="us-east-1", revision="refs/pr/1")
    assert (request.served_as, request.target, request.revision) == ("org/tiny:v1@x+y", "us-east-1", "refs/pr/1")


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_ports_out_of_range(port: int) -> None:
    assert "1 to 65535" in refused(port=port).hint


@pytest.mark.parametrize("port", [2280, 22222, 33333])
def test_the_platforms_own_ports(port: int) -> None:
    assert "belongs to the platform" in refused(port=port).message


@pytest.mark.parametrize("port", [1, 8000, 65535])
def test_ports(port: int) -> None:
    assert taken(port=port).port == port


@pytest.mark.parametrize("gpus", [("h100",), ("H100 ",), ("H100", "A100"), ("",), ("unknown_default_open_api",)])
def test_unknown_gpus_list_the_known(gpus: tuple[str, ...]) -> None:
    hint = refused(gpus=gpus).hint
    assert [gpu for gpu in GPU_TYPES if gpu not in hint] == []


def test_known_gpus() -> None:
    assert taken(gpus=GPU_TYPES).gpus == GPU_TYPES


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl": 59},
        {"ttl": 0},
        {"ttl": -3600},
        {"timeout": 0},
        {"timeout": -1},
        {"cpu": 0},
        {"memory": -1},
        {"disk": 0},
        {"gpu_count": 0},
        {"queue_timeout": 0},
    ],
)
def test_numbers_out_of_range(fields: dict[str, int]) -> None:
    assert refused(**fields).hint


def test_numbers() -> None:
    assert taken(ttl=None).ttl is None
    assert taken(ttl=60, timeout=1, cpu=1, memory=1, disk=1, gpu_count=1, queue_timeout=1).ttl == 60


@pytest.mark.parametrize("key", ["", "1A", "A-B", "A B", "A=B", "A\n", "É", "A\0"])
def test_environment_names_that_are_none(key: str) -> None:
    assert refused(env={key: "x"}).message


def test_environment_values_may_be_anything_but_nul() -> None:
    assert taken(env={"_A1": "x=y\nz é"}).env["_A1"] == "x=y\nz é"
    error = refused(env={"A": "very-secret\0"})
    assert "very-secret" not in error.message


def test_engine_arguments_may_be_anything_but_nul() -> None:
    assert taken(engine_args=("--x", "a\nb $HOME", "")).engine_args == ("--x", "a\nb $HOME", "")
    assert refused(engine_args=("a\0",)).message


@pytest.mark.parametrize("label", ["", "gpuserve/engine", "gpuserve/"])
def test_labels_that_are_reserved(label: str) -> None:
    assert refused(labels={label: "x"}).message


def test_labels() -> None:
    assert taken(labels={"team": "a", "not-gpuserve/x": "b"}).labels["team"] == "a"


@given(st.text(max_size=30))
def test_a_checked_name_is_safe_in_a_url_a_path_and_a_shell(name: str) -> None:
    try:
        check_name(name)
    except UsageError:
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert name.strip(".-") not in ("", ".", "..")


@given(st.text(alphabet="aA0/:.-_\n\0 é", max_size=12))
def test_a_checked_image_is_one_word(image: str) -> None:
    try:
        check_image(image)
    except UsageError:
        return
    assert image
    assert image.isascii()
    assert image.split() == [image]


def test_records_are_frozen_and_hide_secrets() -> None:
    request = taken(env={"HF_TOKEN": "very-secret"})
    endpoint = Endpoint(url="https://x", served_model="m", headers={"t": "very-secret"}, api_key="very-secret")
    with pytest.raises(FrozenInstanceError):
        request.model = "other"  # type: ignore[misc]
    assert "very-secret" not in repr(request) + repr(endpoint)


def test_an_endpoint_gives_openai_clients() -> None:
    endpoint = Endpoint(
        url="https://x.example", served_model="m", headers={"x-daytona-preview-token": "tok"}, api_key="key"
    )
    assert endpoint.base_url == "https://x.example/v1"
    client = endpoint.openai(max_retries=0)
    with client:
        assert (str(client.base_url), client.api_key, client.max_retries) == ("https://x.example/v1/", "key", 0)
        assert client.default_headers["x-daytona-preview-token"] == "tok"
    assert str(endpoint.async_openai().base_url) == "https://x.example/v1/"


def test_the_clock_of_a_deployment() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    known = Deployment(
        name="n", sandbox_id="s", place="local", state="started", engine="e", model="m", served_model="m", port=1,
        session="x", run_id="r", created_at=now - timedelta(minutes=1), expires_at=now + timedelta(minutes=2),
    )  # fmt: skip
    assert (known.age(now), known.time_left(now)) == (60.0, 120.0)
    bare = Deployment(
        name="n", sandbox_id="s", place="local", state="started", engine="e", model="m", served_model="m", port=1,
        session="x", run_id="r",
    )  # fmt: skip
    assert (bare.age(), bare.time_left()) == (None, None)
