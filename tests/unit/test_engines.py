"""The engines' entry points and launch plans. Nothing is started: plans are compared as argument lists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fakes.plans import plan
from gpuserve import engines
from gpuserve.engines.base import Engine, Reasons, ReportsMetrics
from gpuserve.engines.llamacpp import LlamaCpp
from gpuserve.engines.sglang import SGLang
from gpuserve.engines.vllm import VLLM
from gpuserve.errors import ConfigError, UsageError
from gpuserve.records import ModelFacts, ServeRequest

ALL = ("llamacpp", "sglang", "vllm")
ODD = ("--x", "a b", 'say "hi"', "$HOME `id`", "it's", "naïve 日本", '{"a": [1]}', "--y=$(true) *", "")


def pairs(argv: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Flags with their values, in no order."""
    found: list[list[str]] = []
    for argument in argv:
        if argument.startswith("-") or not found:
            found.append([argument])
        else:
            found[-1].append(argument)
    return {tuple(group) for group in found}


# ---- entry points


def test_built_in_engines_come_through_the_entry_points() -> None:
    assert set(ALL) <= set(engines.names())
    made: list[Engine] = [VLLM(), SGLang(), LlamaCpp()]
    for engine in made:
        loaded = engines.load(engine.name)
        assert type(loaded) is type(engine)
        assert isinstance(loaded, ReportsMetrics)
        assert isinstance(loaded, Reasons)


def test_only_the_engine_asked_for_is_imported() -> None:
    code = (
        "import sys; from gpuserve import engines\n"
        "engines.names(); print(sorted(m for m in sys.modules if m.startswith('gpuserve.engines.')))\n"
        "engines.load('sglang'); print(*(f'gpuserve.engines.{n}' in sys.modules for n in ('vllm', 'sglang')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["['gpuserve.engines.base']", "False True"]


@pytest.mark.parametrize(("wrong", "meant"), [("vlm", "vllm"), ("llama.cpp", "llamacpp"), ("SGLang", "sglang")])
def test_unknown_engine_lists_the_known_and_guesses(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        engines.load(wrong)
    assert f"did you mean {meant}?" in caught.value.hint
    assert all(name in caught.value.hint for name in ALL)


def test_unknown_engine_that_is_like_none_gets_no_guess() -> None:
    with pytest.raises(UsageError) as caught:
        engines.load("triton")
    assert "did you mean" not in caught.value.hint


def install(place: Path, entry_points: str, code: str = "") -> None:
    """A third party's distribution, as pip would lay it down."""
    info = place / "somebody-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gpuserve.engines]\n{entry_points}\n")
    (place / "somebodys_engine.py").write_text(code)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "somebodys_engine", raising=False)
    return tmp_path


GOOD = """
from gpuserve.records import LaunchPlan
class Mine:
    name, title, default_image = "mine", "Mine", "mine/mine:1"
    def plan(self, request, facts):
        return LaunchPlan(engine="mine", model=request.model, served_model="m", image="mine/mine:1", argv=("serve",),
                          port=request.port, session="mine", health_path="/up")
    def read(self, line): return None
    def diagnose(self, log): return None
"""


def test_third_party_engine_loads(place: Path) -> None:
    install(place, "mine = somebodys_engine:Mine", GOOD)
    assert "mine" in engines.names()
    request = ServeRequest(model="a/b", engine="mine")
    assert engines.load("mine").plan(request, ModelFacts()).argv == ("serve",)


@pytest.mark.parametrize(
    ("target", "code", "reason"),
    [
        ("Mine", "import no_such_library_of_ours", "no_such_library_of_ours"),
        ("Missing", GOOD, "Missing"),
        ("Mine", "class Mine:\n    def __init__(self): raise RuntimeError('no licence')", "no licence"),
        ("Mine", "class Mine: name = 'mine'", "no gpuserve engine"),
        ("Mine", GOOD.replace('"mine", "Mine"', '"yours", "Mine"'), "yours"),
    ],
)
def test_broken_plug_in_is_an_error_with_its_reason(place: Path, target: str, code: str, reason: str) -> None:
    install(place, f"mine = somebodys_engine:{target}", code)
    assert "mine" in engines.names()
    with pytest.raises(ConfigError, match=reason) as caught:
        engines.load("mine")
    assert "mine" in caught.value.message


