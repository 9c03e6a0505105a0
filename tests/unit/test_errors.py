"""The exception tree is a contract: codes and exit statuses are what scripts look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuserve import errors
from gpuserve.errors import BootFailed, ConfigError, GpuserveError, UsageError


def tree(root: type[GpuserveError] = GpuserveError) -> Iterator[type[GpuserveError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


CLASSES = list(tree())


def test_codes_are_unique() -> None:
    codes = [each.code for each in CLASSES]
    assert len(codes) == len(set(codes)) > 10


def test_exit_statuses_are_unique_but_for_config_and_usage() -> None:
    statuses = [each.exit_status for each in CLASSES if each is not ConfigError]
    assert len(statuses) == len(set(statuses))
    assert ConfigError.exit_status == UsageError.exit_status == 2


@pytest.mark.parametrize("kind", CLASSES)
def test_a_status_is_never_that_of_success_and_fits_a_byte(kind: type[GpuserveError]) -> None:
    assert 1 <= kind.exit_status <= 255
    assert "code" in vars(kind)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_drawing_in_the_docstring_is_true(kind: type[GpuserveError]) -> None:
    [row] = re.findall(rf"^.*\b{kind.__name__} .*$", errors.__doc__ or "", re.MULTILINE)
    assert re.search(rf" {kind.code} +{kind.exit_status}\b", row)
    drawn_depth = (len(row) - len(row.lstrip(" │├└─"))) // 4
    assert drawn_depth == len(kind.__mro__) - len(GpuserveError.__mro__) + 1


@pytest.mark.parametrize("kind", CLASSES)
def test_as_dict(kind: type[GpuserveError]) -> None:
    shown = kind("it broke", hint="mend it").as_dict()
    assert (shown["code"], shown["message"], shown["hint"]) == (kind.code, "it broke", "mend it")
    assert shown["retryable"] is kind.retryable
    assert str(kind("it broke", hint="mend it")) == "it broke"


def test_a_failed_boot_tells_where_the_log_is() -> None:
    assert BootFailed("died", log_file="boot.log").as_dict()["log_file"] == "boot.log"


def test_only_what_another_try_may_mend_is_retryable() -> None:
    retryable = {each.code for each in CLASSES if each.retryable}
    assert retryable == {"no_capacity", "quota", "network", "platform_error", "rate_limited"}


def test_the_readme_lists_every_status() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| (`[^|]*`) \|", readme, re.MULTILINE))
    listed = {(int(status), code) for status, codes in rows.items() for code in re.findall(r"`(\w+)`", codes)}
    assert listed == {(kind.exit_status, kind.code) for kind in CLASSES}
