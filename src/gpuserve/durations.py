"""Durations as people type them: ``30s``, ``5m``, ``2h``, ``1d``, ``1h30m`` or plain seconds."""

from __future__ import annotations

import re

from gpuserve.errors import UsageError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
# Each unit at most once, the larger first; ASCII digits only, and few enough that no sum grows absurd.
_UNITED = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}){unit})?" for unit in _UNITS))
_PLAIN = re.compile(r"[0-9]{1,9}")


def parse_duration(text: str) -> int:
    """Seconds in ``text``.

    Raises:
        UsageError: not a duration (a sign, a fraction, an unknown or repeated unit, nothing at all).
    """
    cleaned = text.strip().lower()
    if _PLAIN.fullmatch(cleaned):
        return int(cleaned)
    found = _UNITED.fullmatch(cleaned)
    if not cleaned or not found:
        raise UsageError(f"{text!r} is no duration", hint="write 30s, 5m, 2h, 1d, 1h30m or plain seconds")
    return sum(int(found[unit] or 0) * size for unit, size in _UNITS.items())


def format_duration(seconds: float) -> str:
    """``seconds`` for a person, at most two units: ``45s``, ``4m 51s``, ``2h 5m``, ``3d 1h``."""
    left = max(0, round(seconds))
    shown = []
    for unit, size in _UNITS.items():
        count, left = divmod(left, size)
        if count:
            shown.append(f"{count}{unit}")
    return " ".join(shown[:2]) or "0s"


def format_clock(seconds: float) -> str:
    """``seconds`` as a stop-watch shows them: ``0:41``, ``4:51``, ``1:02:03``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