def test_plug_in_cannot_take_a_built_in_name(place: Path) -> None:
    install(place, "vllm = somebodys_engine:Mine", GOOD)
    with pytest.raises(ConfigError, match="somebodys_engine:Mine"):
        engines.load("vllm")


# ---- plans


def test_vllm_guide() -> None:
    made = plan("vllm", "google/gemma-4-26B-A4B-it", served_as="gemma-4-moe")
    guide = (
        "vllm serve google/gemma-4-26B-A4B-it --port 8000 --served-model-name gemma-4-moe --enable-auto-tool-choice"
        " --tool-call-parser gemma4 --reasoning-parser gemma4 --enable-prefix-caching"
    )
    assert pairs(tuple(guide.split())) <= pairs(made.argv)
    assert made.argv == (
        "vllm", "serve", "google/gemma-4-26B-A4B-it", "--host", "127.0.0.1", "--port", "8000",
        "--served-model-name", "gemma-4-moe", "--enable-auto-tool-choice", "--tool-call-parser", "gemma4",
        "--reasoning-parser", "gemma4", "--enable-prefix-caching", "--enable-prompt-tokens-details",
    )  # fmt: skip
    assert (made.image, made.health_path, made.session) == ("vllm/vllm-openai:v0.22.1", "/health", "vllm")
    assert (made.served_model, made.port, made.notes, dict(made.env)) == ("gemma-4-moe", 8000, (), {})


def test_sglang_guide() -> None:
    made = plan("sglang", "openai/gpt-oss-20b")
    guide = (
        "python3 -m sglang.launch_server --model-path openai/gpt-oss-20b --served-model-name gpt-oss-20b --port 8000"
        " --tool-call-parser gpt-oss --reasoning-parser gpt-oss --enable-cache-report"
    )
    assert pairs(tuple(guide.split())) <= pairs(made.argv)
    assert made.argv == (
        "python3", "-m", "sglang.launch_server", "--model-path", "openai/gpt-oss-20b", "--served-model-name",
        "gpt-oss-20b", "--host", "127.0.0.1", "--port", "8000", "--tool-call-parser", "gpt-oss", "--reasoning-parser",
        "gpt-oss", "--enable-cache-report", "--enable-metrics",
    )  # fmt: skip
    assert made.image == "lmsysorg/sglang:v0.5.12.post1-cu130"
    assert (made.health_path, made.session, made.served_model) == ("/health_generate", "sglang", "gpt-oss-20b")


def test_llamacpp() -> None:
    made = plan("llamacpp", "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1")
    assert made.argv == (
        "llama-server", "-hf", "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1", "--alias", "smollm2-135m-instruct",
        "--host", "127.0.0.1", "--port", "8000", "--metrics", "--jinja",
    )  # fmt: skip
    assert made.image == "ghcr.io/ggml-org/llama.cpp:server-cuda"
    assert (made.health_path, made.session, made.path, made.notes) == ("/health", "llamacpp", ("/app",), ())
    assert plan("llamacpp", "/models/x.gguf").argv[:3] == ("llama-server", "-m", "/models/x.gguf")


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("google/gemma-4-26B-A4B-it", "gemma-4-26b-a4b-it"),
        ("unsloth/Qwen3-8B-GGUF:Q4_K_M", "qwen3-8b"),
        ("gpt2", "gpt2"),
        ("/models/My Model.v2.GGUF", "my-model.v2"),
        ("/models/Llama 3, x=y/", "llama-3-x-y"),
    ],
)
def test_default_served_name(model: str, served: str) -> None:
    made = plan("vllm", model)
    assert made.served_model == served
    assert ("--served-model-name", served) in pairs(made.argv)
    assert ServeRequest(model="a/b", engine="vllm", served_as=served).served_as == served


