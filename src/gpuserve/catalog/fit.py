"""Will the model fit, and with how much room: estimated before anything is paid for.

The arithmetic of each engine is in a module of its own; docs/fit.md shows it beside published figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gpuserve.catalog import fit_llamacpp, fit_sglang, fit_vllm
from gpuserve.catalog.facts import GpuSpec, ModelShape
from gpuserve.catalog.fit_memory import LEAST_CONTEXT, Memory, Need
from gpuserve.errors import UsageError

#: With less KV room than this, in GiB on each GPU, a fit counts as tight: the estimate is no better than that.
TIGHT_GIB = 4.0

#: The flags with which engines spread a model over several GPUs as tensor parallel.
PARALLEL: Mapping[str, str] = MappingProxyType({"vllm": "--tensor-parallel-size", "sglang": "--tp-size"})

#: From what the weights' size is known (ModelShape.weight_src, "exact" for bytes read from the Hub) to confidence.
_WEIGHTS = {"exact": 3, "K": 2, "P": 2, "R": 1, "I": 0}
_WORDS = ("low", "medium", "high", "exact")

_ENGINES: Mapping[str, Callable[[Need], Memory]] = MappingProxyType(
    {"vllm": fit_vllm.memory, "sglang": fit_sglang.memory, "llamacpp": fit_llamacpp.memory}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A model on one kind of sandbox, as estimated. All memory is in GiB, of all its GPUs together.

    ``kv_tokens`` is what the engine will report as the size of its KV cache. ``context`` is the context in tokens that
    is served: the one asked for, or the longest that fits; ``max_context`` the longest that fits, at most the model's
    own. ``concurrency`` is how many requests of that full ``context`` the cache holds at once. ``margin_gib`` is what
    is left beyond the least that counts as fitting: the context asked for, else 8192 tokens; below zero: what is
    missing.

    ``confidence`` is "exact" (bytes from the Hub, known configuration, calibrated arithmetic; still an estimate),
    "high", "medium" or "low". ``flags`` and ``env`` are what the engine needs for the model to fit, ``reasons``
    sentences for a person. ``fraction`` is the share of the GPU that the engine takes.
    """

    model: str
    gpu: str
    engine: str
    gpu_count: int
    weights_gib: float
    kv_room_gib: float
    kv_tokens: int
    context: int
    max_context: int
    concurrency: float
    fits: bool
    tight: bool
    margin_gib: float
    confidence: str
    fraction: float
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    reasons: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The estimate as ``--json`` prints it."""
        return {
            "model": self.model,
            "gpu": self.gpu,
            "engine": self.engine,
            "gpu_count": self.gpu_count,
            "weights_gib": round(self.weights_gib, 2),
            "kv_room_gib": round(self.kv_room_gib, 2),
            "kv_tokens": self.kv_tokens,
            "context": self.context,
            "max_context": self.max_context,
            "concurrency": round(self.concurrency, 2),
            "fits": self.fits,
            "tight": self.tight,
            "margin_gib": round(self.margin_gib, 2),
            "confidence": self.confidence,
            "memory_fraction": self.fraction,
            "flags": list(self.flags),
            "env": dict(self.env),
            "reasons": list(self.reasons),
        }


def estimate(
    shape: ModelShape,
    gpu: GpuSpec,
    engine: str,
    *,
    gpu_count: int = 1,
    context: int | None = None,
    concurrency: int | None = None,
    weight_gib: float | None = None,
    mem_fraction: float | None = None,
) -> Fit:
    """How ``shape`` fits on ``gpu_count`` GPUs under ``engine``, with the engine's defaults where nothing is asked.

    ``context`` is in tokens; ``concurrency`` the requests of full context that are to fit at once; ``weight_gib`` the
    exact size of the weight files, where the Hub told it; ``mem_fraction`` the share of the memory that the engine may
    take.

    Raises:
        UsageError: an engine without arithmetic here, or a figure out of range.
    """
    if engine not in _ENGINES:
        raise UsageError(f"no memory arithmetic for engine {engine!r}", hint="known: " + ", ".join(_ENGINES))
    _check(gpu_count=gpu_count, context=context, concurrency=concurrency)
    if mem_fraction is not None and not 0 < mem_fraction <= 1:
        raise UsageError(f"a memory fraction of {mem_fraction:g} is out of range", hint="use more than 0, up to 1")
    need = Need(
        shape=shape,
        gpu=gpu,
        count=gpu_count,
        weight_gib=_weight_gib(shape, engine, weight_gib),
        context=context,
        sequences=concurrency or 1,
        fraction=mem_fraction,
    )
    memory = _ENGINES[engine](need)
    confidence = _WORDS[_confidence(need, engine, exact=weight_gib is not None)]
    return _fit(need, memory, engine, confidence)


def _check(**figures: int | None) -> None:
    for name, value in figures.items():
        if value is not None and value < 1:
            raise UsageError(f"{name.replace('_', ' ')} {value} is out of range", hint="use a whole number, at least 1")


def _weight_gib(shape: ModelShape, engine: str, exact: float | None) -> float:
    if exact is not None:
        return exact
    return fit_llamacpp.guessed_gib(shape) if engine == "llamacpp" else shape.weight_gib


def _fit(need: Need, memory: Memory, engine: str, confidence: str) -> Fit:
    own = need.shape.max_context
    longest = min(own, memory.longest(need.sequences))
    margin = memory.margin_gib(need.least, need.sequences)
    obstacle = _obstacle(need, engine)
    fits = margin >= 0 and not obstacle
    context = need.context or longest
    served = max(min(context, own), 1)
    concurrency = memory.holds(served)
    tight = fits and memory.room_gib < TIGHT_GIB * need.count
    return Fit(
        model=need.shape.hf,
        gpu=need.gpu.name,
        engine=engine,
        gpu_count=need.count,
        weights_gib=memory.weights_gib,
        kv_room_gib=memory.room_gib,
        kv_tokens=int(concurrency * served),
        context=context,
        max_context=longest,
        concurrency=concurrency,
        fits=fits,
        tight=tight,
        margin_gib=margin,
        confidence=confidence,
        fraction=memory.fraction,
        flags=(*memory.flags, *parallel_flags(engine, need.count), *_context_flags(need, engine, longest))
        if fits
        else (),
        env=memory.env if fits else {},
        reasons=_reasons(need, memory, longest=longest, obstacle=obstacle, tight=tight, fits=fits),
    )


def _obstacle(need: Need, engine: str) -> str:
    """Why the GPU can't run the model whatever its memory; "" if it can."""
    shape, gpu = need.shape, need.gpu
    if need.context is not None and need.context > shape.max_context:
        return f"The model's own context ends at {shape.max_context:,} tokens."
    blackwell = gpu.arch.startswith(("sm10", "sm12"))
    if shape.precision == "nvfp4" and engine == "sglang" and not blackwell:
        return f"SGLang runs NVFP4 weights on Blackwell GPUs only, and {gpu.name} is none."
    return ""


