"""Rows of a catalogue file: ``[[family]]``, ``[[model]]`` and ``[[gpu]]`` tables in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from gpuserve.catalog.facts import FamilyFacts, GpuSpec, ModelShape
from gpuserve.catalog.table import Table
from gpuserve.errors import ConfigError
from gpuserve.records import ModelFacts

CONFIDENCES = ("high", "medium", "low")
SUPPORTS = ("native", "untested", "none")
GATED = ("yes", "no", "varies", "unknown")
REASONING = ("on", "off", "always", "none")

#: Has the engine run Python out of the model's repository; both vLLM and SGLang call it so.
REMOTE_CODE_FLAG = "--trust-remote-code"

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Rows:
    """What one file holds."""

    families: tuple[FamilyFacts, ...]
    models: tuple[ModelShape, ...]
    gpus: tuple[GpuSpec, ...]


def parse(text: str, where: str) -> Rows:
    """The rows in ``text``; ``where`` is what errors call it.

    Raises:
        ConfigError: no TOML, or a row with a wrong, missing or unknown field; the message names the row.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is no TOML: {error}") from error
    if set(document) - {"family", "model", "gpu"}:
        raise ConfigError(f"{where}: expected [[family]], [[model]] and [[gpu]] tables only")
    return Rows(
        families=_each(document, "family", where, _family, lambda family: family.id),
        models=_each(document, "model", where, _model, lambda model: model.hf.lower()),
        gpus=_each(document, "gpu", where, _gpu, lambda gpu: gpu.name),
    )


