"""The catalogue: which row a model gets, and what a bad row says."""

from __future__ import annotations

from importlib.resources import files

import pytest

from gpuserve import catalog
from gpuserve.catalog import book
from gpuserve.errors import ConfigError

#: Model: family, then tool and reasoning parser of vLLM, then of SGLang.
MODELS = {
    "openai/gpt-oss-20b": ("gpt-oss", "openai", "openai_gptoss", "gpt-oss", "gpt-oss"),
    "openai/gpt-oss-120b": ("gpt-oss", "openai", "openai_gptoss", "gpt-oss", "gpt-oss"),
    "unsloth/gpt-oss-20b-GGUF:Q4_K_M": ("gpt-oss", "openai", "openai_gptoss", "gpt-oss", "gpt-oss"),
    "google/gemma-4-26B-A4B-it": ("gemma-4", "gemma4", "gemma4", "gemma4", "gemma4"),
    "google/gemma-4-E2B-it": ("gemma-4", "gemma4", "gemma4", "gemma4", "gemma4"),
    "google/gemma-4-12B-it": ("gemma-4-unified", "gemma4", "gemma4", "gemma4", "gemma4"),
    "google/gemma-3-27b-it": ("gemma-3", "", "", "", ""),
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
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": ("llama-4", "llama4_pythonic", "", "pythonic", ""),
    "meta-llama/Llama-Guard-3-8B": ("", "", "", "", ""),
    "Salesforce/Llama-xLAM-2-8b-fc-r": ("xlam", "xlam", "", "", ""),
    "Salesforce/xLAM-2-32b-fc-r": ("xlam-qwen", "xlam", "", "", ""),
    "deepseek-ai/DeepSeek-R1-0528": ("deepseek-r1", "deepseek_v3", "deepseek_r1", "deepseekv3", "deepseek-r1"),
    "deepseek-ai/DeepSeek-V3.1-Terminus": (
        "deepseek-v3.1",
        "deepseek_v31",
        "deepseek_v3",
        "deepseekv31",
        "deepseek-v3",
    ),
    "deepseek-ai/DeepSeek-V4-Flash-0731": ("deepseek-v4", "deepseek_v4", "deepseek_v4", "deepseekv4", "deepseek-v4"),
    "mistralai/Ministral-3-8B-Reasoning-2512": ("ministral-3-reasoning", "mistral", "mistral", "mistral", "mistral"),
    "mistralai/Ministral-3-8B-Instruct-2512": ("ministral-3", "mistral", "", "mistral", ""),
    "mistralai/Mistral-Small-4-119B-2603": ("mistral-small-4", "mistral", "mistral", "mistral", "mistral"),
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": ("mistral-small-3", "mistral", "", "mistral", ""),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("mistral-legacy", "mistral", "", "mistral", ""),
    "zai-org/GLM-4.7-Flash": ("glm-4.7", "glm47", "glm45", "glm47", "glm45"),
    "zai-org/GLM-4.5-Air-FP8": ("glm-4.5", "glm45", "glm45", "glm", "glm45"),
    "microsoft/Phi-4-mini-flash-reasoning": ("phi-4-mini-reasoning", "", "deepseek_r1", "", "deepseek-r1"),
    "microsoft/Phi-4-mini-instruct": ("phi-4-mini", "phi4_mini_json", "", "", ""),
    "microsoft/phi-4": ("phi-4", "", "", "", ""),
    "ibm-granite/granite-4.0-h-small": ("granite-4", "granite4", "", "hermes", ""),
    "ibm-granite/granite-3.3-8b-instruct": ("granite-3", "granite", "granite", "", ""),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8": (
        "nemotron-3",
        "qwen3_coder",
        "nemotron_v3",
        "qwen3_coder",
        "nemotron_3",
    ),
    "moonshotai/Kimi-K2-Instruct-0905": ("kimi-k2-instruct", "kimi_k2", "", "kimi_k2", ""),
    "moonshotai/Kimi-K2.5": ("kimi-k2", "kimi_k2", "kimi_k2", "kimi_k2", "kimi_k2"),
    "MiniMaxAI/MiniMax-M2.7": ("minimax-m2", "minimax_m2", "minimax_m2", "minimax-m2", "minimax"),
    "allenai/Olmo-3.1-32B-Think": ("olmo-3-think", "olmo3", "olmo3", "", "deepseek-r1"),
    "LGAI-EXAONE/EXAONE-4.0-32B": ("exaone-4", "hermes", "deepseek_v3", "hermes", "mimo"),
    "CohereLabs/command-a-reasoning-08-2025": ("command-a-reasoning", "", "", "", ""),
    "tencent/Hy3-preview": ("hy3", "hy_v3", "hy_v3", "hunyuan", "hunyuan"),
    "stepfun-ai/Step-3.5-Flash-FP8": ("step-3.5", "step3p5", "step3p5", "step3p5", "step3p5"),
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


