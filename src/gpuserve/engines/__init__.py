"""Engines, found through the entry-point group ``gpuserve.engines``.

The built-in engines use the same door as a third party's. Only the engine that was asked for is
imported; one that can't be is an error with its reason, never a silent absence.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points

from gpuserve.engines.base import Engine
from gpuserve.errors import ConfigError, UsageError

GROUP = "gpuserve.engines"


def names() -> list[str]:
    """The engines that are installed, sorted. None of them is imported."""
    return sorted(_installed())


def load(name: str) -> Engine:
    """The engine called ``name``.

    Raises:
        UsageError: no engine of that name is installed.
        ConfigError: its plug-in can't be imported, isn't an engine, or shares its name with another.
    """
    found = _installed()
    if name not in found:
        raise UsageError(f"unknown engine {name!r}", hint=_known(name, sorted(found)))
    if len(found[name]) > 1:
        places = ", ".join(sorted(point.value for point in found[name]))
        raise ConfigError(
            f"{len(found[name])} plug-ins call themselves {name!r}: {places}", hint="uninstall all but one"
        )
    return _open(found[name].pop())


def _installed() -> dict[str, set[EntryPoint]]:
    """Entry points by name. The same one found twice, as an editable install can be, counts once."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, {})[point.value] = point
    return {name: set(points.values()) for name, points in found.items()}


def _known(name: str, known: list[str]) -> str:
    """The hint for an unknown engine: the nearest name, if one is near, and all that there are."""
    near = difflib.get_close_matches(name.lower().replace(".", ""), known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}known: {', '.join(known) or 'none, reinstall gpuserve'}"


def _open(point: EntryPoint) -> Engine:
    hint = "fix or uninstall that plug-in"
    try:
        made: object = point.load()()
        engine = made if isinstance(made, Engine) else None
    except Exception as error:  # a plug-in's own code can fail in any way
        raise ConfigError(
            f"the engine {point.name!r} ({point.value}) can't be loaded: {type(error).__name__}: {error}", hint=hint
        ) from error
    if engine is None:
        raise ConfigError(f"{point.value}, installed as the engine {point.name!r}, is no gpuserve engine", hint=hint)
    if engine.name != point.name:
        raise ConfigError(f"the engine {point.name!r} ({point.value}) calls itself {engine.name!r}", hint=hint)
    return engine
