"""What a model's ``config.json`` says of its size at run time: context, KV cache, precision.

A configuration that is built in a way not known here gives no shape at all: an unknown size is told, a wrong one
sells a GPU that is too small. Formulas and constants: the study of both engines' sources for vLLM 0.22.1 and
SGLang 0.5.12.post1 (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GIB = 1 << 30
_MOST_LAYERS = 2000
_MOST = 1 << 40  # no figure of a configuration is larger

# A layer keeps "full" keys and values, those of a "window", a constant "state", or "none".
_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "conv": "state",
    "moe": "none",
    "mlp": "none",
}
_LETTERS = {"*": "full", "M": "state", "-": "none", "E": "none"}  # hybrid_override_pattern of Nemotron-H
_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gemma4_text": 6, "cohere2": 4}  # each such layer is a full one
# Layers of different sizes: no single figure is right for them.
_UNEVEN = ("block_configs", "compress_ratios", "hybrid_layer_pattern", "attention_other_setting", "swa_head_dim")
# Only these does SGLang give a smaller pool for window layers, of 0.8 of the full one (its model_config.py).
_SGLANG_WINDOWS = ("GptOss", "Gemma4For", "Llama4For", "Step3p5", "Laguna", "MiMoV2")
_SGLANG_WINDOW_SHARE = 0.8
_SENSES = ("vision_config", "audio_config", "vision_tower_config", "vit_config", "visual")
_INNER = ("text_config", "llm_config", "language_config")


class _Unknown(Exception):
    """The configuration is of a kind that isn't known here."""


@dataclass(frozen=True, slots=True)
class _Cache:
    """Bytes a layer keeps for one token, and what they are made of (0 for latent attention)."""

    full: int
    window: int
    heads: int = 0
    head_dim: int = 0
    window_heads: int = 0
    window_head_dim: int = 0


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that describes the language model: of a multimodal model an inner table, else all of it."""
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, Mapping) and inner:
            return inner
    return config


def max_context(config: Mapping[str, Any]) -> int:
    """The longest context in tokens that the model was made for; 0 if it isn't said."""
    text = text_config(config)
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
    plain = next((found for name in names if (found := count(text.get(name)))), 0)
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, Mapping) or "yarn" not in (rope.get("rope_type"), rope.get("type")):
        return plain
    factor, original = rope.get("factor"), count(rope.get("original_max_position_embeddings"))
    if not isinstance(factor, int | float) or not 1 <= factor <= 1024:
        return plain
    return max(plain, int(factor * original))


def quantization(config: Mapping[str, Any]) -> str:
    """The name of the method by which the weights are quantised, such as "fp8" or "awq"; "" if they aren't."""
    table = _quantization(config)
    method = table.get("quant_method")
    if isinstance(method, str) and method.isascii() and method.isprintable():
        return method.lower()[:40]
    return "mlx" if not table and isinstance(config.get("quantization"), Mapping) else ""


def precision(config: Mapping[str, Any]) -> str:
    """How the weights are stored: "bf16", "fp16", "fp32", "fp8", "mxfp4", "nvfp4", "int8", "int4", or ""."""
    table = _quantization(config)
    if table:
        return _quantized(table)
    text = text_config(config)
    stored = next(
        (each.get(name) for each in (text, config) for name in ("dtype", "torch_dtype") if each.get(name)), ""
    )
    names = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    return names.get(stored, "") if isinstance(stored, str) else ""


