"""Sizes of models and GPU types: complete, consistent with themselves, and found by name."""

from __future__ import annotations

import pytest

from gpuserve import catalog
from gpuserve.catalog import shapes
from gpuserve.catalog.facts import ModelShape
from gpuserve.records import GPU_TYPES

SHAPES = [pytest.param(shape, id=shape.hf) for shape in shapes.shapes()]


def test_the_catalogue_is_complete() -> None:
    assert len(shapes.shapes()) == 140
    assert len(catalog.families()) == 83
    assert {spec.name for spec in shapes.gpus()} == set(GPU_TYPES)


def test_gpu_types_come_by_growing_memory() -> None:
    assert [spec.name for spec in shapes.gpus()] == [
        "RTX-4090", "RTX-5090", "H100", "RTX-PRO-6000", "H200", "B200", "B300", "MI355X",
    ]  # fmt: skip
    assert shapes.gpu("H100").memory_gib == pytest.approx(79.65, abs=0.01)
    assert shapes.gpu("MI355X").sglang_fraction is None
    with pytest.raises(KeyError):
        shapes.gpu("A100")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_models_figures_agree_with_each_other(shape: ModelShape) -> None:
    layers = 2 * shape.kv_full_layers * shape.kv_heads * shape.head_dim * shape.kv_dtype_bytes
    window = 2 * shape.kv_window_layers * shape.kv_window_heads * shape.kv_window_head_dim * shape.kv_dtype_bytes
    assert layers in (0, shape.kv_bytes_per_token_vllm)
    assert shape.kv_window_bytes_per_seq_vllm == window * shape.kv_window
    assert shape.kv_bytes_per_token_vllm <= shape.kv_bytes_per_token_sglang
    assert shape.kv_bytes_per_token_sglang <= layers + window or not layers
    assert 0 < shape.active_b <= shape.params_b
    assert shape.source
    assert shape.confidence in catalog.CONFIDENCES
    assert (shape.confidence == "high") is ((shape.weight_src, shape.config_src) == ("K", "C"))


#: The least and the most bytes a parameter takes: its number is rounded, and scales come on top of the bits.
BYTES = {"bf16": (1.9, 2.1), "fp8": (0.95, 1.25), "int4": (0.5, 0.85), "mxfp4": (0.5, 0.7), "nvfp4": (0.5, 0.7)}


@pytest.mark.parametrize("shape", [each for each in SHAPES if each.values[0].precision in BYTES])  # type: ignore[union-attr]
def test_weights_are_what_the_parameters_make_of_them(shape: ModelShape) -> None:
    least, most = BYTES[shape.precision]
    assert least <= shape.weight_gib * shapes.GIB / (shape.params_b * 1e9) <= most


def test_a_model_is_found_in_any_case_and_only_by_its_whole_name() -> None:
    found = shapes.shape_of("QWEN/qwen3-8b")
    assert found is not None
    assert (found.hf, found.weight_gib, found.max_context) == ("Qwen/Qwen3-8B", 15.26, 40960)
    assert shapes.shape_of("Qwen3-8B") is None
    assert shapes.shape_of("Qwen/Qwen3-8") is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Qwen/Qwen3-8b-", "Qwen/Qwen3-8B"),
        ("openai/gpt-os-20b", "openai/gpt-oss-20b"),
        ("gpt-oss-20b", "openai/gpt-oss-20b"),
        ("gemma-4-26B-A4B", "google/gemma-4-26B-A4B-it"),
        ("meta-lama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct"),
    ],
)
def test_near_names_come_closest_first(typed: str, meant: str) -> None:
    assert shapes.near(typed)[0] == meant
    assert len(shapes.near(typed, 2)) <= 2


def test_nothing_is_near_a_name_that_resembles_none() -> None:
    assert shapes.near("zzz/qqqqqq") == []
