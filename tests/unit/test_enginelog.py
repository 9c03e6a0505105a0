import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuserve.errors import UsageError
from gpuserve.redaction import Redactor
from gpuserve.sandboxes.session import strip_markers
from gpuserve.serving.enginelog import LogFile
from gpuserve.serving.loglines import Cursor
from gpuserve.serving.logs import last_lines, since


@given(st.text(alphabet="ab\n", max_size=60), st.lists(st.integers(0, 60)))
def test_every_line_once_and_in_order_however_the_snapshots_fall(text: str, cuts: list[int]) -> None:
    """Snapshots may repeat, shrink or end in the middle of a line."""
    cursor = Cursor()
    parts = [cursor.advance(text[:cut]) for cut in cuts]
    assert all(part == "" or part.endswith("\n") for part in parts)
    parts.append(cursor.advance(text, to_the_end=True))
    assert "".join(parts) == text


def test_markers_are_stripped() -> None:
    assert strip_markers("\x01\x01\x01out\n\x02\x02\x02err\n") == "out\nerr\n"


def test_the_log_file_is_private_and_redacted(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "deep" / "engine.log", Redactor(["planted-secret"]))
    assert file.write("key planted-secret here\n") == "key *** here\n"
    file.write("more\n")
    file.close()
    assert file.path is not None
    assert file.path.read_text() == "key *** here\nmore\n"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_two_that_log_under_one_name_spoil_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    first = LogFile(path, Redactor())
    first.write("first\n")
    second = LogFile(path, Redactor())
    second.write("second\n")
    first.write("more\n")
    assert (first.path, second.path) == (path, tmp_path / "one.2.log")
    assert (path.read_text(), (tmp_path / "one.2.log").read_text()) == ("first\nmore\n", "second\n")
    second.rewrite("anew\n")
    first.close()
    first.write("too late\n")
    third = LogFile(path, Redactor())
    assert (path.read_text(), third.path) == ("", path)
    assert (tmp_path / "one.2.log").read_text() == "anew\n"
    for log in (second, third):
        log.close()


def test_a_log_may_go_to_what_is_no_file(tmp_path: Path) -> None:
    for _ in range(2):
        log = LogFile(Path("/dev/null"), Redactor())
        assert log.rewrite("line\n") == "line\n"
        assert (log.path, log.problem) == (Path("/dev/null"), "")
        log.close()


def test_a_log_that_cannot_be_saved_ends_the_copy_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = LogFile(tmp_path / "file" / "engine.log", Redactor())
    assert log.path is None
    assert "can't be saved" in log.problem
    assert log.write("line\n") == "line\n"


NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
VLLM = "INFO 12-31 23:58:00 [a.py:1] old\ncontinued\nINFO 01-01 00:09:30 [a.py:1] new\nmore\n"
SGLANG = "[2025-12-31 23:58:00] old\n[2026-01-01 00:09:30] new\n"
WORKER = "(EngineCore pid=1) INFO 12-31 23:58:00 [a.py:1] old\n(EngineCore pid=1) INFO 01-01 00:09:30 [a.py:1] new\n"


@pytest.mark.parametrize(("log", "expected"), [(VLLM, "new\nmore\n"), (SGLANG, "new\n"), (WORKER, "new\n")])
def test_since_goes_by_the_engines_own_stamps(log: str, expected: str) -> None:
    assert since(log, 60, now=NOW).endswith(expected)
    assert "old" not in since(log, 60, now=NOW)
    assert since(log, 3600, now=NOW) == log


def test_since_says_when_a_log_has_no_stamps() -> None:
    with pytest.raises(UsageError, match="carries no times"):
        since("loading\nready\n", 60, now=NOW)
    assert since("", 60, now=NOW) == ""


def test_last_lines() -> None:
    assert last_lines("a\nb\nc\n", 2) == "b\nc\n"
    assert last_lines("a\nb", None) == "a\nb"
    assert last_lines("a\n", 0) == ""
