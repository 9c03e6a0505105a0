"""Durations as people type and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuserve.durations import format_clock, format_duration, parse_duration
from gpuserve.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1d1h1m1s", 90061), ("90", 90),
        ("0", 0), ("0s", 0), (" 5M ", 300), ("007", 7), ("999999999", 999_999_999),
    ],
)  # fmt: skip
def test_parsed(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "-5",
        "+5",
        "-5m",
        "1.5h",
        "1,5h",
        "5 m",
        "5min",
        "5w",
        "m5",
        "1m1m",
        "30s1h",
        "1h 30m",
        "1h30",
        "1_000",
        "1e3",
        "0x10",
        "nan",
        "inf",
        "none",
        "5m\n5",
        "5m\0",
        "٣m",
        "５",
        "²",
        "1" * 10,
        "1" * 5000,
        "1" * 5000 + "s",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no duration") as caught:
        parse_duration(text)
    assert "30s" in caught.value.hint


@given(st.text())
def test_any_text_is_a_duration_or_a_usage_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except UsageError:
        return
    assert 0 <= seconds < 10**9 * sum((86400, 3600, 60, 1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.4, "0s"),
        (45, "45s"),
        (59.7, "1m"),
        (291, "4m 51s"),
        (7500, "2h 5m"),
        (7545, "2h 5m"),
        (3600, "1h"),
        (3605, "1h 5s"),
        (262_800, "3d 1h"),
    ],
)
def test_formatted(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**9))
def test_a_formatted_duration_reads_back_but_for_its_lesser_units(seconds: int) -> None:
    text = format_duration(seconds)
    back = parse_duration(text.replace(" ", ""))
    assert 0 <= seconds - back < {"s": 60, "m": 60, "h": 3600, "d": 86400}[text[-1]]
    assert len(text.split()) <= 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (-1, "0:00"), (41.9, "0:41"), (291, "4:51"), (3600, "1:00:00"), (3723, "1:02:03")],
)
def test_clock(seconds: float, text: str) -> None:
    assert format_clock(seconds) == text