def shape_from_config(config: Mapping[str, Any], weight_bytes: int) -> dict[str, Any]:
    """What the configuration says of the fields of ``catalog.shapes.ModelShape``.

    All of that record but ``hf``, ``family``, ``params_b`` and ``active_b``; empty if the weights' size isn't
    known or the layers are built in a way that isn't known here. Weights of 32 bits are counted as the 16 bits
    in which both engines load them by default.
    """
    text = text_config(config)
    try:
        kinds = _layer_kinds(text)
        cache = _cache(text, _kv_bytes(config))
    except _Unknown:
        return {}
    full, windows = kinds.count("full"), kinds.count("window")
    context = max_context(config)
    window = count(text.get("sliding_window")) or count(text.get("attention_chunk_size"))
    if weight_bytes < 1 or not context or not (full or "state" in kinds) or (windows and not window):
        return {}
    return {
        "precision": precision(config),
        "weight_gib": weight_bytes / _GIB / (2 if precision(config) == "fp32" else 1),
        "weight_src": "K",
        "config_src": "C",
        "max_context": context,
        "kv_full_layers": full if cache.heads else 0,
        "kv_heads": cache.heads,
        "head_dim": cache.head_dim,
        "kv_window_layers": windows,
        "kv_window": window if windows else 0,
        "kv_window_heads": cache.window_heads if windows else 0,
        "kv_window_head_dim": cache.window_head_dim if windows else 0,
        "kv_dtype_bytes": _kv_bytes(config),
        "kv_bytes_per_token_vllm": full * cache.full,
        "kv_bytes_per_token_sglang": full * cache.full + int(_sglang_share(config) * windows * cache.window),
        "kv_window_bytes_per_seq_vllm": windows * cache.window * min(window, context),
        "hybrid_state": "state" in kinds,
        "multimodal": any(isinstance(config.get(sense), Mapping) for sense in _SENSES),
    }


