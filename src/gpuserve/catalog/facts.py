"""The nouns of the catalogue: a GPU, a model's size, a family of models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gpuserve.records import ModelFacts

#: Bytes in a GiB.
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """A GPU type, named as the platform names it.

    ``memory_mib`` is what nvidia-smi reports as total. The two fractions are the ``--mem-fraction-static`` that
    SGLang 0.5.12.post1 chooses by itself on this GPU, for text and for multimodal models; None where it isn't known.
    """

    name: str
    memory_mib: int
    arch: str
    sglang_fraction: float | None = None
    sglang_fraction_multimodal: float | None = None
    note: str = ""
    source: str = ""
    confidence: str = ""

    @property
    def memory_gib(self) -> float:
        """The total memory in GiB."""
        return self.memory_mib / 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What one model needs: the bytes of its weights, and of a token in the KV cache.

    ``weight_src`` says how ``weight_gib`` is known: "K" exact file sizes of the Hub, "P" parameters times bytes,
    "R" from a recipe's figure or a logged load, "I" estimated. ``config_src``: "C" from the model's configuration,
    "I" inferred. ``kv_full_layers``, ``kv_heads`` and ``head_dim`` are 0 where the cache isn't built that way
    (latent attention, layers that differ); then the bytes per token stand for themselves. Sliding-window layers cost
    vLLM ``kv_window_bytes_per_seq_vllm`` once a sequence; SGLang's part for them is in its bytes per token.
    """

    hf: str
    family: str
    params_b: float
    active_b: float
    precision: str
    weight_gib: float
    weight_src: str
    max_context: int
    kv_bytes_per_token_vllm: int
    kv_bytes_per_token_sglang: int
    config_src: str
    kv_full_layers: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    kv_window_layers: int = 0
    kv_window: int = 0
    kv_window_heads: int = 0
    kv_window_head_dim: int = 0
    kv_dtype_bytes: int = 2
    kv_window_bytes_per_seq_vllm: int = 0
    hybrid_state: bool = False
    multimodal: bool = False
    note: str = ""
    source: str = ""
    confidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFacts:
    """Models of one kind, and what each engine, by name, wants for them.

    ``gated`` is "yes", "no", "varies" or "unknown": a hint, since only the Hub knows. ``reasoning_default`` is "on",
    "off", "always" (it can't be switched off) or "none" (the model doesn't reason). ``thinking_variable`` is the
    variable of its chat template that switches reasoning, ``efforts`` what is sent for low, medium and high where it
    has levels (as a number of tokens in ``budget_variable`` where that is named). ``sampling`` is what the model's
    makers advise; engines read it from the model's own files, so it is never passed as flags. ``owners`` are the
    accounts on the Hub whose repositories of this family are the originals, and ``owner_flags`` the flags, by engine,
    that hold for those only: a copy by somebody else may lack the files that they ask for.
    """

    id: str
    match: re.Pattern[str]
    confidence: str
    sources: tuple[str, ...]
    engines: Mapping[str, ModelFacts] = field(default_factory=lambda: MappingProxyType({}))
    archs: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    owner_flags: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    gated: str = "unknown"
    single_gpu: bool = True
    reasoning_default: str = "none"
    thinking_variable: str = ""
    budget_variable: str = ""
    efforts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    sampling: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where the row is from and how far it is to be trusted, in one text."""
        return f"{'; '.join(self.sources)} (confidence: {self.confidence})"

    @property
    def switches(self) -> Mapping[str, str]:
        """How a request switches reasoning, by engine; empty where nothing does."""
        return MappingProxyType({name: facts.switch for name, facts in self.engines.items() if facts.switch})

    def engine(self, name: str) -> ModelFacts:
        """What the engine called ``name`` wants; the family alone where the row says nothing of it."""
        return self.engines.get(name) or ModelFacts(family=self.id, source=self.source, gated=self.gated)

    def owns(self, model: str) -> bool:
        """Whether ``model`` is an ID of one of the family's ``owners``."""
        owner, slash, _ = model.lower().partition("/")
        return bool(owner and slash) and owner in {name.lower() for name in self.owners}
