"""The figures as a picture: small panels beside each other, as SVG that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 330, 220, 64, 64, 90
_COLOURS = ("#1f6fb4", "#d1642a", "#2c8a4b", "#8a4bb0", "#a8871c", "#555555")
_DASHES = {"p50": "", "p90": "5 3", "p99": "1 3"}
#: From this ratio of the largest load to the smallest on, the axis is logarithmic.
_WIDE = 8.0
Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel."""

    places: tuple[tuple[float, float], ...]
    colour: str
    dash: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its title, the name of its horizontal axis, and its lines."""

    title: str
    across: str
    lines: tuple[Line, ...]


def picture(found: Figures) -> str:
    """The SVG of a benchmark's result."""
    series = _series(found["points"])
    panels = [panel for mode in ("concurrency", "rate") for panel in _panels(found, series, mode)]
    columns = 2
    rows = math.ceil(len(panels) / columns)
    width, top = columns * (_WIDTH + _GAP) + 20, _TOP + 16 + 18 * len(series)
    size = f'width="{width}" height="{top + rows * (_HEIGHT + _GAP)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(16, 26, " · ".join(filter(None, (found["model"], found["engine"], found["gpu"]))), size=15),
        _text(16, 44, "full line: median; dashes: p90; dots: p99"),
    ]
    for at, (name, _, colour) in enumerate(series):
        parts.append(_stroke([(16, 58 + 18 * at), (40, 58 + 18 * at)], colour, ""))
        parts.append(_text(46, 62 + 18 * at, name))
    for at, panel in enumerate(panels):
        x, y = _LEFT + at % columns * (_WIDTH + _GAP), top + at // columns * (_HEIGHT + _GAP)
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _series(points: Sequence[Figures]) -> list[tuple[str, list[Figures], str]]:
    """Name, points and colour of what was asked alike but for the load."""
    found: dict[str, list[Figures]] = {}
    for point in points:
        asked = point["asked"]
        shared = f", {asked['shared_prefix']:.0%} shared" if asked["shared_prefix"] else ""
        found.setdefault(f"{asked['prompt_tokens']} + {asked['output_tokens']} tokens{shared}", []).append(point)
    return [(name, those, _COLOURS[at % len(_COLOURS)]) for at, (name, those) in enumerate(found.items())]


def _panels(found: Figures, series: list[tuple[str, list[Figures], str]], mode: str) -> list[Panel]:
    chosen = [(sorted((p for p in those if p["load"][mode]), key=lambda p: float(p["load"][mode])), colour)
              for _, those, colour in series]  # fmt: skip
    if not any(those for those, _ in chosen):
        return []
    across = "requests in flight" if mode == "concurrency" else "requests a second, by chance"

    def lines(name: str, parts: Mapping[str, str], scale: float = 1.0) -> tuple[Line, ...]:
        return tuple(
            Line(_places(those, mode, name, part, scale), colour, dash)
            for those, colour in chosen
            for part, dash in parts.items()
        )

    panels = [
        Panel("output tokens/s", across, lines("output_tokens_per_second", {"": ""})),
        Panel("time to the first token, ms", across, lines("ttft", _DASHES, 1000)),
        Panel("time from token to token, ms", across, lines("itl", _DASHES, 1000)),
    ]
    if found["settings"]["slo"]:
        return [*panels, Panel("goodput, requests/s", across, lines("goodput", {"requests_per_second": ""}))]
    return [*panels, Panel("whole answer, s", across, lines("latency", _DASHES))]


def _places(
    points: Sequence[Figures], mode: str, name: str, part: str, scale: float
) -> tuple[tuple[float, float], ...]:
    values = [(point["load"][mode], point[name][part] if part else point[name]) for point in points]
    return tuple((float(load), float(value) * scale) for load, value in values if value is not None)


def _panel(panel: Panel) -> str:
    places = [place for line in panel.lines for place in line.places]
    loads = sorted({load for load, _ in places})
    top = nice(max((value for _, value in places), default=1.0))
    least, most = (loads[0], loads[-1]) if loads else (1.0, 1.0)

    def x(load: float) -> float:
        if most == least:
            return _WIDTH / 2
        if most / least >= _WIDE:
            return _WIDTH * math.log(load / least) / math.log(most / least)
        return _WIDTH * (load - least) / (most - least)

    def y(value: float) -> float:
        return _HEIGHT * (1 - value / top)

    parts = [_text(0, -10, panel.title, size=13), _text(_WIDTH / 2, _HEIGHT + 34, panel.across, anchor="middle")]
    for step in range(5):
        value = top * step / 4
        parts.append(_stroke([(0, y(value)), (_WIDTH, y(value))], "#dddddd", ""))
        parts.append(_text(-6, y(value) + 4, f"{value:.4g}", anchor="end"))
    parts += [_text(x(load), _HEIGHT + 16, f"{load:g}", anchor="middle") for load in loads]
    for line in panel.lines:
        drawn = [(x(load), y(value)) for load, value in line.places]
        parts.append(_stroke(drawn, line.colour, line.dash))
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{line.colour}"/>' for a, b in drawn]
    return "".join(parts)


def nice(value: float) -> float:
    """The smallest of 1, 2, 3, 4, 6, 8 times a power of ten that isn't less than ``value``."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0) if step * power >= value), 10.0 * power)


def _stroke(places: Sequence[tuple[float, float]], colour: str, dash: str) -> str:
    drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'


def _text(x: float, y: float, words: str, *, size: int = 11, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'