@pytest.mark.parametrize(("engine", "model"), [("vllm", "a/b"), ("sglang", "a/b"), ("llamacpp", "a/b-GGUF")])
def test_engine_arguments_pass_through_last_and_untouched(engine: str, model: str) -> None:
    made = plan(engine, model, *ODD)
    assert made.argv[-len(ODD) :] == ODD
    assert made.argv[: -len(ODD)] == plan(engine, model).argv


@pytest.mark.parametrize("form", ["two", "equals", "underscores", "abbreviated"])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_users_parser_wins(engine: str, form: str) -> None:
    theirs = {
        "two": ("--tool-call-parser", "mine"),
        "equals": ("--tool-call-parser=mine",),
        "underscores": ("--tool_call_parser", "mine"),
        "abbreviated": ("--tool-call", "mine"),
    }[form]
    made = plan(engine, "Qwen/Qwen3-8B", *theirs)
    assert made.argv[-len(theirs) :] == theirs
    assert "--tool-call-parser" not in made.argv[: -len(theirs)]
    assert ("--reasoning-parser", "qwen3") in pairs(made.argv)
    assert len(made.notes) == 1
    assert "--tool-call-parser" in made.notes[0]
    if engine == "vllm":
        assert "--enable-auto-tool-choice" in made.argv


def test_the_opposite_of_a_flag_counts_too() -> None:
    made = plan("vllm", "openai/gpt-oss-20b", "--no-enable-prefix-caching")
    assert "--enable-prefix-caching" not in made.argv
    assert any("--enable-prefix-caching" in note for note in made.notes)
    assert "--jinja" not in plan("llamacpp", "a/b-GGUF", "--no-jinja").argv


def test_flags_of_the_catalogue_give_way_with_their_values() -> None:
    made = plan("vllm", "meta-llama/Llama-3.1-8B-Instruct", "--chat-template=/mine.jinja")
    assert not any("tool_chat_template" in argument for argument in made.argv)
    assert made.argv[-1] == "--chat-template=/mine.jinja"
    assert "tool_chat_template_llama3.1_json.jinja" in made.notes[0]


def test_longer_flags_are_no_conflict() -> None:
    made = plan("vllm", "openai/gpt-oss-20b", "--reasoning-parser-plugin", "/p.py", "--port-range", "1", "-1")
    assert ("--reasoning-parser", "openai_gptoss") in pairs(made.argv)
    assert made.notes == ()


