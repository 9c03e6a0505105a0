"""SGLang's memory: a static share of the GPU holds weights and KV cache; activations and graphs get the rest.

Sources: SGLang 0.5.12.post1 (``srt/server_args.py``, ``srt/model_executor/model_runner_kv_cache_mixin.py``). The
weights of MXFP4 models grow when they are loaded: calibrated on the guide's figures for gpt-oss on an H100.
"""

from __future__ import annotations

from dataclasses import replace

from gpuserve.catalog.facts import GpuSpec, ModelShape
from gpuserve.catalog.fit_memory import Memory, Need

#: The guide's ``--mem-fraction-static`` for gpt-oss-120b on an H100, and the graphs' cap that goes with it.
RAISED_FRACTION = 0.93
RAISED_GRAPHS = 64
#: For a multimodal model the vision part works outside the static share and wants more of it.
RAISED_FRACTION_MULTIMODAL = 0.90
#: What the raised share must leave free on a GPU, in GiB: what the guide's settings leave on an H100, in round
#: numbers. Smaller GPUs keep SGLang's own share.
_LEAVE_GIB, _LEAVE_MULTIMODAL_GIB = 5.5, 7.5
#: The allocator setting that keeps converting the weights from failing by fragmentation (the guide's).
ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
#: From which share of a GPU on converted weights want that setting: the guide needs it at 0.85.
_CROWDED = 0.75

_LOADED_MXFP4 = 1.11
#: GiB that CUDA takes before the weights; with several GPUs their communication takes more (logs: 2.5 to 3.1).
_CONTEXT_GIB, _CONTEXT_PARALLEL_GIB = 0.6, 2.8
_HYBRID_DIVISOR = 1.9
#: MiB for piecewise graphs; the published fractions imply it.
_PIECEWISE_MIB = 424
#: What SGLang takes off for the vision part depends on its size; this is the middle, as in the published fractions.
_MULTIMODAL_FACTOR = 0.925


def memory(need: Need) -> Memory:
    """How SGLang divides the memory; with a bigger static share and fewer graphs where its own holds too little."""
    if need.fraction is not None:
        return _divide(need, need.fraction, ("--mem-fraction-static", f"{need.fraction:g}"))
    own, ceiling = own_fraction(need), _ceiling(need)
    plain = _divide(need, own)
    if plain.margin_gib(need.least, need.sequences) >= 0 or ceiling <= own:
        return plain
    flags = ("--mem-fraction-static", f"{ceiling:g}", "--cuda-graph-max-bs", f"{RAISED_GRAPHS}")
    reason = (
        f"SGLang's own static share, {own:g}, leaves {plain.left} for the KV cache; {ceiling:g} makes the room, and"
        f" graphs for at most {RAISED_GRAPHS} requests fit into what then remains."
    )
    raised = _divide(need, ceiling, flags, (reason,))
    return raised if raised.margin_gib(need.least, need.sequences) >= 0 else plain


def own_fraction(need: Need) -> float:
    """The ``--mem-fraction-static`` that SGLang chooses by itself, for this many GPUs."""
    gpu, shape = need.gpu, need.shape
    known = gpu.sglang_fraction_multimodal if shape.multimodal else gpu.sglang_fraction
    # Each further GPU makes SGLang hold back another eighth of a GiB on every one.
    further = (need.count - 1) * 128 + (_graphs(gpu, need.count) - _graphs(gpu, 1)) * 2
    fraction = known if known is not None else _computed(gpu, shape)
    return round(fraction - further / gpu.memory_mib, 3)


def _computed(gpu: GpuSpec, shape: ModelShape) -> float:
    chunk = _by_size(gpu, 2048, 4096, 8192, 16384)
    held = 512 + 1.5 * chunk + 2 * _graphs(gpu, 1) + 128
    if shape.multimodal:
        return _MULTIMODAL_FACTOR * (gpu.memory_mib - _at_least(gpu, held)) / gpu.memory_mib
    return (gpu.memory_mib - _at_least(gpu, held + _PIECEWISE_MIB)) / gpu.memory_mib


def _at_least(gpu: GpuSpec, held: float) -> float:
    return max(held, 10240.0) if gpu.memory_mib > 60 * 1024 else held


def _graphs(gpu: GpuSpec, count: int) -> int:
    """The biggest batch that SGLang captures graphs for by itself."""
    return _by_size(gpu, 24, 32, 256, 512) if count < 4 else _by_size(gpu, 80, 160, 512, 512)


def _by_size(gpu: GpuSpec, under_35: int, under_60: int, under_160: int, above: int) -> int:
    steps = ((35 * 1024, under_35), (60 * 1024, under_60), (160 * 1024, under_160))
    return next((value for limit, value in steps if gpu.memory_mib < limit), above)


def _ceiling(need: Need) -> float:
    """The biggest static share that gpuserve asks for by itself."""
    if need.shape.multimodal:
        most, leave = RAISED_FRACTION_MULTIMODAL, _LEAVE_MULTIMODAL_GIB
    else:
        most, leave = RAISED_FRACTION, _LEAVE_GIB
    return round(min(most, 1 - leave / need.gpu.memory_gib), 2)


def _divide(need: Need, fraction: float, flags: tuple[str, ...] = (), reasons: tuple[str, ...] = ()) -> Memory:
    shape, count = need.shape, need.count
    converted = shape.precision == "mxfp4"
    loaded = need.weight_gib * (_LOADED_MXFP4 if converted else 1.0)
    context = _CONTEXT_GIB if count == 1 else _CONTEXT_PARALLEL_GIB
    room = fraction * (need.gpu.memory_gib - context) - loaded / count
    if shape.hybrid_state and room > 0:
        room /= _HYBRID_DIVISOR
    divided = Memory(
        weights_gib=loaded,
        room_gib=room * count,
        token_bytes=max(shape.kv_bytes_per_token_sglang, 1) * count * need.kv_share,
        fraction=fraction,
        flags=flags,
        reasons=reasons,
    )
    if not converted or loaded / count < _CROWDED * need.gpu.memory_gib:
        return divided
    reason = (
        f"The MXFP4 weights take {loaded / count / need.gpu.memory_gib:.0%} of the memory while they are converted;"
        " the allocator setting keeps that from failing by fragmentation."
    )
    return replace(divided, env=ALLOCATOR, reasons=(*reasons, reason))
