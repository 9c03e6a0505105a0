"""What the tests of a batch share: a desk with two rows, and repetitions that come at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.desk import Desk
from gpuserve.bulk import pace


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is asked again after a hundredth of a second rather than half of one."""
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An input of two rows, and runs of it."""
    return Desk(tmp_path, ["a", "b"])