REMOTE = "deepseek-ai/DeepSeek-V4-Flash-0731"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_nothing_of_the_catalogue_runs_a_repositorys_code_unasked(engine: str) -> None:
    for family in catalog.families():
        facts = family.engine(engine)
        assert not any("trust-remote-code" in flag for flag in (*facts.flags, *facts.optional_flags))
        assert not any("trust-remote-code" in flag for flag in family.owner_flags.get(engine, ()))
    unasked = catalog.lookup(REMOTE, engine)
    assert unasked.remote_code
    assert "--trust-remote-code" not in unasked.flags
    assert "left out" in unasked.notes[0]


def test_a_repositorys_code_runs_where_it_is_asked_for_and_a_note_says_so() -> None:
    facts = catalog.lookup(REMOTE, "vllm", remote_code=True)
    assert facts.flags[-1] == "--trust-remote-code"
    assert facts.notes == (
        f"--trust-remote-code runs Python from the repository {REMOTE} in the sandbox: deepseek-v4 needs it.",
    )


@pytest.mark.parametrize("model", ["stranger/DeepSeek-V4-Flash", "/models/DeepSeek-V4-Flash", "DeepSeek-V4-Flash"])
def test_a_strangers_copy_runs_no_code_of_its_own(model: str) -> None:
    facts = catalog.lookup(model, "vllm", remote_code=True)
    assert facts.family == "deepseek-v4"
    assert "--trust-remote-code" not in facts.flags
    assert "makers' own" in facts.notes[0]


def test_a_model_that_needs_no_code_gets_no_note() -> None:
    assert catalog.lookup("Qwen/Qwen3-8B", "vllm", remote_code=True) == catalog.lookup("Qwen/Qwen3-8B", "vllm")
    assert catalog.lookup("Qwen/Qwen3-8B", "vllm").notes == ()


def test_mistrals_own_format_is_for_mistrals_own_repositories() -> None:
    assert "--config-format" in catalog.lookup("mistralai/Mistral-7B-Instruct-v0.3", "vllm").flags
    copied = catalog.lookup("somebody/Mistral-7B-Instruct-v0.3-AWQ", "vllm")
    assert (copied.tool_parser, copied.flags) == ("mistral", ())


def test_what_the_pinned_version_refuses_is_said_with_its_remedy() -> None:
    newer = catalog.unsupported("google/gemma-4-12B-it", "vllm")
    other = catalog.unsupported("meta-llama/Llama-3.2-11B-Vision-Instruct", "vllm")
    assert newer is not None
    assert other is not None
    assert newer.remedy == "Use --image with vLLM 0.23.0 or newer."
    assert other.remedy == "Use --engine sglang."
    assert "google/gemma-4-12B-it" in newer.cause
    assert catalog.supporting("meta-llama/Llama-3.2-11B-Vision-Instruct") == ("sglang",)
    assert catalog.unsupported("meta-llama/Llama-3.2-11B-Vision-Instruct", "sglang") is None
    assert catalog.unsupported("somebody/else", "vllm") is None


def test_an_untested_fallback_is_noted() -> None:
    assert "untested" in catalog.lookup("HuggingFaceTB/SmolLM3-3B", "sglang").notes[0]
    assert catalog.unsupported("HuggingFaceTB/SmolLM3-3B", "sglang") is None
    assert catalog.supporting("HuggingFaceTB/SmolLM3-3B") == ("vllm",)


def test_what_the_image_lacks_is_noted() -> None:
    facts = catalog.lookup("CohereLabs/command-a-reasoning-08-2025", "vllm")
    assert facts.packages == ("cohere_melody",)
    assert "cohere_melody" in facts.notes[0]


def test_templates_and_switches_are_told() -> None:
    assert catalog.lookup("google/gemma-4-26B-A4B-it", "vllm").templates == (
        "/vllm-workspace/examples/tool_chat_template_gemma4.jinja",
    )
    family = catalog.family_of("Qwen/Qwen3-8B")
    assert family is not None
    assert set(family.switches) == {"vllm", "sglang"}
    assert catalog.lookup("Qwen/Qwen3-8B", "vllm").switch == family.switches["vllm"]


def test_the_files_ship_with_the_package() -> None:
    assert all(files("gpuserve.catalog").joinpath(name).is_file() for name in book.FILES)


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
        (GOOD + "gated = 'maybe'", r"\(x\): gated is 'maybe', not one of yes"),
        (GOOD + "owners = 'me'", r"\(x\): owners is no list of texts"),
        (GOOD + "sampling = { t = 'warm' }", r"\(x\): sampling is no table of numbers"),
        (GOOD + "single_gpu = 1", r"\(x\): single_gpu is neither true nor false"),
        (GOOD + "efforts = { huge = 'max' }", r"\(x\): efforts hold huge"),
        (GOOD + "budget_variable = 'b'\nefforts = { low = 'some' }", r"\(x\): efforts are numbers of tokens"),
        (GOOD + "[family.vllm]\nsupport = 'some'", r"\(x\): vllm: support is 'some'"),
        (GOOD + "[family.vllm]\nflags = ['--trust-remote-code']", "write remote_code = true"),
        (GOOD + "[family.vllm]\nflags = ['--trust_remote_code=true']", "write remote_code = true"),
        (GOOD + "[family.vllm]\nowner_flags = ['--a']", "owner_flags need owners"),
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
