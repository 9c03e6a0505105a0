"""Builds what ``pytest -m clients`` runs: clients of an OpenAI-compatible API that others wrote.

    python scripts/clients_env.py [--into DIRECTORY]

A virtual environment each for litellm, llm and langchain-openai, whose requirements disagree, and a folder with
openai for Node and opencode, below the user's cache directory. Prints the directory on stdout. A part that stands
there already in these versions isn't built again. They are pinned: releases 1.82.7 and 1.82.8 of litellm (March 2026)
stole credentials.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

PYTHON_CLIENTS = {"litellm": "litellm==1.80.10", "llm": "llm==0.36", "langchain": "langchain-openai==1.7.0"}
NODE_CLIENTS = {"openai": "7.57.0", "opencode-ai": "1.18.33"}
INSTALL_NODE = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")


def default_place() -> Path:
    """$GPUSERVE_CLIENTS, or a folder below $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("GPUSERVE_CLIENTS")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else caches / "gpuserve-clients"


def build(place: Path) -> None:
    """Makes ``place`` what the tests need; a part that is whole already is left alone."""
    place.mkdir(parents=True, exist_ok=True)
    for name, package in PYTHON_CLIENTS.items():
        _once(place / name, [package], lambda folder, package=package: _python(folder, package))  # type: ignore[misc]  # mypy knows no lambda defaults
    if shutil.which("npm"):
        _once(place / "node", NODE_CLIENTS, _node)
    else:
        print("npm is not installed: the clients for Node are left out", file=sys.stderr)


def _once(folder: Path, content: object, make: Callable[[Path], None]) -> None:
    stamp, wanted = folder.with_suffix(".json"), json.dumps(content, sort_keys=True)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"building {folder.name}", file=sys.stderr)
    make(folder)
    stamp.write_text(wanted, encoding="utf-8")


def _python(folder: Path, package: str) -> None:
    venv.create(folder, with_pip=True)
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", package)
    subprocess.run([str(folder / "bin" / "python"), *install], check=True, stdout=sys.stderr)


def _node(folder: Path) -> None:
    folder.mkdir()
    package = {"private": True, "type": "module", "dependencies": NODE_CLIENTS}
    (folder / "package.json").write_text(json.dumps(package), encoding="utf-8")
    subprocess.run(INSTALL_NODE, cwd=folder, check=True, stdout=sys.stderr)


def main() -> None:
    """Builds, and says where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=default_place())
    place: Path = parser.parse_args().into
    build(place)
    print(place)


if __name__ == "__main__":
    main()
