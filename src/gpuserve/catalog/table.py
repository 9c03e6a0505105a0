"""One TOML table of a catalogue file, read field by field; what is wrong with it is said with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

from gpuserve.errors import ConfigError


class Table:
    """Takes fields out of a table; ``close`` refuses what is left. All methods raise ``ConfigError``."""

    def __init__(self, row: object, where: str, *, named_by: str = "") -> None:
        if not isinstance(row, dict):
            raise ConfigError(f"{where} is no table")
        self.left: dict[str, object] = dict(row)
        name = self.left.get(named_by)
        self.where = f"{where} ({name})" if isinstance(name, str) and name else where

    def text(self, name: str, default: str | None = None) -> str:
        """A text; without ``default`` it must be there and not empty."""
        value = self.left.pop(name, default or "")
        if not isinstance(value, str):
            raise self.wrong(f"{name} is no text")
        if not value and default is None:
            raise self.wrong(f"{name} is missing")
        return value

    def word(self, name: str, words: Sequence[str], default: str | None = None) -> str:
        """One of ``words``."""
        value = self.text(name, default)
        if value not in words:
            raise self.wrong(f"{name} is {value!r}, not one of {', '.join(words)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, empty if it isn't there."""
        value = self.left.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(f"{name} is no list of texts")
        return tuple(value)

    def mapping(self, name: str) -> Mapping[str, str]:
        """A table of texts, empty if it isn't there."""
        value = self.left.pop(name, {})
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise self.wrong(f"{name} is no table of texts")
        return MappingProxyType(value)

    def numbers(self, name: str) -> Mapping[str, float]:
        """A table of numbers, empty if it isn't there."""
        value = self.left.pop(name, {})
        if not isinstance(value, dict) or not all(_is_number(number) for number in value.values()):
            raise self.wrong(f"{name} is no table of numbers")
        return MappingProxyType({key: float(number) for key, number in value.items()})

    def number(self, name: str) -> float:
        """A number above zero, which must be there."""
        return self._above_zero(name, self.left.pop(name, None))

    def number_or_none(self, name: str) -> float | None:
        """A number above zero, or None if it isn't there."""
        return self._above_zero(name, self.left.pop(name)) if name in self.left else None

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 0; without ``default`` it must be there."""
        value = self.left.pop(name, default)
        if value is None:
            raise self.wrong(f"{name} is missing")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(f"{name} is no whole number")
        return value

    def truth(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.left.pop(name, default)
        if not isinstance(value, bool):
            raise self.wrong(f"{name} is neither true nor false")
        return value

    def pattern(self, name: str) -> re.Pattern[str]:
        """A regular expression for any case of letters."""
        try:
            return re.compile(self.text(name), re.IGNORECASE)
        except re.error as error:
            raise self.wrong(f"{name} is no regular expression: {error}") from error

    def close(self) -> None:
        """Refuses fields that nothing has asked for."""
        if self.left:
            raise self.wrong(f"unknown field {', '.join(self.left)}")

    def wrong(self, what: str) -> ConfigError:
        """The error that says so of this table."""
        return ConfigError(f"{self.where}: {what}")

    def _above_zero(self, name: str, value: object) -> float:
        if value is None:
            raise self.wrong(f"{name} is missing")
        if not _is_number(value) or cast("float", value) <= 0:
            raise self.wrong(f"{name} is no number above 0")
        return float(cast("float", value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
