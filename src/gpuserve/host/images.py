"""What stands for a container image on this machine.

A profile maps image references to directories for ``PATH``, variables, and what must be installed. The user's profiles
come first, from ``images.toml`` beside the state directory or the file named by ``GPUSERVE_HOST_IMAGES``::

    [[image]]
    pattern = "vllm/vllm-openai:*"      # matched with fnmatch, case-sensitively
    path = ["~/venvs/vllm/bin"]         # first on PATH
    env = { VLLM_USE_V1 = "1" }
    requires = ["vllm"]                 # programs that must be found
    modules = []                        # Python modules that the first python3 found must have

Then come the built-in profiles. An image that none matches is a failed build, as on the platform.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpuserve.host.dockerfile import Recipe, read_dockerfile
from gpuserve.host.paths import private_directory

Report = Callable[[str], None]
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_HUBS = ("docker.io/library/", "docker.io/", "index.docker.io/library/", "index.docker.io/")


class BuildError(Exception):
    """The image cannot be had on this machine; the text is the sandbox's ``errorReason``."""


@dataclass(frozen=True)
class Profile:
    """What stands for the images that match ``pattern``."""

    pattern: str
    path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    bundled: bool = False
    """Served by the llama-server that comes with this package."""


@dataclass(frozen=True)
class Built:
    """A finished build: what goes first on PATH, and variables."""

    path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


PROFILES = (
    Profile("ghcr.io/ggml-org/llama.cpp:*", bundled=True),
    Profile("vllm/vllm-openai:*", requires=("vllm",)),
    Profile("vllm/vllm-openai-cpu:*", requires=("vllm",)),
    Profile("lmsysorg/sglang:*", modules=("sglang",)),
    Profile("python:*"),
    Profile("debian:*"),
    Profile("ubuntu:*"),
    Profile("daytonaio/sandbox:*"),
)


def own_programs() -> str:
    """The directory of the Python that runs the host: on every sandbox's PATH, so that ``python3`` has ``openai``."""
    return str(Path(sys.executable).parent)


def normalised(reference: str) -> str:
    """``reference`` without Docker's default registry and digest, with ``:latest`` when it has no tag."""
    name = reference.partition("@")[0]
    name = next((name.removeprefix(hub) for hub in _HUBS if name.startswith(hub)), name)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class Images:
    """Builds, that is: looks for what an image needs, once for each Dockerfile."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._built: dict[str, Built] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def cached(self, dockerfile: str) -> Built | None:
        """The finished build of the same Dockerfile, if there is one."""
        return self._built.get(dockerfile)

    async def build(self, dockerfile: str, report: Report) -> Built:
        """Find what the Dockerfile asks for, telling ``report`` each step.

        Two builds of the same Dockerfile wait for each other; the second takes the result of the first.

        Raises:
            BuildError: nothing here stands for the image, or it lacks something.
        """
        async with self._locks.setdefault(dockerfile, asyncio.Lock()):
            found = self._built.get(dockerfile)
            if found is None:
                found = await in_daemon_thread(lambda: self._build(dockerfile, report))
                self._built[dockerfile] = found
            else:
                report("using the image built before")
            return found

    def _build(self, dockerfile: str, report: Report) -> Built:
        recipe = read_dockerfile(dockerfile)
        if recipe.image is None:
            raise BuildError("no build stage in the Dockerfile: it has no FROM")
        report(f"FROM {recipe.image}")
        profile = self._profile(recipe.image)
        _check_instructions(recipe, report)
        _check_packages(recipe.packages, report)
        built = self._bundled(report) if profile.bundled else found_programs(profile, recipe.image)
        report(f"found in {', '.join(built.path)}" if built.path else "stands for this machine as it is")
        return Built(built.path, {**built.env, **recipe.env})

    def _profile(self, reference: str) -> Profile:
        name = normalised(reference)
        for profile in (*self._user_profiles(), *PROFILES):
            if fnmatchcase(name, profile.pattern) or fnmatchcase(reference, profile.pattern):
                return profile
        raise BuildError(
            f"manifest unknown: nothing on this machine stands for {reference}; map it in {self._user_file().name}"
        )

    def _user_file(self) -> Path:
        chosen = os.environ.get("GPUSERVE_HOST_IMAGES")
        return Path(chosen).expanduser() if chosen else self._state.parent / "images.toml"

    def _user_profiles(self) -> list[Profile]:
        file = self._user_file()
        if not file.exists():
            return []
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            return [_user_profile(entry) for entry in content.get("image", [])]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BuildError(f"{file.name} cannot be read: {error}") from error

    def _bundled(self, report: Report) -> Built:
        """The package's own ``llama-server`` with its default model, fetched once and checked by hash."""
        if find_spec("xllamacpp") is None or find_spec("gpuserve.host.llama_server") is None:
            raise BuildError("the bundled llama-server is not installed; run: pip install 'gpuserve[local]'")
        from gpuserve.host import weights

        directory = weights.default_directory()
        try:
            weights.prepare(directory, report)
        except Exception as error:  # whatever the download met is the reason of the failed build
            raise BuildError(f"the default model could not be prepared: {error}") from error
        return Built((str(_wrapper(self._state)),), {"LLAMA_CACHE": str(directory)})


