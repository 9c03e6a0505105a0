"""What the names and sizes of a repository's files say: which formats it has, and how many bytes an engine loads.

Repositories often hold the same weights twice (``original/`` or ``consolidated`` copies beside the shards), so
nothing here sums up whatever ends in ``.safetensors``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
#: What llama.cpp takes when nobody says which (``llama-server --help`` of b11549: else the first file).
DEFAULT_QUANT = "Q4_K_M"

_SHARD = re.compile(r"(?P<group>.+?)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.(?:safetensors|gguf)", re.ASCII)
_PICKLE = re.compile(r"(?:pytorch_model|consolidated|model)[\w.-]*\.(?:bin|pt|pth)", re.ASCII)
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?(?:(?:I?Q|TQ)\d\w*|BF16|FP?16|FP?32|MXFP4\w*|NVFP4)(?![A-Za-z0-9])",
    re.IGNORECASE | re.ASCII,
)
_NO_MODEL = ("mmproj", "imatrix")  # companions of a GGUF model that are no model themselves
# How far an index may be from the sizes of its files: their headers. Beyond that it is the index of other weights.
_SLACK_SHARE, _SLACK_BYTES = 0.02, 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What an index of shards says: the sum of all tensors in bytes (0: not said), and the files that hold them."""

    total_size: int = 0
    files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What can be loaded. Sizes are in bytes, 0 where the Hub doesn't say them.

    ``formats`` are of "safetensors", "gguf", "pytorch" and "adapter"; ``gguf`` gives each quantisation its size;
    ``missing`` are files that an index names and the repository lacks.
    """

    formats: tuple[str, ...] = ()
    safetensors: int = 0
    pytorch: int = 0
    gguf: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    missing: tuple[str, ...] = ()


def weigh(files: Mapping[str, int], index: Index | None) -> Weights:
    """What ``files``, names with sizes in bytes, hold for an engine to load."""
    tensors = {name: size for name, size in files.items() if _is_tensors(name)}
    pickles = {name: size for name, size in files.items() if _PICKLE.fullmatch(name)}
    gguf = _by_quant(files)
    total, missing = _tensors(tensors, index)
    present = {"safetensors": tensors, "gguf": gguf, "pytorch": pickles, "adapter": ADAPTER_CONFIG in files}
    return Weights(
        formats=tuple(name for name, found in present.items() if found),
        safetensors=total,
        pytorch=_sum(pickles.values()),
        gguf=MappingProxyType(gguf),
        missing=missing,
    )


def pick_quant(gguf: Mapping[str, int], asked: str) -> str:
    """The quantisation that llama.cpp takes when ``asked`` for one ("": its default); "" if there is none such."""
    wanted = (asked or DEFAULT_QUANT).upper()
    if wanted in gguf:
        return wanted
    within = next((quant for quant in gguf if wanted in quant), "")
    return within or ("" if asked else next(iter(gguf), ""))


def _is_tensors(name: str) -> bool:
    return name.endswith(".safetensors") and "/" not in name and not name.startswith("adapter_")


def _tensors(tensors: Mapping[str, int], index: Index | None) -> tuple[int, tuple[str, ...]]:
    """The bytes to load, and the files that the index names in vain."""
    if index is None or not index.files:
        return _sum(_chosen(tensors).values()), ()
    missing = tuple(sorted(index.files - tensors.keys()))
    on_disk = 0 if missing else _sum(tensors[name] for name in index.files)
    off = abs(on_disk - index.total_size)
    agrees = off <= max(_SLACK_BYTES, _SLACK_SHARE * on_disk)
    return (index.total_size if index.total_size and (agrees or not on_disk) else on_disk), missing


def _chosen(tensors: Mapping[str, int]) -> Mapping[str, int]:
    """One copy of the weights: the single file, else the shards, else Mistral's own copy, else all there is."""
    if "model.safetensors" in tensors:
        return {"model.safetensors": tensors["model.safetensors"]}
    own = {name: size for name, size in tensors.items() if not name.startswith("consolidated")}
    shards = {name: size for name, size in own.items() if _SHARD.fullmatch(name)}
    named = {name: size for name, size in shards.items() if name.startswith("model-")}
    return named or shards or own or tensors


def _by_quant(files: Mapping[str, int]) -> dict[str, int]:
    """Each quantisation's size; its shards are one."""
    parts: dict[str, dict[str, int]] = {}
    for name in sorted(files):
        base = name.rpartition("/")[2].lower()
        if base.endswith(".gguf") and not any(word in base for word in _NO_MODEL):
            parts.setdefault(_quant(name), {})[name] = files[name]
    return {quant: _sum(_one_copy(held).values()) for quant, held in parts.items()}


def _one_copy(held: Mapping[str, int]) -> Mapping[str, int]:
    """The files of the first model among those of one quantisation: all its shards, or the single file."""
    first = next(iter(held))
    shard = _SHARD.fullmatch(first)
    if shard is None:
        return {first: held[first]}
    group = shard["group"]
    return {name: size for name, size in held.items() if (part := _SHARD.fullmatch(name)) and part["group"] == group}


def _quant(name: str) -> str:
    """The quantisation that a file's name tells, in capitals; the name itself where it tells none."""
    shard = _SHARD.fullmatch(name)
    stem = shard["group"] if shard else name.rpartition(".")[0]
    found = _QUANT.findall(stem.rpartition("/")[2]) or _QUANT.findall(stem)
    return str(found[-1]).upper() if found else stem.rpartition("/")[2].upper()


def _sum(sizes: Iterable[int]) -> int:
    """The sum; 0 if any size is unknown, since a part is no answer."""
    known = list(sizes)
    return sum(known) if all(known) else 0
