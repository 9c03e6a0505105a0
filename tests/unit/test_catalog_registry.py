"""Every row of the catalogue, rendered by the real engines and checked against what their pinned versions take.

The registries under ``data/registries`` are made by ``scripts/update_registries.py`` from the engines' own sources.
"""

from __future__ import annotations

import re
import tomllib
import zipfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import update_registries

from gpuserve import catalog, engines
from gpuserve.catalog import shapes
from gpuserve.catalog.facts import FamilyFacts
from gpuserve.records import ModelFacts, ServeRequest

REGISTRIES = Path(__file__).parents[1] / "data" / "registries"
ENGINES = ("vllm", "sglang")
PARSERS = {"--tool-call-parser": "tool_parsers", "--reasoning-parser": "reasoning_parsers"}

#: A model of each family that ``models.toml`` has no sizes for.
OTHERS = {
    "functiongemma": "google/functiongemma-270m-it",
    "gemma-3n": "google/gemma-3n-E4B-it",
    "qwen3-next-thinking": "Qwen/Qwen3-Next-80B-A3B-Thinking",
    "qwen3-vl-thinking": "Qwen/Qwen3-VL-8B-Thinking",
    "deepseek-v3.2": "deepseek-ai/DeepSeek-V3.2",
    "deepseek-v3.1": "deepseek-ai/DeepSeek-V3.1",
    "deepseek-r1": "deepseek-ai/DeepSeek-R1-0528",
    "deepseek-v3": "deepseek-ai/DeepSeek-V3-0324",
    "hermes-4.3": "NousResearch/Hermes-4.3-36B",
    "llama-3.2-vision": "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "glm-5": "zai-org/GLM-5",
    "granite-3.0": "ibm-granite/granite-3.0-8b-instruct",
    "kimi-k2-instruct": "moonshotai/Kimi-K2-Instruct-0905",
    "kimi-k2": "moonshotai/Kimi-K2-Thinking",
    "k-exaone": "LGAI-EXAONE/K-EXAONE-236B-A23B",
    "internlm-2.5": "internlm/internlm2_5-7b-chat",
    "hy3": "tencent/Hy3-preview",
    "step-3.7": "stepfun-ai/Step-3.7-Flash",
    "laguna-s-2.1": "poolside/Laguna-S-2.1",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}


def registry(engine: str) -> dict[str, Any]:
    """What the pinned version of ``engine`` takes."""
    path = REGISTRIES / f"{engine}-{update_registries.version_of(engine)}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def problems(arguments: tuple[str, ...], taken: dict[str, Any]) -> list[str]:
    """What an engine with the registry ``taken`` would refuse of the arguments after its program."""
    found, seen, left = [], [], list(arguments)
    while left:
        flag, equals, value = left.pop(0).partition("=")
        has_value = bool(equals) or (bool(left) and not re.match(r"--?[A-Za-z]", left[0]))
        seen.append(flag)
        if flag in taken["switches"]:
            if equals or has_value:
                found.append(f"{flag} takes no value")
        elif flag not in taken["valued"] and flag not in taken["either"]:
            found.append(f"there is no flag {flag}")
        elif not has_value:
            found += [] if flag in taken["either"] else [f"{flag} needs a value"]
        if has_value and not equals:
            value = left.pop(0)
        if flag in PARSERS and value not in taken[PARSERS[flag]]:
            found.append(f"there is no {flag} {value}")
    return found + [f"{flag} stands there twice" for flag in sorted(set(seen)) if seen.count(flag) > 1]