def _wrapper(state: Path) -> Path:
    directory = private_directory(state / "images" / "llama.cpp" / "bin")
    script = directory / "llama-server"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m gpuserve.host.llama_server "$@"\n')
    script.chmod(0o700)
    return directory


def _user_profile(entry: Mapping[str, Any]) -> Profile:
    lists = {key: tuple(str(one) for one in entry.get(key, [])) for key in ("path", "requires", "modules")}
    return Profile(
        pattern=str(entry["pattern"]),
        path=tuple(str(Path(one).expanduser()) for one in lists["path"]),
        env={str(key): str(value) for key, value in dict(entry.get("env", {})).items()},
        requires=lists["requires"],
        modules=lists["modules"],
    )


def _check_instructions(recipe: Recipe, report: Report) -> None:
    for line in recipe.skipped:
        report(f"no effect on this machine: {line}")
    if recipe.unsupported:
        advice = "install what it needs and map the image in images.toml"
        raise BuildError(f"this host cannot carry out: {recipe.unsupported[0]}; {advice}")


def _check_packages(packages: Sequence[str], report: Report) -> None:
    """Nothing is installed on this machine for a sandbox; what ``python3`` finds there must have it already.

    pip itself judges, kept from looking anywhere else.

    Raises:
        BuildError: a package is missing, or of another version.
    """
    if not packages:
        return
    report(f"pip install {shlex.join(packages)}: looked for, not installed")
    judge = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-input", *packages]
    done = subprocess.run(judge, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise BuildError(f"{said[0] if said else 'pip failed'}; this host installs nothing: pip install it yourself")


def found_programs(profile: Profile, reference: str) -> Built:
    """Check that everything the profile needs is there, and return where.

    Raises:
        BuildError: naming what is missing.
    """
    places = _unique([*profile.path, own_programs(), *os.environ.get("PATH", os.defpath).split(os.pathsep)])
    path = list(profile.path)
    for program in profile.requires:
        found = shutil.which(program, path=os.pathsep.join(places))
        if found is None:
            raise BuildError(f"{reference} needs {program}, which is not installed here; {_ADVICE}")
        place = str(Path(found).parent)
        if place not in (*SYSTEM_PATH, own_programs()):  # those are on PATH anyway, after the profile's
            path.append(place)
    path.extend(_with_module(places, module, reference) for module in profile.modules)
    return Built(tuple(_unique(path)), profile.env)


_ADVICE = "install it, or map the image to its environment in images.toml"


def _with_module(places: Sequence[str], module: str, reference: str) -> str:
    test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    for place in places:
        python = shutil.which("python3", path=place)
        if python and _succeeds([python, "-c", test]):
            return place
    raise BuildError(f"{reference} needs a python3 with the module {module}, which is not installed here; {_ADVICE}")


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _unique(items: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, items)))


async def in_daemon_thread(work: Callable[[], Built]) -> Built:
    """Run ``work`` in a thread that does not hold up the end of the process: a download may be long."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Built] = loop.create_future()

    def settle(result: Built | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        elif result is not None:
            future.set_result(result)

    def run() -> None:
        try:
            outcome: tuple[Built | None, BaseException | None] = (work(), None)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            outcome = (None, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True, name="image build").start()
    return await future