def _each(
    document: dict[str, object],
    kind: str,
    where: str,
    read: Callable[[object, str], _Row],
    name: Callable[[_Row], str],
) -> tuple[_Row, ...]:
    rows = document.get(kind, [])
    if not isinstance(rows, list):
        raise ConfigError(f"{where}: expected [[{kind}]] tables")
    found = tuple(read(row, f"{where}, {kind} {number}") for number, row in enumerate(rows, start=1))
    names = [name(row) for row in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: more than one {kind} is called {', '.join(twice)}")
    return found


def _family(row: object, where: str) -> FamilyFacts:
    table = Table(row, where, named_by="id")
    budget = table.text("budget_variable", "")
    facts = FamilyFacts(
        id=table.text("id"),
        match=table.pattern("match"),
        sources=tuple(part.strip() for part in table.text("source").split(";")),
        confidence=table.word("confidence", CONFIDENCES),
        archs=table.texts("archs"),
        owners=table.texts("owners"),
        gated=table.word("gated", GATED, "unknown"),
        single_gpu=table.truth("single_gpu", default=True),
        reasoning_default=table.word("reasoning_default", REASONING, "none"),
        thinking_variable=table.text("thinking_variable", ""),
        budget_variable=budget,
        efforts=_efforts(table, tokens=bool(budget)),
        sampling=table.numbers("sampling"),
        notes=table.texts("notes"),
    )
    return _with_engines(facts, table)


def _efforts(table: Table, *, tokens: bool) -> Mapping[str, str]:
    efforts = table.mapping("efforts")
    if unknown := sorted(set(efforts) - {"none", "low", "medium", "high"}):
        raise table.wrong(f"efforts hold {', '.join(unknown)}; they are none, low, medium and high")
    if tokens and not all(word.isdecimal() for word in efforts.values()):
        raise table.wrong("efforts are numbers of tokens, in quotes, where budget_variable is given")
    return efforts


def _with_engines(family: FamilyFacts, table: Table) -> FamilyFacts:
    """The family with its engines. Any field of a row that isn't one of its own is an engine's name."""
    engines, owner_flags = {}, {}
    for name in table.left:
        part = Table(table.left[name], f"{table.where}: {name}")
        owner_flags[name] = _flags(part, "owner_flags")
        if owner_flags[name] and not family.owners:
            raise part.wrong("owner_flags need owners in the family's row")
        engines[name] = _engine(part, family)
    only_owners = {name: flags for name, flags in owner_flags.items() if flags}
    return replace(family, engines=MappingProxyType(engines), owner_flags=MappingProxyType(only_owners))


def _engine(table: Table, family: FamilyFacts) -> ModelFacts:
    facts = ModelFacts(
        family=family.id,
        source=family.source,
        gated=family.gated,
        tool_parser=table.text("tool_parser", ""),
        reasoning_parser=table.text("reasoning_parser", ""),
        flags=_flags(table, "flags"),
        optional_flags=_flags(table, "optional_flags"),
        env=table.mapping("env"),
        packages=table.texts("packages"),
        support=table.word("support", SUPPORTS, "native"),
        minimum_version=table.text("minimum_version", ""),
        remote_code=table.truth("remote_code", default=False),
        switch=table.text("switch", ""),
    )
    table.close()
    return facts


def _flags(table: Table, name: str) -> tuple[str, ...]:
    flags = table.texts(name)
    if flags and not flags[0].startswith("-"):
        raise table.wrong(f"{name} begin with {flags[0]!r}, which is no flag")
    if any(flag.split("=")[0].replace("_", "-") == REMOTE_CODE_FLAG for flag in flags):
        raise table.wrong(f"{name} hold {REMOTE_CODE_FLAG}; write remote_code = true")
    return flags


def _model(row: object, where: str) -> ModelShape:
    table = Table(row, where, named_by="hf")
    layers = {
        name: table.count(name, 0)
        for name in (
            "kv_full_layers",
            "kv_heads",
            "head_dim",
            "kv_window_layers",
            "kv_window",
            "kv_window_heads",
            "kv_window_head_dim",
        )
    }
    dtype_bytes = table.count("kv_dtype_bytes", 2)
    params = table.number("params_b")
    full, window = _token_bytes(layers, dtype_bytes)
    shape = ModelShape(
        hf=table.text("hf"),
        family=table.text("family", ""),
        params_b=params,
        active_b=table.number_or_none("active_b") or params,
        precision=table.text("precision"),
        weight_gib=table.number("weight_gib"),
        weight_src=table.word("weight_src", ("K", "P", "R", "I")),
        config_src=table.word("config_src", ("C", "I")),
        max_context=table.count("max_context"),
        kv_dtype_bytes=dtype_bytes,
        kv_bytes_per_token_vllm=table.count("kv_bytes_per_token_vllm", full),
        kv_bytes_per_token_sglang=table.count("kv_bytes_per_token_sglang", None if full is None else full + window),
        kv_window_bytes_per_seq_vllm=table.count("kv_window_bytes_per_seq_vllm", window * layers["kv_window"]),
        hybrid_state=table.truth("hybrid_state", default=False),
        multimodal=table.truth("multimodal", default=False),
        note=table.text("note", ""),
        source=table.text("source"),
        confidence=table.word("confidence", CONFIDENCES),
        **layers,
    )
    table.close()
    return shape


def _token_bytes(layers: dict[str, int], dtype_bytes: int) -> tuple[int | None, int]:
    """Bytes that a token takes in the full layers (None: the row doesn't say) and in the sliding ones.

    Two vectors, key and value, for each KV head of each layer. SGLang keeps every layer in full unless it knows the
    architecture, so a row that says nothing of SGLang gets the sum: too much rather than too little.
    """
    full = 2 * layers["kv_full_layers"] * layers["kv_heads"] * layers["head_dim"] * dtype_bytes
    window = 2 * layers["kv_window_layers"] * layers["kv_window_heads"] * layers["kv_window_head_dim"] * dtype_bytes
    return full or None, window


def _gpu(row: object, where: str) -> GpuSpec:
    table = Table(row, where, named_by="name")
    spec = GpuSpec(
        name=table.text("name"),
        memory_mib=table.count("memory_mib"),
        arch=table.text("arch"),
        sglang_fraction=table.number_or_none("sglang_fraction"),
        sglang_fraction_multimodal=table.number_or_none("sglang_fraction_multimodal"),
        note=table.text("note", ""),
        source=table.text("source"),
        confidence=table.word("confidence", CONFIDENCES),
    )
    table.close()
    return spec
