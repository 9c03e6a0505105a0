"""Files of the local host through the SDK: listing, changing, searching."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest
from daytona import Sandbox
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaFileNotFoundError,
)


@pytest.fixture
def home(sandbox: Sandbox) -> Path:
    return Path(sandbox.get_user_home_dir())


def test_listing_and_depth(sandbox: Sandbox, home: Path) -> None:
    sandbox.fs.create_folder("w/a/b", "750")
    (home / "w/a/b/deep.txt").write_text("12345")
    (home / "w/top.txt").write_text("")
    (home / "w/loop").symlink_to(home / "w")
    assert [item.name for item in sandbox.fs.list_files("w")] == ["a", "loop", "top.txt"]
    two = sandbox.fs.list_files("w", depth=2)
    assert [item.path for item in two] == [f"{home}/w/{name}" for name in ("a", "a/b", "loop", "top.txt")]
    assert [item.name for item in sandbox.fs.list_files(str(home / "w"), depth=9)][:3] == ["a", "b", "deep.txt"]
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.list_files("missing")
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.list_files("w/top.txt")
    with pytest.raises(DaytonaBadRequestError):
        sandbox.fs.list_files("w\0")


def test_info(sandbox: Sandbox, home: Path) -> None:
    (home / "f").write_bytes(b"123")
    (home / "f").chmod(0o640)
    info = sandbox.fs.get_file_info("f")
    assert (info.name, info.is_dir, info.size, info.mode, info.permissions) == ("f", False, 3, "-rw-r-----", "0640")
    assert info.owner == (home / "f").owner()
    assert datetime.fromisoformat(info.modified_at or "").timestamp() == pytest.approx(
        (home / "f").stat().st_mtime, abs=1
    )
    assert sandbox.fs.get_file_info(".").is_dir
    with pytest.raises(DaytonaFileNotFoundError) as caught:
        sandbox.fs.get_file_info("missing")
    assert (caught.value.status_code, caught.value.code) == (404, "FILE_NOT_FOUND")


def test_folders_and_their_modes(sandbox: Sandbox, home: Path) -> None:
    sandbox.fs.create_folder("private", "700")
    assert (home / "private").stat().st_mode & 0o777 == 0o700
    sandbox.fs.create_folder("private", "755")
    assert (home / "private").stat().st_mode & 0o777 == 0o700
    with pytest.raises(DaytonaBadRequestError, match="octal"):
        sandbox.fs.create_folder("other", "rwx")


def test_deleting(sandbox: Sandbox, home: Path) -> None:
    sandbox.fs.create_folder("d/e", "755")
    (home / "kept").write_text("x")
    (home / "link").symlink_to(home / "kept")
    with pytest.raises(DaytonaBadRequestError, match="recursive"):
        sandbox.fs.delete_file("d")
    sandbox.fs.delete_file("d", recursive=True)
    sandbox.fs.delete_file("link")
    assert sorted(path.name for path in home.iterdir() if path.name != "tmp") == ["kept"]
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.delete_file("d")


def test_moving(sandbox: Sandbox, home: Path) -> None:
    (home / "a").write_text("A")
    (home / "b").write_text("B")
    sandbox.fs.move_files("a", "c")
    assert (home / "c").read_text() == "A"
    with pytest.raises(DaytonaConflictError, match="already exists"):
        sandbox.fs.move_files("c", "b")
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.move_files("c", "missing/c")
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.move_files("missing", "d")
    assert (home / "b").read_text() == "B"


def test_permissions(sandbox: Sandbox, home: Path) -> None:
    (home / "f").write_text("")
    sandbox.fs.set_file_permissions("f", mode="751", owner=str(os.getuid()), group=str(os.getgid()))
    assert (home / "f").stat().st_mode & 0o777 == 0o751
    with pytest.raises(DaytonaBadRequestError):
        sandbox.fs.set_file_permissions("f", mode="999")
    with pytest.raises(DaytonaBadRequestError):
        sandbox.fs.set_file_permissions("f", owner="nobody-of-this-name")
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.set_file_permissions("missing", mode="600")


def test_finding_text(sandbox: Sandbox, home: Path) -> None:
    (home / "t/u").mkdir(parents=True)
    (home / "t/one.py").write_text("x = 1\n# TODO: (a.b)\n")
    (home / "t/u/two.py").write_text("\n\nlast TODO: (a.b)")
    (home / "t/binary").write_bytes(b"\0\0TODO: (a.b)")
    found = sandbox.fs.find_files("t", "TODO: (a.b)")
    assert [(Path(match.file).name, match.line, match.content) for match in found] == [
        ("one.py", 2, "# TODO: (a.b)"),
        ("two.py", 3, "last TODO: (a.b)"),
    ]
    assert len(sandbox.fs.find_files("t/one.py", "x = ")) == 1
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.find_files("missing", "x")


def test_searching_names(sandbox: Sandbox, home: Path) -> None:
    (home / "s/in").mkdir(parents=True)
    for name in ("a.py", "b.txt", "in/c.py", "in/.hidden.py"):
        (home / "s" / name).write_text("")
    found = sandbox.fs.search_files("s", "*.py").files
    assert sorted(found) == sorted(f"{home}/s/{name}" for name in ("a.py", "in/.hidden.py", "in/c.py"))
    assert sandbox.fs.search_files("s", "zzz").files == []


def test_replacing(sandbox: Sandbox, home: Path) -> None:
    (home / "r1").write_bytes(b"a.b a.b axb \xff")
    (home / "r1").chmod(0o600)
    (home / "r2").write_text("nothing here")
    results = sandbox.fs.replace_in_files(["r1", "r2", "missing"], "a.b", "ü")
    assert [(result.file, result.success) for result in results] == [("r1", True), ("r2", True), ("missing", False)]
    assert (home / "r1").read_bytes() == "ü ü axb ".encode() + b"\xff"
    assert (home / "r1").stat().st_mode & 0o777 == 0o600
    assert "No such file" in (results[2].error or "")
    assert (home / "r2").read_text() == "nothing here"
