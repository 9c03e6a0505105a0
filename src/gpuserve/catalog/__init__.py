"""What gpuserve knows of models: the rows of ``families.toml``, looked up by the model's ID."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from gpuserve.errors import ConfigError
from gpuserve.records import ModelFacts

CONFIDENCES = ("high", "medium", "low")

_ROW_TEXTS = ("id", "match", "confidence", "source")
_ENGINE_TEXTS = ("tool_parser", "reasoning_parser")


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the catalogue: models of one kind, and what each engine, by name, wants for them."""

    id: str
    match: re.Pattern[str]
    confidence: str
    source: str
    engines: Mapping[str, ModelFacts]


def lookup(model: str, engine: str) -> ModelFacts:
    """What ``engine`` wants for ``model``, from the first row that matches; empty facts if none does.

    Raises:
        ConfigError: the catalogue itself can't be read.
    """
    for family in families():
        if family.match.search(model):
            return family.engines.get(engine) or ModelFacts(family=family.id, source=family.source)
    return ModelFacts()


@cache
def families() -> tuple[Family, ...]:
    """The built-in rows, in the order in which they are tried."""
    return parse(files(__name__).joinpath("families.toml").read_text(encoding="utf-8"), "families.toml")


def parse(text: str, where: str) -> tuple[Family, ...]:
    """The rows in ``text``, a catalogue in TOML; ``where`` is what errors call it.

    Raises:
        ConfigError: no TOML, or a row with a wrong, missing or unknown field; the message names the row.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is no TOML: {error}") from error
    rows = document.pop("family", [])
    if document or not isinstance(rows, list):
        raise ConfigError(f"{where}: expected [[family]] tables only")
    found = tuple(_family(row, f"{where}, family {number}") for number, row in enumerate(rows, start=1))
    twice = {family.id for family in found if sum(other.id == family.id for other in found) > 1}
    if twice:
        raise ConfigError(f"{where}: more than one family is called {', '.join(sorted(twice))}")
    return found


def _family(row: object, where: str) -> Family:
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no table")
    if isinstance(row.get("id"), str):
        where = f"{where} ({row['id']})"
    texts = {name: _text(row.pop(name, ""), name, where) for name in _ROW_TEXTS}
    for name, value in texts.items():
        if not value:
            raise ConfigError(f"{where}: {name} is missing")
    if texts["confidence"] not in CONFIDENCES:
        raise ConfigError(f"{where}: confidence is {texts['confidence']!r}, not one of {', '.join(CONFIDENCES)}")
    source = f"{texts['source']} (confidence: {texts['confidence']})"
    engines = {str(engine): _facts(table, texts["id"], source, f"{where}: {engine}") for engine, table in row.items()}
    pattern = _pattern(texts["match"], where)
    return Family(texts["id"], pattern, texts["confidence"], source, MappingProxyType(engines))


def _facts(table: object, family: str, source: str, where: str) -> ModelFacts:
    """One engine's part of a row. Any key of a row that isn't a field of its own is an engine's name."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is no table")
    left = dict(table)
    texts = {name: _text(left.pop(name, ""), name, where) for name in _ENGINE_TEXTS}
    flags = left.pop("flags", [])
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ConfigError(f"{where}: flags is no list of texts")
    if flags and not flags[0].startswith("-"):
        raise ConfigError(f"{where}: flags begin with {flags[0]!r}, which is no flag")
    env = left.pop("env", {})
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ConfigError(f"{where}: env is no table of texts")
    if left:
        raise ConfigError(f"{where}: unknown field {', '.join(map(str, left))}")
    return ModelFacts(
        family=family,
        tool_parser=texts["tool_parser"],
        reasoning_parser=texts["reasoning_parser"],
        flags=tuple(flags),
        env=MappingProxyType(env),
        source=source,
    )


def _text(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {name} is no text")
    return value


def _pattern(match: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(match, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"{where}: match is no regular expression: {error}") from error
