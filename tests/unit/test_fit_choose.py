"""Which GPU is taken, and what is said where none will do."""

from __future__ import annotations

from typing import Any

import pytest

from gpuserve.catalog.choose import Choice, base_name, choose, does_not_fit, siblings
from gpuserve.catalog.shapes import gpus, shape_of, shapes

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


def choice(model: str, engine: str = "vllm", **options: Any) -> Choice:
    shape = shape_of(model)
    assert shape is not None
    return choose(shape, engine, **options)


def test_without_prices_the_guides_types_come_first_then_the_rest_by_memory() -> None:
    names = [option.gpu for option in choice("openai/gpt-oss-20b").options]
    assert names[:2] == ["H100", "RTX-PRO-6000"]
    memory = {spec.name: spec.memory_mib for spec in gpus()}
    assert names[2:] == sorted(names[2:], key=memory.__getitem__)
    assert "MI355X" not in names, "the stock images don't run there"


def test_with_prices_the_cheapest_that_fits_comes_first() -> None:
    prices = {"H100": 3.0, "RTX-4090": 0.5, "RTX-5090": 0.9, "H200": 4.0}
    assert choice("openai/gpt-oss-20b", prices=prices).types[:2] == ("RTX-4090", "RTX-5090")
    # The 4090 is cheapest but too small.
    assert choice("Qwen/Qwen3-32B", prices=prices).types[0] == "H100"


def test_types_that_are_named_keep_their_order() -> None:
    found = choice("Qwen/Qwen3-8B", types=("H200", "RTX-4090", "H100"))
    assert [option.gpu for option in found.options] == ["H200", "RTX-4090", "H100"]


def test_a_price_counts_for_every_gpu_of_the_sandbox() -> None:
    found = choice(LLAMA, types=("H100", "B200"), prices={"H100": 3.0, "B200": 5.0}, max_count=4)
    assert found.best is not None
    assert (found.best.gpu, found.best.gpu_count) == ("B200", 1)


def test_each_type_takes_the_fewest_gpus_that_do() -> None:
    found = choice(LLAMA, types=("H100", "B200"), max_count=4)
    counts = {option.gpu: option.gpu_count for option in found.options}
    assert counts == {"B200": 1, "H100": 2}
    assert found.options[0].gpu == "B200", "one GPU before several"
    assert found.types == ("B200",), "one request has one number of GPUs"


def test_flags_serve_on_each_type_of_the_request() -> None:
    found = choice("openai/gpt-oss-120b", "sglang", types=("RTX-PRO-6000", "H100"))
    assert found.types == ("RTX-PRO-6000", "H100")
    assert found.options[0].flags == ()
    assert found.flags == ("--mem-fraction-static", "0.93", "--cuda-graph-max-bs", "64")
    assert "PYTORCH_CUDA_ALLOC_CONF" in found.env


def test_what_was_refused_says_why() -> None:
    found = choice(LLAMA, types=("H100", "B200"))
    assert [(fit.gpu, fit.fits) for fit in found.refused] == [("H100", False)]
    assert "79.6 GiB" in found.refused[0].reasons[0]


def test_where_nothing_fits_the_error_names_what_would() -> None:
    found = choice(LLAMA, types=("H100",))
    assert found.options == ()
    error = does_not_fit(found)
    assert error.exit_status == 8
    assert "131" in error.message or "134" in error.message
    assert "--model nvidia/Llama-3.3-70B-Instruct-NVFP4" in error.hint
    assert "--gpu B200" in error.hint
    assert "--gpu H100 --gpu-count 2" in error.hint
    assert "--force" in error.hint


def test_a_sibling_is_named_only_where_it_fits() -> None:
    # NVFP4 would have the room, but SGLang runs it on Blackwell only.
    on_hopper = choice(LLAMA, "sglang", types=("H100",))
    assert [fit.model for fit in on_hopper.siblings] == ["nvidia/Llama-3.3-70B-Instruct-FP8"]
    small = choice(LLAMA, "sglang", types=("RTX-5090",))
    assert small.siblings == ()
    assert small.bigger


def test_a_shorter_context_is_named_where_it_is_what_is_missing() -> None:
    found = choice("Qwen/Qwen3-VL-32B-Instruct", types=("H100",), context=262144)
    assert found.options == ()
    assert found.shorter is not None
    assert f"a context of at most {found.shorter.max_context:,} tokens" in does_not_fit(found).hint


def test_a_model_that_fits_nowhere_gets_only_what_is_true() -> None:
    found = choice("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", types=("RTX-4090",))
    error = does_not_fit(found)
    assert "--gpu-count" in error.hint or not found.more
    assert "RTX-4090" in error.message


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "llama-3.3-70b-instruct"),
        ("Qwen/Qwen3.5-122B-A10B-GPTQ-Int4", "qwen3.5-122b-a10b"),
        ("Qwen/Qwen3-8B-AWQ", "qwen3-8b"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nvidia-nemotron-3-nano-30b-a3b"),
        ("RedHatAI/Qwen3-32B-FP8-dynamic", "qwen3-32b"),
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("google/gemma-4-31B-it", "gemma-4-31b-it"),
    ],
)
def test_base_name_drops_owner_and_storage(model: str, base: str) -> None:
    assert base_name(model) == base


def test_siblings_are_smaller_and_biggest_first() -> None:
    shape = shape_of(LLAMA)
    assert shape is not None
    found = siblings(shape)
    assert [other.hf for other in found] == ["nvidia/Llama-3.3-70B-Instruct-FP8", "nvidia/Llama-3.3-70B-Instruct-NVFP4"]
    for each in shapes():
        assert all(other.weight_gib < each.weight_gib for other in siblings(each))


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_every_model_has_options_or_an_error_in_words(engine: str) -> None:
    for shape in shapes():
        found = choose(shape, engine, max_count=2)
        if found.options:
            assert set(found.types) <= {option.gpu for option in found.options}
            assert len(found.flags) % 2 == 0
        else:
            error = does_not_fit(found)
            assert shape.hf in error.message
            assert error.hint
