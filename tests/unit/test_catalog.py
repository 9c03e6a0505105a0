"""The catalogue: which row a model gets, and what a bad row says."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from gpuserve import catalog
from gpuserve.errors import ConfigError

LOGS = Path(__file__).parents[1] / "data"

#: Model: family, then tool and reasoning parser of vLLM, then of SGLang.
MODELS = {
    "openai/gpt-oss-20b": ("gpt-oss", "openai", "openai_gptoss", "gpt-oss", "gpt-oss"),
    "openai/gpt-oss-120b": ("gpt-oss-120b", "openai", "openai_gptoss", "gpt-oss", "gpt-oss"),
    "unsloth/gpt-oss-20b-GGUF:Q4_K_M": ("gpt-oss", "openai", "openai_gptoss", "gpt-oss", "gpt-oss"),
    "google/gemma-4-26B-A4B-it": ("gemma-4", "gemma4", "gemma4", "gemma4", "gemma4"),
    "google/gemma-4-E2B-it": ("gemma-4", "gemma4", "gemma4", "gemma4", "gemma4"),
    "google/gemma-4-12B-it": ("", "", "", "", ""),
    "Qwen/Qwen3-8B": ("qwen3", "hermes", "qwen3", "qwen", "qwen3"),
    "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8": ("qwen3-2507-instruct", "hermes", "", "qwen", ""),
    "Qwen/Qwen3-4B-Thinking-2507": ("qwen3-2507-thinking", "hermes", "qwen3", "qwen", "qwen3-thinking"),
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": ("qwen3-coder", "qwen3_coder", "", "qwen3_coder", ""),
    "Qwen/Qwen3-Coder-Next": ("qwen3-coder", "qwen3_coder", "", "qwen3_coder", ""),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": ("qwen3-next", "hermes", "", "qwen", ""),
    "Qwen/Qwen3-Next-80B-A3B-Thinking": ("qwen3-next-thinking", "hermes", "qwen3", "qwen", "qwen3-thinking"),
    "Qwen/Qwen3-VL-8B-Instruct": ("qwen3-vl", "hermes", "", "qwen", ""),
    "Qwen/Qwen3-VL-8B-Thinking": ("qwen3-vl-thinking", "hermes", "qwen3", "qwen", "qwen3-thinking"),
    "Qwen/Qwen3.6-27B": ("qwen3.5+", "qwen3_coder", "qwen3", "qwen3_coder", "qwen3"),
    "Qwen/Qwen3-Embedding-8B": ("", "", "", "", ""),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama-3", "llama3_json", "", "llama3", ""),
    "meta-llama/Llama-3.3-70B-Instruct": ("llama-3", "llama3_json", "", "llama3", ""),
    "meta-llama/Meta-Llama-3-8B-Instruct": ("llama-3", "llama3_json", "", "llama3", ""),
    "meta-llama/Llama-3.2-3B-Instruct": ("llama-3.2", "llama3_json", "", "llama3", ""),
    "meta-llama/Llama-3.2-11B-Vision-Instruct": ("llama-3.2-vision", "", "", "", ""),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": ("", "", "", "", ""),
    "NousResearch/Hermes-3-Llama-3.1-8B": ("hermes-2-3", "hermes", "", "hermes", ""),
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": ("deepseek-r1-distill", "", "deepseek_r1", "", "deepseek-r1"),
    "nvidia/Llama-3.1-Nemotron-Nano-8B-v1": ("llama-nemotron", "", "", "", ""),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("smollm2", "", "", "", ""),
    "/models/Qwen3-8B": ("qwen3", "hermes", "qwen3", "qwen", "qwen3"),
    "somebody/else": ("", "", "", "", ""),
}

GOOD = """
[[family]]
id = "x"
match = "x"
confidence = "low"
source = "nowhere"
"""


@pytest.mark.parametrize("model", MODELS)
def test_lookup(model: str) -> None:
    vllm, sglang = catalog.lookup(model, "vllm"), catalog.lookup(model, "sglang")
    assert vllm.family == sglang.family
    found = (vllm.family, vllm.tool_parser, vllm.reasoning_parser, sglang.tool_parser, sglang.reasoning_parser)
    assert found == MODELS[model]


def test_any_case_matches() -> None:
    assert catalog.lookup("OPENAI/GPT-OSS-20B", "vllm") == catalog.lookup("openai/gpt-oss-20b", "vllm")


@pytest.mark.parametrize("engine", ["llamacpp", "somebodys"])
def test_engine_that_a_row_says_nothing_about_gets_the_family_alone(engine: str) -> None:
    facts = catalog.lookup("openai/gpt-oss-20b", engine)
    assert facts.family == "gpt-oss"
    assert (facts.tool_parser, facts.reasoning_parser, facts.flags) == ("", "", ())


def test_tool_templates_are_absolute_paths() -> None:
    for family in catalog.families():
        for facts in family.engines.values():
            for flag, value in zip(facts.flags, facts.flags[1:], strict=False):
                if flag == "--chat-template":
                    assert value.startswith("/")
                    assert value.endswith(".jinja")
    assert "--chat-template" in catalog.lookup("meta-llama/Llama-3.2-1B-Instruct", "vllm").flags


def test_every_row_says_where_it_is_from() -> None:
    for family in catalog.families():
        assert family.source.endswith(f"(confidence: {family.confidence})")
        assert all(facts.source == family.source for facts in family.engines.values())


def test_every_row_can_be_reached() -> None:
    found = {catalog.lookup(model, "vllm").family for model in MODELS} | {
        catalog.lookup("NousResearch/Hermes-4-14B", "vllm").family
    }
    assert {family.id for family in catalog.families()} == found - {""}


def test_parsers_are_ones_that_the_engines_have() -> None:
    registries = tomllib.loads((LOGS / "parsers.toml").read_text(encoding="utf-8"))
    for family in catalog.families():
        for engine, facts in family.engines.items():
            assert facts.tool_parser in ("", *registries[engine]["tool"])
            assert facts.reasoning_parser in ("", *registries[engine]["reasoning"])


def test_nothing_of_the_catalogue_runs_a_repositorys_code() -> None:
    assert "trust-remote-code" not in "".join(
        flag for family in catalog.families() for facts in family.engines.values() for flag in facts.flags
    )


def test_the_file_ships_with_the_package() -> None:
    assert files("gpuserve.catalog").joinpath("families.toml").is_file()


def test_a_good_row() -> None:
    (family,) = catalog.parse(GOOD + '[family.vllm]\nflags = ["--a", "b"]\nenv = { C = "d" }', "mine.toml")
    facts = family.engines["vllm"]
    assert (facts.family, facts.flags, dict(facts.env)) == ("x", ("--a", "b"), {"C": "d"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[family", "no TOML"),
        ("other = 1", "family"),
        ("family = 3", "family"),
        ("family = [3]", "family 1 is no table"),
        (GOOD.replace('id = "x"', ""), "family 1: id is missing"),
        (GOOD.replace('match = "x"', ""), r"family 1 \(x\): match is missing"),
        (GOOD.replace('source = "nowhere"', ""), r"\(x\): source is missing"),
        (GOOD.replace('"low"', '"sure"'), r"\(x\): confidence is 'sure'"),
        (GOOD.replace('match = "x"', 'match = "("'), r"\(x\): match is no regular expression"),
        (GOOD.replace('match = "x"', "match = 1"), r"\(x\): match is no text"),
        (GOOD + GOOD, "more than one family is called x"),
        (GOOD + "vllm = 1", r"\(x\): vllm is no table"),
        (GOOD + "[family.vllm]\ntool_parser = 1", r"\(x\): vllm: tool_parser is no text"),
        (GOOD + "[family.vllm]\ntoolparser = 'a'", r"\(x\): vllm: unknown field toolparser"),
        (GOOD + "[family.vllm]\nflags = 'a'", r"\(x\): vllm: flags is no list"),
        (GOOD + "[family.vllm]\nflags = ['a']", r"\(x\): vllm: flags begin with 'a'"),
        (GOOD + "[family.vllm]\nenv = { A = 1 }", r"\(x\): vllm: env is no table of texts"),
    ],
)
def test_bad_row_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        catalog.parse(text, "mine.toml")
    assert "mine.toml" in caught.value.message