def count(value: object) -> int:
    """``value`` as a whole number from 1 to 2**40; 0 for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 1 <= value <= _MOST else 0


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for each in (config, text_config(config)):
        for name in ("quantization_config", "compression_config"):
            table = each.get(name)
            if isinstance(table, Mapping) and table:
                return table
    return {}


def _quantized(table: Mapping[str, Any]) -> str:
    """The precision that a ``quantization_config`` tells, whichever of the common tools wrote it."""
    said = " ".join(str(table.get(name, "")) for name in ("quant_method", "quant_algo", "format", "fmt")).lower()
    for name in ("mxfp4", "nvfp4"):
        if name in said:
            return name
    groups = table.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    held = weights if isinstance(weights, Mapping) else table
    bits = count(held.get("num_bits")) or count(held.get("bits")) or count(held.get("w_bit"))
    bits = bits or (4 if table.get("load_in_4bit") is True else 8 if table.get("load_in_8bit") is True else 0)
    is_float = "fp8" in said or held.get("type") == "float"
    if is_float:
        return "nvfp4" if bits == 4 else "fp8"
    return f"int{bits}" if bits in (2, 3, 4, 8) else ""


def _kv_bytes(config: Mapping[str, Any]) -> int:
    """Bytes of one number in the KV cache: 2, or 1 where the checkpoint brings scales for 8 bits."""
    table = _quantization(config)
    scheme = table.get("kv_cache_scheme")
    eight = isinstance(scheme, Mapping) and scheme.get("num_bits") == 8
    return 1 if eight or str(table.get("kv_cache_quant_algo", "")).upper() == "FP8" else 2


def _layer_kinds(text: Mapping[str, Any]) -> list[str]:
    """What each layer that has a cache of its own keeps."""
    if any(text.get(name) for name in _UNEVEN):
        raise _Unknown
    names = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    layers = next((found for name in names if (found := count(text.get(name)))), 0)
    if not 1 <= layers <= _MOST_LAYERS:
        raise _Unknown
    kinds = _listed(text, layers) or _hybrid(text, layers) or _windowed(text, layers) or ["full"] * layers
    shared = count(text.get("num_kv_shared_layers"))  # the last layers read the cache of earlier ones
    return kinds[: max(1, layers - shared)]


def _listed(text: Mapping[str, Any], layers: int) -> list[str]:
    """From a list that names each layer; empty if there is none."""
    named = text.get("layer_types") or text.get("layers_block_type")
    letters = text.get("hybrid_override_pattern")
    if named is None and isinstance(letters, str):
        return _all_known([_LETTERS.get(letter) for letter in letters], layers)
    if not isinstance(named, list) or not named:
        return []
    return _all_known([_KINDS.get(name) if isinstance(name, str) else None for name in named], layers)


def _all_known(kinds: Sequence[str | None], layers: int) -> list[str]:
    known = [kind for kind in kinds[:layers] if kind]
    if len(known) != layers:
        raise _Unknown
    return known


def _hybrid(text: Mapping[str, Any], layers: int) -> list[str]:
    """From the numbers of those layers that attend among others that keep a state; empty if nothing says so."""
    linear = text.get("linear_attn_config")
    among = linear.get("full_attn_layers") if isinstance(linear, Mapping) else None
    among = among or text.get("attn_layer_indices") or text.get("full_attn_idxs")
    if isinstance(among, list):
        return ["full"] * min(len(among), layers) + ["state"] * (layers - min(len(among), layers))
    flags = text.get("attn_type_list")
    if isinstance(flags, list):
        return _all_known([{1: "full", 0: "state"}.get(flag) if type(flag) is int else None for flag in flags], layers)
    if every := count(text.get("full_attention_interval")):
        return ["full" if (layer + 1) % every == 0 else "state" for layer in range(layers)]
    if every := count(text.get("attn_layer_period")):
        offset = count(text.get("attn_layer_offset"))
        return ["full" if layer % every == offset else "state" for layer in range(layers)]
    if any(name.startswith(("mamba_", "ssm_", "linear_num_")) for name in text):
        raise _Unknown
    return []


def _windowed(text: Mapping[str, Any], layers: int) -> list[str]:
    """From a rule for which layers slide over a window; empty if there is none."""
    if count(text.get("attention_chunk_size")) and str(text.get("model_type", "")).startswith("llama4"):
        every = count(text.get("no_rope_layer_interval")) or 4
    elif not count(text.get("sliding_window")) or text.get("use_sliding_window") is False:
        return []
    else:
        said = count(text.get("sliding_window_pattern")) or count(text.get("_sliding_window_pattern"))
        every = said or _EVERY.get(str(text.get("model_type")), 0)
    return ["full" if (layer + 1) % every == 0 else "window" for layer in range(layers)] if every else []


def _cache(text: Mapping[str, Any], number: int) -> _Cache:
    """What a layer keeps for a token, with ``number`` bytes for a number."""
    latent, rope = count(text.get("kv_lora_rank")), count(text.get("qk_rope_head_dim"))
    if latent and rope:
        index = count(text.get("index_head_dim"))  # sparse attention: a key of 8 bits and its scale beside
        return _Cache(full=(latent + rope) * number + (index + 4 if index else 0), window=0)
    heads = count(text.get("num_attention_heads")) or count(text.get("n_head"))
    hidden = count(text.get("hidden_size")) or count(text.get("n_embd"))
    defaults = not str(text.get("model_type", "")).startswith("gemma")  # Gemma's classes have defaults of their own
    one = 1 if text.get("multi_query") is True else 0
    kv = _kv_heads(text) or one or (heads if defaults and "num_key_value_heads" not in text else 0)
    width = count(text.get("head_dim")) or (hidden // heads if heads and defaults else 0)
    if not kv or not width:
        raise _Unknown
    wide = count(text.get("global_head_dim")) or width
    few = count(text.get("num_global_key_value_heads")) or kv
    return _Cache(
        full=2 * few * wide * number,
        window=2 * kv * width * number,
        heads=few,
        head_dim=wide,
        window_heads=kv,
        window_head_dim=width,
    )


def _kv_heads(text: Mapping[str, Any]) -> int:
    names = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "num_attention_groups")
    return next((found for name in names if (found := count(text.get(name)))), 0)


def _sglang_share(config: Mapping[str, Any]) -> float:
    """The size of SGLang's pool for window layers, as a share of the full one."""
    listed = config.get("architectures")
    named = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    return _SGLANG_WINDOW_SHARE if any(name.startswith(_SGLANG_WINDOWS) for name in named) else 1.0
