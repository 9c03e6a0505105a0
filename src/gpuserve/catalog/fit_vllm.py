"""vLLM's memory: a share of the GPU, less weights, activations and CUDA graphs, is KV cache.

Sources: vLLM 0.22.1's own arithmetic (``v1/worker/gpu_worker.py``, ``v1/kv_cache_interface.py``), which measures
activations at start; before that they are estimated with KAITO's constants. The two figures for MXFP4 are calibrated
on logged starts of gpt-oss, which docs/fit.md lists.
"""

from __future__ import annotations

from gpuserve.catalog.fit_memory import Memory, Need

#: The engine's own ``--gpu-memory-utilization``.
DEFAULT_FRACTION = 0.92
#: What vLLM's recipe for gpt-oss advises where the default leaves too little.
RAISED_FRACTION = 0.95
#: The ``--max-num-batched-tokens`` that goes with it.
RAISED_BATCH = 1024
#: GPUs from this size on get the bigger default batch, in MiB (70 GiB).
BIG_GPU_MIB = 70 * 1024
BATCH, BIG_BATCH = 2048, 8192

_LOADED, _LOADED_MXFP4 = 1.02, 1.07
_BASE_GIB = 2.3
_PER_WEIGHT, _PER_WEIGHT_MXFP4 = 0.05, 0.10
_MULTIMODAL_GIB = 1.0
_HYBRID_GIB = 0.3


def memory(need: Need) -> Memory:
    """How vLLM divides the memory; with more of it and smaller batches where its defaults hold too little."""
    if need.fraction is not None:
        return _divide(need, need.fraction, _batch(need), ("--gpu-memory-utilization", f"{need.fraction:g}"))
    plain = _divide(need, DEFAULT_FRACTION, _batch(need))
    if plain.margin_gib(need.least, need.sequences) >= 0:
        return plain
    flags = ("--gpu-memory-utilization", f"{RAISED_FRACTION}", "--max-num-batched-tokens", f"{RAISED_BATCH}")
    reason = (
        f"vLLM's default share of the memory, {DEFAULT_FRACTION:g}, leaves {plain.left} for the KV cache;"
        f" {RAISED_FRACTION:g} and batches of {RAISED_BATCH:,} tokens make the room."
    )
    raised = _divide(need, RAISED_FRACTION, RAISED_BATCH, flags, (reason,))
    return raised if raised.margin_gib(need.least, need.sequences) >= 0 else plain


def _batch(need: Need) -> int:
    return BIG_BATCH if need.gpu.memory_mib >= BIG_GPU_MIB else BATCH


def _divide(
    need: Need, fraction: float, batch: int, flags: tuple[str, ...] = (), reasons: tuple[str, ...] = ()
) -> Memory:
    shape, count = need.shape, need.count
    loaded = need.weight_gib * (_LOADED_MXFP4 if shape.precision == "mxfp4" else _LOADED)
    room = fraction * need.gpu.memory_gib - loaded / count - _overhead_gib(need)
    spread = count * need.kv_share
    window = shape.kv_window_bytes_per_seq_vllm / shape.kv_window if shape.kv_window else 0.0
    return Memory(
        weights_gib=loaded,
        room_gib=room * count,
        token_bytes=max(shape.kv_bytes_per_token_vllm, 1) * spread,
        window_bytes=window * spread,
        # A sequence keeps its window and the batch that is being computed.
        window_tokens=shape.kv_window + batch if shape.kv_window else 0,
        fraction=fraction,
        flags=flags,
        reasons=reasons,
    )


def _overhead_gib(need: Need) -> float:
    """Activations, graphs and whatever else isn't weights, in GiB on each GPU."""
    per_weight = _PER_WEIGHT_MXFP4 if need.shape.precision == "mxfp4" else _PER_WEIGHT
    extras = _MULTIMODAL_GIB * need.shape.multimodal + _HYBRID_GIB * need.shape.hybrid_state
    return _BASE_GIB + per_weight * need.weight_gib / need.count + extras
