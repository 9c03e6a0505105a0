"""Sizes from configurations and file lists, each against figures that are known from elsewhere."""

import json
from typing import Any

import pytest

from gpuserve.catalog.hubfiles import Index, pick_quant, weigh
from gpuserve.catalog.hubshape import max_context, precision, quantization, shape_from_config

GIB = 1 << 30
PLAIN = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 40960}


def sliding(pattern: str, times: int) -> list[str]:
    return [
        {"f": "full_attention", "s": "sliding_attention", "l": "linear_attention"}[each] for each in pattern
    ] * times


# Each: the parts of the model's config.json that matter, and the figures of the study of both engines (recipes.toml,
# config_src C): full layers, KV heads, head size, bytes per token on vLLM and on SGLang, window bytes per sequence.
KNOWN: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "openai/gpt-oss-20b": (
        {
            "architectures": ["GptOssForCausalLM"],
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
            "max_position_embeddings": 131072,
            "layer_types": sliding("sf", 12),
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
            "quantization_config": {"quant_method": "mxfp4"},
        },
        (12, 8, 64, 24576, 44236, 3145728),
    ),
    "google/gemma-4-26B-A4B-it": (
        {
            "architectures": ["Gemma4ForConditionalGeneration"],
            "vision_config": {"hidden_size": 1},
            "text_config": {
                "model_type": "gemma4_text",
                "num_hidden_layers": 30,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "num_global_key_value_heads": 2,
                "head_dim": 256,
                "global_head_dim": 512,
                "sliding_window": 1024,
                "max_position_embeddings": 262144,
                "layer_types": sliding("sssssf", 5),
            },
        },
        (5, 2, 512, 20480, 184320, 209715200),
    ),
    "google/gemma-3-27b-it": (
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "vision_config": {"hidden_size": 1},
            "text_config": {
                "model_type": "gemma3_text",
                "num_hidden_layers": 62,
                "num_attention_heads": 32,
                "num_key_value_heads": 16,
                "head_dim": 128,
                "sliding_window": 1024,
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            },
        },
        (10, 16, 128, 81920, 507904, 436207616),
    ),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": (
        {
            "architectures": ["Qwen3NextForCausalLM"],
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "full_attention_interval": 4,
            "linear_num_value_heads": 32,
            "max_position_embeddings": 262144,
        },
        (12, 2, 256, 24576, 24576, 0),
    ),
    "moonshotai/Kimi-Linear-48B-A3B-Instruct": (
        {
            "architectures": ["KimiLinearForCausalLM"],
            "num_hidden_layers": 27,
            "num_attention_heads": 32,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "kda_layers": [1]},
            "max_position_embeddings": 1048576,
        },
        (0, 0, 0, 8064, 8064, 0),
    ),
    "zai-org/GLM-4.7-Flash": (
        {
            "architectures": ["Glm4MoeLiteForCausalLM"],
            "num_hidden_layers": 47,
            "num_attention_heads": 20,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "max_position_embeddings": 202752,
        },
        (0, 0, 0, 54144, 54144, 0),
    ),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": (
        {
            "architectures": ["Llama4ForConditionalGeneration"],
            "vision_config": {"hidden_size": 1},
            "text_config": {
                "model_type": "llama4_text",
                "num_hidden_layers": 48,
                "num_attention_heads": 40,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "attention_chunk_size": 8192,
                "max_position_embeddings": 10485760,
            },
        },
        (12, 8, 128, 49152, 167116, 1207959552),
    ),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8": (
        {
            "architectures": ["NemotronHForCausalLM"],
            "num_hidden_layers": 52,
            "num_attention_heads": 32,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
            "max_position_embeddings": 262144,
            "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        },
        (6, 2, 128, 3072, 3072, 0),
    ),
    "allenai/Olmo-3-32B-Think": (
        {
            "architectures": ["Olmo3ForCausalLM"],
            "num_hidden_layers": 64,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "hidden_size": 5120,
            "sliding_window": 4096,
            "max_position_embeddings": 65536,
            "layer_types": sliding("sssf", 16),
        },
        (16, 8, 128, 65536, 262144, 805306368),
    ),
    "CohereLabs/c4ai-command-r7b-12-2024": (
        {
            "architectures": ["Cohere2ForCausalLM"],
            "model_type": "cohere2",
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_position_embeddings": 131072,
        },
        (8, 8, 128, 32768, 131072, 402653184),
    ),
    "Qwen/Qwen2.5-7B-Instruct": (
        {
            "architectures": ["Qwen2ForCausalLM"],
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "hidden_size": 3584,
            "use_sliding_window": False,
            "sliding_window": 131072,
            "max_position_embeddings": 32768,
        },
        (28, 4, 128, 57344, 57344, 0),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_models(name: str) -> None:
    config, figures = KNOWN[name]
    shape = shape_from_config(config, 10 * GIB)
    kept = ("kv_full_layers", "kv_heads", "head_dim", "kv_bytes_per_token_vllm", "kv_bytes_per_token_sglang")
    assert tuple(shape[each] for each in (*kept, "kv_window_bytes_per_seq_vllm")) == figures
    inner = config.get("text_config", config)
    assert shape["max_context"] == inner["max_position_embeddings"]
    assert shape["multimodal"] == ("vision_config" in config)
    assert shape["hybrid_state"] == any(part in name for part in ("Next", "Kimi", "Nemotron"))


@pytest.mark.parametrize("name", KNOWN)
def test_the_catalogue_says_the_same(name: str) -> None:
    """So that a model's figures don't jump when the Hub is asked."""
    from gpuserve.catalog.shapes import shape_of

    row = shape_of(name)
    if row is None:
        pytest.skip("no row of its own")
    shape = shape_from_config(KNOWN[name][0], 10 * GIB)
    for field in ("max_context", "kv_bytes_per_token_vllm", "kv_bytes_per_token_sglang", "hybrid_state", "multimodal"):
        assert shape[field] == getattr(row, field), field


def test_a_shape_fits_the_catalogues_record() -> None:
    from gpuserve.catalog.shapes import ModelShape

    shape = shape_from_config({**PLAIN, "head_dim": 128, "torch_dtype": "bfloat16"}, 10 * GIB)
    made = ModelShape(hf="a/b", family="", params_b=1, active_b=1, **shape)
    assert (made.weight_gib, made.precision, made.weight_src) == (10, "bf16", "K")


def test_thirty_two_bits_are_loaded_as_sixteen() -> None:
    shape = shape_from_config({**PLAIN, "head_dim": 128, "torch_dtype": "float32"}, 10 * GIB)
    assert shape["weight_gib"] == 5


@pytest.mark.parametrize(
    "odd",
    [
        {"num_hidden_layers": None},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": True},
        {"num_key_value_heads": [1, 2]},
        {"head_dim": None, "num_attention_heads": None},
        {"layer_types": ["full_attention"] * 3},
        {"layer_types": ["telepathy"] * 36},
        {"layer_types": [["full_attention"]] * 36},
        {"layer_types": ["sliding_attention", "full_attention"] * 18},
        {"block_configs": [{}]},
        {"mamba_d_state": 16},
        {"max_position_embeddings": None},
        {"model_type": "gemma3", "num_key_value_heads": None},
    ],
)
def test_what_is_not_understood_gives_no_figure(odd: dict[str, object]) -> None:
    assert shape_from_config({**PLAIN, "head_dim": 128}, GIB)
    assert shape_from_config({**PLAIN, "head_dim": 128, **odd}, GIB) == {}


def test_no_size_no_shape() -> None:
    assert shape_from_config({**PLAIN, "head_dim": 128}, 0) == {}


@pytest.mark.parametrize(
    ("config", "method", "bits"),
    [
        ({"torch_dtype": "bfloat16"}, "", "bf16"),
        ({"text_config": {"dtype": "float16"}}, "", "fp16"),
        ({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}, "fp8", "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4", "mxfp4"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq", "int4"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "gptq", "int8"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes", "int4"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "modelopt", "nvfp4"),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
                }
            },
            "compressed-tensors",
            "fp8",
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
                }
            },
            "compressed-tensors",
            "int4",
        ),
        ({"quantization": {"group_size": 64, "bits": 4}}, "mlx", ""),
        ({"quantization_config": 3}, "", ""),
    ],
)
def test_how_weights_are_stored(config: dict[str, object], method: str, bits: str) -> None:
    assert (quantization(config), precision(config)) == (method, bits)


