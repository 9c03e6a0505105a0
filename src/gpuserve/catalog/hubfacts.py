"""What the Hub knows of a model, as a record made from what it answered.

The answers are kept as ``Material``, which is plain JSON: it is what the cache holds, and it is read here with
the same distrust whether it comes from the network or from the disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gpuserve.catalog.hubfiles import Index, Weights, pick_quant, weigh
from gpuserve.catalog.hubshape import count, max_context, quantization, shape_from_config, text_config

Material = dict[str, Any]
"""Answers of the Hub: ``info``, ``files`` (names and sizes in bytes), ``config``, ``params``, ``index`` and ``adapter``
(files as parsed), ``access``, ``ggufs`` (IDs), ``unread`` (why a part is missing)."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{7,64}")
_WORD = re.compile(r"[\w.+-]{1,100}", re.ASCII)
_FILE = re.compile(r"[^\x00-\x1f\x7f]{1,500}")
_SHOWN_LENGTH = 160


@dataclass(frozen=True, slots=True)
class HubSilence:
    """The Hub said nothing that can be used: ``reason`` is a sentence's worth for a warning.

    ``kind``: "offline" (asked to stay so), "path" (a local path), "rate_limited", "timed_out", "unreachable",
    "down" (it says so itself) or "odd" (an answer that no Hub gives).
    """

    reason: str
    kind: str = "odd"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFacts:
    """One repository at one commit. Empty texts and zeros mean that the Hub doesn't say.

    ``model`` is spelt as the Hub spells it, ``revision`` the commit. ``gated`` is "no", "auto" or "manual"; ``access``
    says whether the files can be read with the token given (None: not checked). ``weight_bytes`` is what an engine
    loads, without second copies; for a repository of GGUF files only, of the quantisation ``quant``, which is the one
    asked for or llama.cpp's choice ("": the one asked for isn't there). ``shape`` has fields of ``ModelShape``.
    ``described`` is False without a ``config.json`` or ``params.json``. ``notes`` are sentences for a person.
    """

    model: str
    revision: str = ""
    gated: str = "no"
    access: bool | None = None
    private: bool = False
    weight_bytes: int = 0
    formats: tuple[str, ...] = ()
    gguf: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    asked_quant: str = ""
    quant: str = ""
    architectures: tuple[str, ...] = ()
    model_type: str = ""
    max_context: int = 0
    quantization: str = ""
    shape: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    parameters: int = 0
    library: str = ""
    base_model: str = ""
    gguf_siblings: tuple[str, ...] = ()
    described: bool = False
    remote_code: bool = False
    missing: tuple[str, ...] = ()
    stale: bool = False
    notes: tuple[str, ...] = ()

    def weight_for(self, engine: str) -> int:
        """Bytes of the weights that ``engine`` loads; 0 if they aren't known or it can't load any."""
        if engine == "llamacpp":
            return self.gguf.get(self.quant, 0)
        return 0 if self.formats == ("gguf",) else self.weight_bytes


def facts_from(material: Mapping[str, Any], quant: str = "") -> HubFacts | None:
    """The record for what the Hub answered; ``quant`` is the quantisation asked for. None if it names no model."""
    info, config = _table(material, "info"), _table(material, "config")
    model = model_id(info.get("id"))
    if not model:
        return None
    weights = weigh(_sizes(_table(material, "files")), _index(material.get("index")))
    picked = pick_quant(weights.gguf, quant)
    loaded = weights.safetensors or (weights.gguf.get(picked, 0) if _only_gguf(weights) else weights.pytorch)
    described = "config" in material or "params" in material
    known = config or _table(info, "config")
    return HubFacts(
        model=model,
        revision=_matching(_SHA, info.get("sha")),
        gated={"auto": "auto", "manual": "manual", True: "auto"}.get(_key(info.get("gated")), "no"),
        access=material.get("access") if isinstance(material.get("access"), bool) else None,
        private=info.get("private") is True,
        weight_bytes=loaded,
        formats=weights.formats,
        gguf=weights.gguf,
        asked_quant=quant,
        quant=picked,
        architectures=_architectures(known),
        model_type=_matching(_WORD, known.get("model_type")),
        max_context=max_context(config) or count(_table(info, "gguf").get("context_length")),
        quantization=quantization(known),
        shape=MappingProxyType(shape_from_config(config, loaded)),
        parameters=count(info.get("parameters")),
        library=_matching(_WORD, info.get("library")),
        base_model=model_id(_table(material, "adapter").get("base_model_name_or_path")),
        gguf_siblings=tuple(filter(None, map(model_id, _list(material.get("ggufs"))))),
        described=described,
        remote_code=bool(_table(known, "auto_map")),
        missing=tuple(shown(name) for name in weights.missing[:20]),
        notes=tuple(shown(str(note)) for note in _list(material.get("unread"))[:10]),
    )


def model_id(value: object) -> str:
    """``value`` if it is a model ID, else ""."""
    return _matching(_ID, value)


def shown(text: str) -> str:
    """A foreign text fit for a person's terminal: one line, printable, not endless."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= _SHOWN_LENGTH else plain[: _SHOWN_LENGTH - 1] + "…"


def reduced_index(document: object) -> dict[str, Any]:
    """What is kept of an index of shards, which may have a line for each of a hundred thousand tensors."""
    table = document if isinstance(document, dict) else {}
    names = _table(table, "weight_map").values()
    return {
        "total_size": count(_table(table, "metadata").get("total_size")),
        "files": sorted({name for name in names if isinstance(name, str)}),
    }


def _only_gguf(weights: Weights) -> bool:
    return "gguf" in weights.formats and "pytorch" not in weights.formats


def _index(value: object) -> Index | None:
    if not isinstance(value, Mapping):
        return None
    files = frozenset(name for name in _list(value.get("files")) if isinstance(name, str))
    return Index(total_size=count(value.get("total_size")), files=files)


def _sizes(files: Mapping[str, Any]) -> dict[str, int]:
    return {name: count(size) for name, size in files.items() if _FILE.fullmatch(name)}


def _architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that the configuration names; those of its language model if it names none itself."""
    listed = _list(config.get("architectures")) or _list(text_config(config).get("architectures"))
    return tuple(name for name in listed[:10] if isinstance(name, str) and _WORD.fullmatch(name))


def _table(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _key(value: object) -> object:
    return value if isinstance(value, str | bool) else None


def _matching(pattern: re.Pattern[str], value: object) -> str:
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""
