"""Contents in and out through the SDK."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from daytona import FileDownloadRequest, FileUpload, Sandbox
from daytona.common.errors import DaytonaError, DaytonaFileNotFoundError, DaytonaInvalidFilePathError

from gpuserve.host.daemon import HostInfo
from host.toolbox_http import Toolbox

ODD_NAMES = ["plain", "two words", 'quo"te', "back\\slash", "ünï/€.txt", "semi;colon=1", "per%41cent", "new\nline"]


@pytest.fixture
def home(sandbox: Sandbox) -> Path:
    return Path(sandbox.get_user_home_dir())


def test_round_trip_of_many(sandbox: Sandbox, home: Path, tmp_path: Path) -> None:
    big = os.urandom(3_000_000)
    (tmp_path / "big").write_bytes(big)
    contents: dict[str, bytes] = {f"in/{name}": name.encode() * 3 for name in ODD_NAMES}
    contents |= {"empty": b"", "crlf": b"\r\n--boundary\r\n\r\n", str(home / "absolute"): b"abs"}
    uploads = [FileUpload(data, name) for name, data in contents.items()]
    sandbox.fs.upload_files([*uploads, FileUpload(str(tmp_path / "big"), "big")])
    assert (home / "big").read_bytes() == big
    names = [*contents, "big"]
    answers = sandbox.fs.download_files([FileDownloadRequest(source=name) for name in names])
    assert {answer.source: answer.result for answer in answers} == contents | {"big": big}
    sandbox.fs.download_file("big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == big


def test_streams_with_progress(sandbox: Sandbox) -> None:
    data = os.urandom(700_000)
    sandbox.fs.upload_file_stream(data, "streamed")
    totals: list[int | None] = []
    back = b"".join(sandbox.fs.download_file_stream("streamed", on_progress=lambda p: totals.append(p.total_bytes)))
    assert back == data
    assert set(totals) == {len(data)}


def test_one_failure_among_others(sandbox: Sandbox, home: Path) -> None:
    (home / "here").write_text("yes")
    (home / "folder").mkdir()
    os.mkfifo(home / "fifo")
    wanted = ["missing", "here", "folder", "fifo"]
    answers = sandbox.fs.download_files([FileDownloadRequest(source=name) for name in wanted])
    assert [answer.result for answer in answers] == [None, b"yes", None, None]
    codes = [answer.error_details.code if answer.error_details else None for answer in answers]
    assert codes == ["FILE_NOT_FOUND", None, "INVALID_FILE_PATH", "INVALID_FILE_PATH"]
    with pytest.raises(DaytonaFileNotFoundError) as caught:
        sandbox.fs.download_file("missing")
    assert (caught.value.status_code, caught.value.source) == (404, "DAYTONA_DAEMON")
    with pytest.raises(DaytonaInvalidFilePathError):
        sandbox.fs.download_file("folder")


def test_an_upload_keeps_mode_and_link_and_leaves_nothing_half(sandbox: Sandbox, home: Path) -> None:
    (home / "script").write_text("old")
    (home / "script").chmod(0o755)
    (home / "link").symlink_to("script")
    (home / "folder").mkdir()
    sandbox.fs.upload_file(b"new", "link")
    assert (home / "link").is_symlink()
    assert ((home / "script").read_text(), (home / "script").stat().st_mode & 0o777) == ("new", 0o755)
    with pytest.raises(DaytonaError, match="regular file"):
        sandbox.fs.upload_files([FileUpload(b"good", "good"), FileUpload(b"x", "folder")])
    assert (home / "good").read_text() == "good"
    assert not list(home.rglob("*.part"))


def test_an_upload_that_breaks_off_changes_nothing(sandbox: Sandbox, home: Path) -> None:
    (home / "kept").write_text("whole")
    never = threading.Event()

    class Broken:
        sent = 0

        def read(self, _: int = -1) -> bytes:
            self.sent += 1
            if self.sent > 3:
                never.set()
                raise RuntimeError("the source broke")
            return b"x" * 65536

    with pytest.raises(Exception, match="the source broke"):
        sandbox.fs.upload_file_stream(Broken(), "kept")  # type: ignore[arg-type]
    assert never.is_set()
    assert (home / "kept").read_text() == "whole"


def test_plain_single_file_routes(sandbox: Sandbox, home: Path, host: HostInfo) -> None:
    toolbox = Toolbox(host, sandbox)
    data = os.urandom(300_000)
    answer = toolbox.request("POST", "/files/upload", params={"path": "dir/plain"}, files={"file": ("n", data)})
    assert answer.status_code == 200
    assert answer.json()["path"] == str(home / "dir/plain")
    answer = toolbox.request("GET", "/files/download", params={"path": "dir/plain"})
    assert answer.content == data
    answer = toolbox.request("GET", "/files/download", params={"path": "missing"})
    assert (answer.status_code, answer.json()["code"]) == (404, "FILE_NOT_FOUND")
    answer = toolbox.request("POST", "/files/bulk-upload", content=b"{}")
    assert answer.status_code == 400
    answer = toolbox.request("POST", "/files/bulk-upload", files={"files[0].file": ("n", b"x")})
    assert answer.status_code == 400
    assert "path is required" in answer.json()["errors"][0]