def test_a_context_stretched_by_yarn() -> None:
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert max_context({"max_position_embeddings": 40960, "rope_scaling": rope}) == 131072
    assert max_context({"max_position_embeddings": 40960, "rope_scaling": {**rope, "factor": float("nan")}}) == 40960
    assert max_context({"max_position_embeddings": 163840, "rope_scaling": {**rope, "type": "llama3"}}) == 163840


def test_copies_are_not_counted_twice() -> None:
    files = {
        "model-00001-of-00002.safetensors": 600,
        "model-00002-of-00002.safetensors": 400,
        "original/model-00001-of-00001.safetensors": 1000,
        "consolidated.safetensors": 1000,
        "metal/model.bin": 1000,
        "adapter_model.safetensors": 7,
    }
    index = Index(total_size=999, files=frozenset(list(files)[:2]))
    assert weigh(files, index).safetensors == 999
    assert weigh(files, None).safetensors == 1000
    assert weigh(files, None).formats == ("safetensors",)


def test_an_index_of_other_weights_is_not_believed() -> None:
    names = frozenset({"a.safetensors", "b.safetensors"})
    files = dict.fromkeys(names, 10 * GIB)
    assert weigh(files, Index(total_size=70 * GIB, files=names)).safetensors == 20 * GIB
    assert weigh(files, Index(files=names)).safetensors == 20 * GIB


