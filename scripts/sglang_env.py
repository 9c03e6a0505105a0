"""Builds what ``pytest -m sglang`` runs: real SGLang on a CPU, and small real models for it.

    python scripts/sglang_env.py [--folder FOLDER] [--find-links FOLDER-OF-WHEELS]

This is a lab build of SGLang 0.5.12.post1, not a supported one. SGLang's compiled kernels have no CPU build on PyPI, so
three things are not as its makers ship them:

- ``sgl_kernel`` is the stand-in of ``scripts/standins``: names with no kernels behind them. The server runs on
  PyTorch's own operations, at about two tokens a second; whatever needs a kernel fails with its name.
- SGLang's own requirements (CUDA builds throughout) are left out. ``sglang_env.txt`` has in their stead what it
  imports, in the versions that it asks for where it asks for one.
- torchvision, of which SGLang only uses transforms of pictures, loses one import (``_meta_registrations``): it
  describes compiled operations, which don't load beside PyTorch's CPU build.

All else is SGLang as released: server, scheduler, tokenizer, parsers, log, routes, metrics. The weights are those of
the embedded engine, SmolLM2-135M-Instruct (``engine_models.py``). Below FOLDER, in the user's cache by default:

    sglang/               a virtual environment of its own; nothing is installed beside gpuserve
    sglang-images.toml    says to the local host that this environment stands for SGLang's image
    models/smollm2        the model in Hugging Face's form
    models/smollm2-thinks the same with marker tokens, saying </think> where it would say "!": thinking that ends

What stands there already is not built again. Tried on Linux on x86-64 with Python 3.11 and PyTorch's CPU build (torch
2.13.0+cpu, found by pip's own settings or in ``--find-links``). Where pip finds PyPI's build only, that brings CUDA's
libraries, some GB more; this was not tried.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import engine_models
from engine_models import is_whole, say, set_whole

VERSION = "0.5.12.post1"
TORCH = "torch==2.13.0"
#: Installed without what they require.
ALONE = (f"sglang=={VERSION}", "torchvision==0.28.0")
REQUIREMENTS = Path(__file__).with_suffix(".txt")
STAND_IN = Path(__file__).with_name("standins") / "sgl_kernel"
NOT_IMPORTED = "    _meta_registrations,\n"
#: What the environment of a sandbox holds besides, as an image's would.
VARIABLES = {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}
#: What makes it serve on a CPU, in little memory, and idle when it has nothing to do.
CPU_FLAGS = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--disable-overlap-schedule", "--mem-fraction-static", "0.1", "--max-total-tokens", "16384", "--sleep-on-idle"),
)
#: The thinking model's token of this text is said where the other would be.
END, SAID_FOR = "</think>", "!"

_THINKS = """
import json, sys
from safetensors.numpy import load_file, save_file
source, target, end, said_for = sys.argv[1:]
words = json.load(open(source + "/tokenizer.json"))["model"]["vocab"]
tensors = load_file(source + "/model.safetensors")
rows = tensors["model.embed_tokens.weight"]  # the output's too: they are tied
rows[words[end]] = rows[words[said_for]] * 1.1
save_file(tensors, target + "/model.safetensors", metadata={"format": "pt"})
"""


def environment(place: Path) -> Path:
    """The virtual environment below ``place``."""
    return place / "sglang"


def images_file(place: Path) -> Path:
    """What GPUSERVE_HOST_IMAGES must name."""
    return place / "sglang-images.toml"


def models(place: Path) -> tuple[Path, Path]:
    """The model as it is, and the one that thinks."""
    return place / "models" / "smollm2", place / "models" / "smollm2-thinks"


def missing(place: Path) -> list[Path]:
    """What isn't there yet."""
    stamps = [folder.with_name(folder.name + ".json") for folder in (environment(place), *models(place))]
    return [file for file in (*stamps, images_file(place)) if not file.exists()]


def build(place: Path, find_links: str = "") -> None:
    """Makes ``place`` what the tests need."""
    place.mkdir(parents=True, exist_ok=True)
    folder = environment(place)
    content = [TORCH, *ALONE, REQUIREMENTS.read_text(encoding="utf-8"), (STAND_IN / "__init__.py").read_text()]
    if not is_whole(folder, content):
        _install(folder, find_links)
        _adapt(folder)
        set_whole(folder, content)
    plain, marked = engine_models.both(place)
    _make_thinking(models(place)[1], marked, engine_models.tools(place) / "python")
    assert plain == models(place)[0]
    images_file(place).write_text(_images(folder), encoding="utf-8")


def _install(folder: Path, find_links: str) -> None:
    venv.create(folder, with_pip=True)
    links = ["--find-links", find_links] if find_links else []
    for what in ([TORCH], ["--no-deps", "-r", str(REQUIREMENTS)], ["--no-deps", *ALONE]):
        say(f"installing {what[-1]}")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *links, *what], check=True, stdout=sys.stderr)


def _adapt(folder: Path) -> None:
    """The stand-in and the import that is left out; and everything compiled, which spares each start some seconds."""
    packages = next(folder.glob("lib/python3*/site-packages"))
    shutil.copytree(STAND_IN, packages / "sgl_kernel", ignore=shutil.ignore_patterns("__pycache__"))
    module = packages / "torchvision" / "__init__.py"
    before = module.read_text(encoding="utf-8")
    if NOT_IMPORTED not in before:
        raise SystemExit("torchvision isn't as expected: it doesn't import _meta_registrations where 0.28.0 does")
    module.write_text(before.replace(NOT_IMPORTED, ""), encoding="utf-8")
    compiling = [str(folder / "bin" / "python"), "-m", "compileall", "-q", "-j", "0", str(packages)]
    subprocess.run(compiling, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # templates don't


def _make_thinking(folder: Path, marked: Path, python: Path) -> None:
    content = [_THINKS, END, SAID_FOR, engine_models.MARKERS, engine_models.TEMPLATE]
    if is_whole(folder, content):
        return
    left_out = shutil.ignore_patterns("model.safetensors")
    shutil.copytree(marked, folder, ignore=left_out)
    tokenizer: Any = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in tokenizer["added_tokens"]:  # as the models' own makers have them: words, which stay in the text
        token["special"] &= token["content"] not in ("<think>", END)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    subprocess.run([str(python), "-c", _THINKS, str(marked), str(folder), END, SAID_FOR], check=True)
    set_whole(folder, content)


def _images(folder: Path) -> str:
    """The profile of the image, as ``gpuserve.host.images`` reads it."""
    variables = ", ".join(f'{name} = "{value}"' for name, value in VARIABLES.items())
    path = json.dumps(str(folder / "bin"))
    lines = ("[[image]]", 'pattern = "lmsysorg/sglang:*"', f"path = [{path}]", 'modules = ["sglang"]')
    return "\n".join((*lines, f"env = {{ {variables} }}", ""))


def main() -> None:
    """Builds, and says what to set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=engine_models.default_place(), help="where it is all kept")
    parser.add_argument("--find-links", default="", help="a folder or page of wheels that pip looks into besides")
    given = parser.parse_args()
    place: Path = given.folder.absolute()
    build(place, given.find_links)
    print(f"export GPUSERVE_ENGINES={place}")
    print(f"export GPUSERVE_HOST_IMAGES={images_file(place)}")
    flags = " ".join(f"--engine-arg={flag}" for flag in (*CPU_FLAGS, "--grammar-backend", "llguidance"))
    say(f"then: gpuserve up --local --engine sglang --model {models(place)[0]} {flags}")
    say("or:   pytest -m sglang")


if __name__ == "__main__":
    main()
