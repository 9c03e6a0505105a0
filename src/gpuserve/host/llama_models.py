"""Finds the GGUF file that ``-m`` or ``-hf`` means."""

from __future__ import annotations

import importlib
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gpuserve.host import weights

#: The IDs under which the embedded weights are known, and what may follow them.
_EMBEDDED = ("huggingfacetb/smollm2-135m-instruct-gguf", "huggingfacetb/smollm2-135m-instruct")
_EMBEDDED_QUANTISATIONS = ("", "q4_1", "latest")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

Report = Callable[[str], None]


class ModelNotFound(Exception):
    """The model can't be had. The message says why and what to do."""


def find(options: Namespace, report: Report) -> Path:
    """The model's file, fetched if need be; ``report`` is told of what takes time.

    Raises:
        ModelNotFound: no model was named, or it is neither here nor to be had.
        weights.WeightsError: the embedded weights can't be fetched.
    """
    if options.model:
        return Path(options.model)
    if not options.hf_repo:
        raise ModelNotFound("--model is required (or --hf-repo)")
    repository, _, quantisation = options.hf_repo.partition(":")
    if not _REPOSITORY.fullmatch(repository):
        raise ModelNotFound(f"invalid HF repo format {options.hf_repo!r}, expected <user>/<model>[:quant]")
    if repository.lower() in _EMBEDDED and quantisation.lower() in _EMBEDDED_QUANTISATIONS and not options.hf_file:
        return weights.prepare(weights.default_directory(), report)
    cached = _cached(repository, quantisation, options.hf_file)
    return cached or _download(repository, quantisation, options, report)


def choose(names: Iterable[str], quantisation: str, file: str = "") -> str:
    """Which of a repository's files is meant, as llama.cpp chooses; "" if none.

    ``file`` by its name, else the quantisation, else Q4_K_M, else the first; of a model in several
    parts the first part. Vision projectors (mmproj) are no models.
    """
    models = sorted(name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower())
    if file:
        return file if file in models else ""
    first_parts = [name for name in models if (part := _SHARD.search(name)) is None or int(part[1]) == 1]
    for wanted in [quantisation] if quantisation else ["Q4_K_M", ""]:
        for name in first_parts:
            if wanted.lower() in name.lower():
                return name
    return ""


def parts(name: str) -> list[str]:
    """All the files of a model of which ``name`` is the first."""
    part = _SHARD.search(name)
    if part is None:
        return [name]
    count = int(part[2])
    return [f"{name[: part.start()]}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def cache_directory() -> Path:
    """Hugging Face's own cache: ``$HF_HUB_CACHE``, ``$HF_HOME/hub``, or the default."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given)
    if home := os.environ.get("HF_HOME"):
        return Path(home) / "hub"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "huggingface" / "hub"


def _cached(repository: str, quantisation: str, file: str) -> Path | None:
    """The file in Hugging Face's cache, at the revision that ``main`` had when it was fetched."""
    place = cache_directory() / f"models--{repository.replace('/', '--')}"
    try:
        snapshot = place / "snapshots" / (place / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:  # not in the cache
        return None
    present = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*.gguf")}
    chosen = choose(present, quantisation, file)
    return snapshot / chosen if chosen and present.issuperset(parts(chosen)) else None


def _download(repository: str, quantisation: str, options: Namespace, report: Report) -> Path:
    what = f"{repository}:{quantisation}" if quantisation else repository
    failed = f"couldn't get the model {what}: "
    if options.offline:
        raise ModelNotFound(failed + "it isn't in the cache, and --offline was given")
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ModelNotFound(
            failed + "it isn't in Hugging Face's cache, and fetching it needs the package huggingface_hub"
            " (pip install huggingface_hub); -m PATH serves a file that is here"
        ) from error
    try:
        chosen = choose(hub.list_repo_files(repository), quantisation, options.hf_file)
        if chosen:
            report(f"downloading weights: {repository}/{chosen}")
        fetched = [Path(hub.hf_hub_download(repository, part)) for part in parts(chosen) if chosen]
    except Exception as error:  # its own errors, its HTTP library's, the disk's
        raise ModelNotFound(failed + " ".join((str(error) or repr(error)).split())) from error
    if not fetched:
        raise ModelNotFound(failed + "its repository has no such GGUF file")
    return fetched[0]