def test_an_index_that_names_what_is_not_there() -> None:
    found = weigh({"a.safetensors": 10}, Index(total_size=20, files=frozenset({"a.safetensors", "b.safetensors"})))
    assert (found.safetensors, found.missing) == (20, ("b.safetensors",))


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"model.safetensors": 5, "model.fp16.safetensors": 3}, 5),
        ({"consolidated.00.safetensors": 5, "consolidated.01.safetensors": 6}, 11),
        ({"weights-a.safetensors": 5, "weights-b.safetensors": 6}, 11),
        ({"weights-a.safetensors": 5, "original/weights-b.safetensors": 6}, 5),
        ({"model-00001-of-00002.safetensors": 5, "model-00002-of-00002.safetensors": 0}, 0),
    ],
)
def test_weights_without_an_index(files: dict[str, int], size: int) -> None:
    assert weigh(files, None).safetensors == size


def test_the_parts_of_a_pipeline_are_no_model() -> None:
    assert weigh({"unet/model.safetensors": 5, "vae/model.safetensors": 6}, None).formats == ()


def test_pickles() -> None:
    files = {"pytorch_model-00001-of-00002.bin": 5, "pytorch_model-00002-of-00002.bin": 6, "training_args.bin": 1}
    assert (weigh(files, None).formats, weigh(files, None).pytorch) == (("pytorch",), 11)
    assert weigh({"training_args.bin": 1, "optimizer.pt": 4}, None).formats == ()


def test_quantisations_by_name() -> None:
    files = {
        "Qwen3-8B-Q4_K_M.gguf": 40,
        "qwen3-8b-q8_0.gguf": 80,
        "Qwen3-8B-UD-IQ2_XXS.gguf": 20,
        "BF16/Qwen3-8B-BF16-00001-of-00002.gguf": 100,
        "BF16/Qwen3-8B-BF16-00002-of-00002.gguf": 60,
        "Q6_K/Qwen3-8B-00001-of-00001.gguf": 60,
        "gpt-oss-20b-mxfp4.gguf": 12,
        "model.i1-Q5_K_S.gguf": 50,
        "mmproj-F16.gguf": 1,
        "imatrix.gguf": 1,
    }
    assert weigh(files, None).gguf == {
        "Q4_K_M": 40, "Q8_0": 80, "UD-IQ2_XXS": 20, "BF16": 160, "Q6_K": 60, "MXFP4": 12, "Q5_K_S": 50,
    }  # fmt: skip


def test_the_same_quantisation_of_two_models_counts_once() -> None:
    assert weigh({"a-Q4_0.gguf": 4, "b-Q4_0.gguf": 5}, None).gguf == {"Q4_0": 4}


def test_which_quantisation_is_taken() -> None:
    assert pick_quant({"Q8_0": 1, "Q4_K_M": 1}, "") == "Q4_K_M"
    assert pick_quant({"Q8_0": 1, "Q6_K": 1}, "") == "Q8_0"
    assert pick_quant({"UD-Q4_K_XL": 1}, "q4_k_xl") == "UD-Q4_K_XL"
    assert pick_quant({"Q8_0": 1}, "Q2_K") == ""
    assert pick_quant({}, "") == ""


def test_configurations_are_json() -> None:
    assert all(json.loads(json.dumps(config)) == config for config, _ in KNOWN.values())
