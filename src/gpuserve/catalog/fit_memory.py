"""What the arithmetic of all engines shares: what is asked of a GPU, and how its memory then divides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gpuserve.catalog.facts import GIB, GpuSpec, ModelShape

#: The shortest context, in tokens, that a chat model is worth serving with.
LEAST_CONTEXT = 8192

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A model on ``count`` GPUs of one type, and what it is to hold there.

    ``weight_gib`` is the size of the weight files. ``context`` is the context asked for in tokens, None if none was;
    ``sequences`` the requests that are to fit at once; ``fraction`` the share of the memory that the user gives the
    engine, None if the engine or gpuserve decides.
    """

    shape: ModelShape
    gpu: GpuSpec
    count: int
    weight_gib: float
    context: int | None = None
    sequences: int = 1
    fraction: float | None = None

    @property
    def least(self) -> int:
        """The context in tokens without which the model doesn't count as fitting."""
        return self.context or min(LEAST_CONTEXT, self.shape.max_context)

    @property
    def kv_share(self) -> float:
        """The part of a token's KV cache that each GPU holds: KV heads are divided among GPUs, never split."""
        return 1 / min(self.count, max(self.shape.kv_heads, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """How the memory of one sandbox divides, all its GPUs together.

    ``room_gib`` is what is left for the KV cache, below zero where the weights alone don't fit. A sequence costs
    ``token_bytes`` for every token (above zero: a model without attention counts one byte), and ``window_bytes`` for
    each of its first ``window_tokens`` (the layers with a sliding window). ``fraction`` is the share of the memory that
    the engine takes.
    """

    weights_gib: float
    room_gib: float
    token_bytes: float
    window_bytes: float = 0.0
    window_tokens: int = 0
    fraction: float = 1.0
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    reasons: tuple[str, ...] = ()

    @property
    def left(self) -> str:
        """The room in words: GiB, or nothing."""
        return f"{self.room_gib:.1f} GiB" if self.room_gib > 0 else "nothing"

    def cost(self, context: int) -> float:
        """Bytes of KV cache of one sequence of ``context`` tokens."""
        return self.token_bytes * context + self.window_bytes * min(context, self.window_tokens)

    def holds(self, context: int) -> float:
        """How many sequences of ``context`` tokens the KV cache holds at once; 0.0 where there is none."""
        return max(self.room_gib, 0.0) * GIB / self.cost(context)

    def longest(self, sequences: int) -> int:
        """The longest context in tokens of which ``sequences`` fit at once; the model's own limit is not regarded."""
        budget = max(self.room_gib, 0.0) * GIB / sequences
        beyond = (budget - self.window_bytes * self.window_tokens) / self.token_bytes
        within = budget / (self.token_bytes + self.window_bytes)
        return int(beyond if beyond >= self.window_tokens else within)

    def margin_gib(self, context: int, sequences: int) -> float:
        """GiB left over once ``sequences`` of ``context`` tokens are held; below zero: what is missing."""
        return self.room_gib - sequences * self.cost(context) / GIB