def after_program(engine: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments without the program's own words: ``vllm serve MODEL``, ``python3 -m sglang.launch_server``."""
    return argv[3:]


def rendered(engine: str, model: str, facts: ModelFacts) -> tuple[str, ...]:
    """The arguments of the real engine's launch command."""
    request = ServeRequest(model=model, engine=engine, revision="main")
    return after_program(engine, engines.load(engine).plan(request, facts).argv)


def model_of(family: FamilyFacts) -> str:
    """The ID of a model of ``family``."""
    known = [shape.hf for shape in shapes.shapes() if shape.family == family.id]
    return known[0] if known else OTHERS[family.id]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_takes_what_a_fast_boot_adds(engine: str) -> None:
    request = ServeRequest(model="Qwen/Qwen3-8B", engine=engine, fast_boot=True)
    argv = after_program(engine, engines.load(engine).plan(request, ModelFacts()).argv)
    assert problems(argv, registry(engine)) == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", catalog.families(), ids=lambda family: family.id)
def test_the_engine_takes_what_the_row_says(family: FamilyFacts, engine: str) -> None:
    model = model_of(family)
    facts = catalog.lookup(model, engine, remote_code=True)
    assert facts.family == family.id
    argv = rendered(engine, model, facts)
    assert problems(argv, registry(engine)) == []
    for flag, parser in (("--tool-call-parser", facts.tool_parser), ("--reasoning-parser", facts.reasoning_parser)):
        assert (argv[argv.index(flag) + 1] if flag in argv else "") == parser
    assert (catalog.REMOTE_CODE_FLAG in argv) is family.engine(engine).remote_code
    assert problems(facts.optional_flags, registry(engine)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_called_supported_is_in_the_engines_own_list(engine: str) -> None:
    listed = tomllib.loads(files("gpuserve.catalog").joinpath("architectures.toml").read_text(encoding="utf-8"))
    served = set(listed["engine"][engine]["generating"])
    for family in catalog.families():
        support = family.engine(engine).support
        if support != "untested":
            assert bool(served & set(family.archs)) is (support == "native"), family.id


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ({"tool_parser": "llama4"}, "there is no --tool-call-parser llama4"),
        ({"reasoning_parser": "glm47"}, "there is no --reasoning-parser glm47"),
        ({"tool_parser": "auto"}, "there is no --tool-call-parser auto"),
        ({"flags": ("--tool-call-parser-plugin", "x.py")}, "there is no flag --tool-call-parser-plugin"),
        ({"flags": ("--trust-remote-code", "yes")}, "--trust-remote-code takes no value"),
        ({"flags": ("--chat-template", "--trust-remote-code")}, "--chat-template needs a value"),
        ({"flags": ("--port", "9")}, "--port stands there twice"),
    ],
)
def test_a_planted_mistake_is_found(engine: str, planted: dict[str, Any], said: str) -> None:
    facts = replace(catalog.lookup("Qwen/Qwen3-8B", engine), **planted)
    assert problems(rendered(engine, "Qwen/Qwen3-8B", facts), registry(engine)) == [said]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_registry_is_that_of_the_pinned_version(engine: str) -> None:
    taken = registry(engine)
    version = update_registries.version_of(engine)
    assert (taken["engine"], taken["version"]) == (engine, version)
    assert f"-{version}-" in taken["source"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", taken["date"])
    assert len(taken["valued"]) + len(taken["switches"]) > 300
    assert not set(taken["valued"]) & set(taken["switches"])


def test_the_script_reads_flags_as_argparse_would(tmp_path: Path) -> None:
    """A wheel in small, with each form of flag that the engines' sources have."""
    wheel = tmp_path / "sglang-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("sglang/srt/function_call/function_call_parser.py", "ToolCallParserEnum: dict = {'a': 1}")
        archive.writestr("sglang/srt/parser/reasoning_parser.py", "class R:\n    DetectorMap = {'b': 1, 'c': 2}")
        archive.writestr(
            "sglang/srt/server_args.py",
            "def add_cli_args(parser):\n"
            "    parser.add_argument('--model-path', '--model', type=str)\n"
            "    parser.add_argument('--trust', action='store_true')\n"
            "    parser.add_argument('--graph', action=argparse.BooleanOptionalAction)\n"
            "    parser.add_argument('--sum', nargs='?', const='')\n"
            "    parser.add_argument('positional')\n",
        )
    found = update_registries.sglang(update_registries.Wheel(wheel))
    assert (found.tool_parsers, found.reasoning_parsers) == (["a"], ["b", "c"])
    assert found.valued == {"--model-path", "--model"}
    assert found.switches == {"--trust", "--graph", "--no-graph"}
    assert found.either == {"--sum"}


def test_every_model_with_sizes_is_of_its_own_family() -> None:
    for shape in shapes.shapes():
        family = shapes.family_of(shape.hf)
        assert family is not None
        assert family.id == shape.family


def test_a_model_of_each_family_is_known() -> None:
    with_sizes = {shape.family for shape in shapes.shapes()}
    assert set(OTHERS) == {family.id for family in catalog.families()} - with_sizes
    for family_id, model in OTHERS.items():
        found = shapes.family_of(model)
        assert found is not None
        assert found.id == family_id