def parallel_flags(engine: str, count: int) -> tuple[str, ...]:
    """The flags that spread a model over ``count`` GPUs; llama.cpp does it by itself."""
    return (PARALLEL[engine], str(count)) if count > 1 and engine in PARALLEL else ()


def _context_flags(need: Need, engine: str, longest: int) -> tuple[str, ...]:
    """The flags that set the context; SGLang starts with a cache smaller than the context, vLLM doesn't."""
    if engine == "llamacpp":
        return ("--ctx-size", str(need.context)) if need.context else ()
    flag = "--max-model-len" if engine == "vllm" else "--context-length"
    if need.context is not None:
        return (flag, str(need.context)) if need.context != need.shape.max_context else ()
    if longest >= need.shape.max_context:
        return ()
    if need.sequences > 1:
        return (flag, str(longest))
    return (flag, "auto") if engine == "vllm" else ()


def _confidence(need: Need, engine: str, *, exact: bool) -> int:
    """The weakest of: what is known of the weights, of the cache's shape, and of the engine on this GPU."""
    shape = need.shape
    weights = _WEIGHTS.get("exact" if exact else shape.weight_src[:1], 0)
    config = 3 if shape.config_src == "C" else 0
    calibrated = 3
    if need.count > 1 or shape.hybrid_state or shape.multimodal:
        calibrated = 1
    if need.gpu.arch.startswith("gfx"):
        calibrated = 0
    if engine == "llamacpp":
        calibrated = 1 if exact else 0
    return min(weights, config, calibrated)


def _reasons(need: Need, memory: Memory, *, longest: int, obstacle: str, tight: bool, fits: bool) -> tuple[str, ...]:
    where = need.gpu.name if need.count == 1 else f"{need.count}x {need.gpu.name}"
    reasons = list(memory.reasons) if fits else []
    if obstacle:
        reasons.append(obstacle)
    elif not fits:
        reasons.append(_shortage(need, memory, where))
    elif longest < (need.context or need.shape.max_context):
        reasons.append(
            f"The model's full context of {need.shape.max_context:,} tokens doesn't fit on {where};"
            f" about {longest:,} tokens do."
        )
    if tight:
        reasons.append(
            f"The room for the KV cache, {memory.room_gib:.1f} GiB, is about what the estimate can be wrong by."
        )
    if need.gpu.note:
        reasons.append(f"{need.gpu.name}: {need.gpu.note}.")
    return tuple(reasons)


def _shortage(need: Need, memory: Memory, where: str) -> str:
    total = need.gpu.memory_gib * need.count
    if memory.weights_gib > total:
        return f"The weights take {memory.weights_gib:.1f} GiB, and {where} has {total:.1f} GiB."
    many = f"{need.sequences} requests of " if need.sequences > 1 else ""
    wanted = need.sequences * memory.cost(need.least) / (1 << 30)
    return (
        f"Of the {total:.1f} GiB of {where}, {memory.weights_gib:.1f} GiB of weights and the engine's own needs leave"
        f" {memory.left} for the KV cache; {many}{need.least:,} tokens take {wanted:.1f} GiB."
    )


__all__ = ["LEAST_CONTEXT", "PARALLEL", "TIGHT_GIB", "Fit", "estimate", "parallel_flags"]
