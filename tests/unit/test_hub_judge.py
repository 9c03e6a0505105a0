"""Which repositories an engine can serve, and the remedy for each that it can't."""

import re
import tomllib
from dataclasses import replace
from importlib.resources import files

import pytest

from gpuserve.catalog.hubfacts import HubFacts
from gpuserve.catalog.hubjudge import Architectures, architectures, judge
from gpuserve.errors import UsageError

MODEL = HubFacts(
    model="org/model", formats=("safetensors",), weight_bytes=10, described=True, architectures=("LlamaForCausalLM",)
)
GGUF = HubFacts(model="org/m-GGUF", formats=("gguf",), gguf={"Q8_0": 80, "Q4_K_M": 40}, quant="Q4_K_M")


def known(engine: str) -> Architectures:
    found = architectures(engine)
    assert found is not None
    return found


def judged(facts: HubFacts, engine: str) -> list[str]:
    return judge(facts, engine, architectures(engine))


def refused(facts: HubFacts, engine: str) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        judged(facts, engine)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_ordinary_model_passes_without_a_word(engine: str) -> None:
    assert judged(MODEL, engine) == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_gguf_only_is_for_llama_cpp(engine: str) -> None:
    assert refused(GGUF, engine)[1] == "use --engine llamacpp"


def test_llama_cpp_says_which_quantisation_it_takes() -> None:
    (note,) = judged(GGUF, "llamacpp")
    assert "will take Q4_K_M of 2" in note
    assert judged(replace(GGUF, asked_quant="q8_0", quant="Q8_0"), "llamacpp") == []


def test_a_quantisation_that_is_not_there() -> None:
    message, hint = refused(replace(GGUF, asked_quant="Q2_K", quant=""), "llamacpp")
    assert "Q2_K" in message
    assert hint == "it has Q8_0, Q4_K_M"


def test_safetensors_are_not_for_llama_cpp() -> None:
    assert refused(MODEL, "llamacpp")[1].startswith("use --engine vllm")
    _, hint = refused(replace(MODEL, gguf_siblings=("org/model-GGUF",)), "llamacpp")
    assert "--model org/model-GGUF" in hint


def test_both_formats_are_for_all() -> None:
    both = replace(GGUF, formats=("safetensors", "gguf"), described=True, architectures=("LlamaForCausalLM",))
    for engine in ("vllm", "sglang", "llamacpp"):
        judged(both, engine)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_an_adapter_names_its_base(engine: str) -> None:
    adapter = HubFacts(model="org/lora", formats=("adapter",), base_model="org/model")
    message, hint = refused(adapter, engine)
    assert message == "org/lora is an adapter of org/model, not a model of its own"
    assert hint == "serve the base model: --model org/model"
    assert "adapts" in refused(replace(adapter, base_model=""), engine)[1]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_no_weights_at_all(engine: str) -> None:
    assert "no weights" in refused(HubFacts(model="org/data"), engine)[0]
    assert "images" in refused(HubFacts(model="org/paint", library="diffusers"), engine)[0]


def test_pickles_are_a_warning() -> None:
    (note,) = judged(replace(MODEL, formats=("pytorch",)), "vllm")
    assert "pickled" in note


def test_weights_without_a_description() -> None:
    assert "no config.json" in refused(replace(MODEL, described=False), "vllm")[0]


def test_missing_shards_are_a_warning() -> None:
    (note,) = judged(replace(MODEL, missing=("model-2.safetensors",)), "vllm")
    assert "model-2.safetensors" in note


def test_weights_for_apples_chips() -> None:
    message, _ = refused(replace(MODEL, library="mlx", quantization="mlx"), "vllm")
    assert "Apple" in message


def test_an_architecture_that_only_the_other_engine_knows() -> None:
    only = min(known("sglang").generating - known("vllm").generating - known("vllm").fallback)
    message, hint = refused(replace(MODEL, architectures=(only,)), "vllm")
    assert f"vLLM 0.22.1 can't serve org/model: it doesn't know {only}" == message
    assert hint == "use --engine sglang, whose 0.5.12.post1 serves it"


def test_an_architecture_that_is_too_new_for_both() -> None:
    for engine in ("vllm", "sglang"):
        _, hint = refused(replace(MODEL, architectures=("Gemma4UnifiedForConditionalGeneration",)), engine)
        assert "newer image by --image" in hint


def test_an_architecture_that_was_dropped() -> None:
    (name,) = {"MotifForCausalLM"} & known("vllm").former.keys()
    assert "up to 0.10.2" in refused(replace(MODEL, architectures=(name,)), "vllm")[1]


def test_code_of_others_is_a_warning() -> None:
    name = min(known("sglang").fallback)
    assert "transformers" in judged(replace(MODEL, architectures=(name,)), "sglang")[0]
    assert "--trust-remote-code" in judged(replace(MODEL, architectures=("Own4LM",), remote_code=True), "vllm")[0]


def test_models_that_do_not_chat() -> None:
    assert "no chat" in judged(replace(MODEL, architectures=("BertModel",)), "vllm")[0]
    assert "no chat" in judged(replace(MODEL, architectures=("Qwen3ForSequenceClassification",)), "vllm")[0]
    assert "draft" in refused(replace(MODEL, architectures=("EagleLlamaForCausalLM",)), "vllm")[0]


def test_nothing_is_held_against_an_image_of_ones_own_or_an_engine_unknown_here() -> None:
    strange = replace(MODEL, architectures=("Own4LM",))
    assert judge(strange, "vllm", None) == []
    assert judge(replace(strange, formats=("gguf",)), "mine", None) == []


def test_unknown_architectures_are_not_judged() -> None:
    assert judged(replace(MODEL, architectures=()), "vllm") == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_lists_are_whole_and_apart(engine: str) -> None:
    lists = known(engine)
    kinds = (lists.generating, lists.fallback, lists.pooling, lists.drafts)
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert len(lists.generating) > 150
    assert all(re.fullmatch(r"\w+", name) for kind in kinds for name in kind)
    assert {
        "GptOssForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    } <= lists.generating


def test_the_lists_are_of_the_versions_that_the_engines_start() -> None:
    """The default images carry the version in their tag."""
    from gpuserve.engines.sglang import SGLang
    from gpuserve.engines.vllm import VLLM

    for engine, image in (("vllm", VLLM.default_image), ("sglang", SGLang.default_image)):
        assert f":v{known(engine).version}" in image


def test_the_file_is_read_as_written() -> None:
    text = files("gpuserve.catalog").joinpath("architectures.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)["engine"]) == {"vllm", "sglang"}
    assert architectures("llamacpp") is None
