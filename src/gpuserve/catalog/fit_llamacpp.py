"""llama.cpp's memory: all of the GPU but a margin, less weights and compute buffers, is KV cache.

Sources: build b11549's own defaults (a margin of 1 GiB, a KV cache of 16 bit) and published memory breakdowns, whose
compute buffers are 1.0 to 1.9 GiB. What doesn't fit is computed on the CPU: it serves, but slowly; so "fits" means
wholly on the GPU.
"""

from __future__ import annotations

from gpuserve.catalog.facts import ModelShape
from gpuserve.catalog.fit_memory import Memory, Need

#: Bits a weight in Q4_K_M, what llama-server takes from a repository that offers several.
_Q4_K_M_BITS = 4.85
_MARGIN_GIB = 1.0
_CONTEXT_GIB = 0.5
_COMPUTE_GIB = 1.5
#: Sequences that llama-server keeps apart, and the tokens that it computes at once.
_SLOTS, _BATCH = 4, 512


def memory(need: Need) -> Memory:
    """How llama.cpp divides the memory; GPUs add up, since layers are dealt out among them."""
    shape = need.shape
    held = need.count * (_MARGIN_GIB + _CONTEXT_GIB + _COMPUTE_GIB)
    window = shape.kv_window_bytes_per_seq_vllm / shape.kv_window if shape.kv_window else 0.0
    return Memory(
        weights_gib=need.weight_gib,
        room_gib=need.count * need.gpu.memory_gib - need.weight_gib - held,
        token_bytes=max(shape.kv_bytes_per_token_vllm, 1) * 2 / shape.kv_dtype_bytes,
        window_bytes=window * 2 / shape.kv_dtype_bytes,
        window_tokens=_SLOTS * shape.kv_window + _BATCH if shape.kv_window else 0,
    )


def guessed_gib(shape: ModelShape) -> float:
    """The size of a GGUF file of ``shape``, in GiB, when nobody has asked for it: Q4_K_M, or as released if smaller."""
    q4 = shape.params_b * 1e9 * _Q4_K_M_BITS / 8 / 2**30
    return min(q4, shape.weight_gib)