@pytest.mark.parametrize("engine", ALL)
@pytest.mark.parametrize(
    ("arguments", "instead"),
    [(("--port", "9"), "--port"), (("--port=9",), "--port"), (("--host=0.0.0.0",), "leave it out")],
)
def test_what_the_plan_depends_on_is_refused(engine: str, arguments: tuple[str, ...], instead: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(engine, "a/b-GGUF", *arguments)
    assert instead in caught.value.hint


@pytest.mark.parametrize(
    ("engine", "arguments", "instead"),
    [
        ("vllm", ("--served-model-name", "x"), "--served-as"),
        ("vllm", ("--served_model_name=x",), "--served-as"),
        ("vllm", ("--served-model", "x"), "--served-as"),
        ("sglang", ("--served-model-name", "x"), "--served-as"),
        ("llamacpp", ("--alias", "x"), "--served-as"),
        ("llamacpp", ("-a", "x"), "--served-as"),
        ("vllm", ("--model", "x"), "--model"),
        ("sglang", ("--model-path", "x"), "--model"),
        ("llamacpp", ("-hf", "x/y"), "--model"),
        ("llamacpp", ("-m", "x.gguf"), "--model"),
    ],
)
def test_served_name_and_model_have_flags_of_their_own(engine: str, arguments: tuple[str, ...], instead: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(engine, "a/b-GGUF", *arguments)
    assert instead in caught.value.hint


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_unknown_model_gets_no_guess_but_a_note(engine: str) -> None:
    made = plan(engine, "somebody/strange-1b")
    assert not any("parser" in argument or "auto" in argument for argument in made.argv)
    stays = "no parser is known for somebody/strange-1b: {} in the text; name one with {}."
    tool, reasoning = "--engine-arg=--tool-call-parser=…", "--engine-arg=--reasoning-parser=…"
    assert made.notes == (stays.format("tool calls and reasoning stay", f"{tool} or {reasoning}"),)
    half = plan(engine, "somebody/strange-1b", "--tool-call-parser=hermes")
    assert half.notes == (stays.format("reasoning stays", reasoning),)
    assert plan(engine, "somebody/strange-1b", "--tool-call-parser=a", "--reasoning-parser=b").notes == ()


def test_family_without_tool_parser_says_so() -> None:
    (note,) = plan("vllm", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B").notes
    assert "deepseek-r1-distill" in note
    assert "--enable-auto-tool-choice" not in plan("vllm", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B").argv


@pytest.mark.parametrize("engine", ALL)
def test_request_fields_reach_the_plan(engine: str) -> None:
    made = plan(engine, "a/b-GGUF", port=8123, image="me/mine:1", served_as="x", env={"HF_TOKEN": "hf_secretsecret"})
    assert ("--port", "8123") in pairs(made.argv)
    assert (made.port, made.image, made.served_model, dict(made.env)) == (
        8123, "me/mine:1", "x", {"HF_TOKEN": "hf_secretsecret"},
    )  # fmt: skip
    assert "hf_secretsecret" not in repr(made)


def test_the_users_environment_wins_over_the_facts() -> None:
    facts = ModelFacts(env={"PYTORCH_CUDA_ALLOC_CONF": "theirs", "B": "2"})
    made = engines.load("sglang").plan(
        ServeRequest(model="a/b", engine="sglang", env={"PYTORCH_CUDA_ALLOC_CONF": "mine"}), facts
    )
    assert dict(made.env) == {"PYTORCH_CUDA_ALLOC_CONF": "mine", "B": "2"}


def test_revision() -> None:
    assert ("--revision", "v1") in pairs(plan("vllm", "a/b", revision="v1").argv)
    assert ("--revision", "v1") in pairs(plan("sglang", "a/b", revision="v1").argv)
    with pytest.raises(UsageError, match="revision"):
        plan("llamacpp", "a/b-GGUF", revision="v1")


def test_what_an_engine_cannot_serve_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="GGUF"):
        plan("llamacpp", "/models/folder")
    with pytest.raises(UsageError, match="quantisation"):
        plan("sglang", "a/b:Q4_K_M")


def test_llamacpp_notes() -> None:
    assert any("GGUF" in note for note in plan("llamacpp", "openai/gpt-oss-20b").notes)
    (note,) = plan("llamacpp", "a/b-GGUF", "--ctx-size=4096").notes
    assert "--ctx-size 4096, not --ctx-size=4096" in note


# ---- reasoning and metrics


def test_reasoning_fields_and_bodies() -> None:
    assert (VLLM().reasoning_field, SGLang().reasoning_field) == ("reasoning", "reasoning_content")
    assert LlamaCpp().reasoning_field == "reasoning_content"
    assert VLLM().reasoning_body("low") == {"reasoning_effort": "low"}
    assert SGLang().reasoning_body("none") == {
        "reasoning_effort": "none",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert LlamaCpp().reasoning_body("high") == {
        "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high"}
    }


@pytest.mark.parametrize("engine", [VLLM(), SGLang(), LlamaCpp()])
def test_unknown_effort_lists_the_known(engine: Reasons) -> None:
    with pytest.raises(UsageError) as caught:
        engine.reasoning_body("utmost")
    assert "none, " in caught.value.hint
    assert "high" in caught.value.hint


def test_metric_names() -> None:
    assert VLLM().metrics.kv_usage == "vllm:kv_cache_usage_perc"
    assert (SGLang().metrics.running, SGLang().metrics.waiting) == ("sglang:num_running_reqs", "sglang:num_queue_reqs")
    assert LlamaCpp().metrics.kv_usage == ""
