"""--reasoning-effort: what is sent, by engine and family of model."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gpuserve.catalog import families
from gpuserve.errors import UsageError
from gpuserve.serving.reasoning import EFFORTS, effort_for, opens_thinking

ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}
SENT: list[tuple[str, str, str, Mapping[str, object]]] = [
    ("vllm", "google/gemma-4-26B-A4B-it", "low", {"reasoning_effort": "low", "chat_template_kwargs": ON}),
    ("sglang", "google/gemma-4-26B-A4B-it", "low", {"reasoning_effort": "low", "chat_template_kwargs": ON}),
    ("vllm", "openai/gpt-oss-20b", "high", {"reasoning_effort": "high"}),
    ("sglang", "Qwen/Qwen3-8B", "none", {"reasoning_effort": "none", "chat_template_kwargs": OFF}),
    ("vllm", "Qwen/Qwen3-8B", "none", {"reasoning_effort": "none", "chat_template_kwargs": OFF}),
    ("llamacpp", "Qwen/Qwen3-8B-GGUF", "none", {"chat_template_kwargs": {**OFF, "reasoning_effort": "none"}}),
    (
        "vllm",
        "deepseek-ai/DeepSeek-V3.1",
        "medium",
        {"reasoning_effort": "medium", "chat_template_kwargs": {"thinking": True}},
    ),
    (
        "vllm",
        "deepseek-ai/DeepSeek-V4-Flash",
        "high",
        {"reasoning_effort": "max", "chat_template_kwargs": {"thinking": True}},
    ),
    ("vllm", "mistralai/Mistral-Small-4-119B-2603", "low", {"reasoning_effort": "high"}),
    ("vllm", "ByteDance-Seed/Seed-OSS-36B-Instruct", "none", {"chat_template_kwargs": {"thinking_budget": 0}}),
    ("vllm", "ByteDance-Seed/Seed-OSS-36B-Instruct", "low", {"chat_template_kwargs": {"thinking_budget": 512}}),
    (
        "vllm",
        "ibm-granite/granite-3.3-8b-instruct",
        "none",
        {"reasoning_effort": "none", "chat_template_kwargs": {"thinking": False}},
    ),
    ("vllm", "Qwen/QwQ-32B", "low", {}),
    ("vllm", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "none", {}),
    ("vllm", "mistralai/Magistral-Small-2509", "none", {}),
    ("vllm", "nobody/knows-this", "low", {"reasoning_effort": "low"}),
]


@pytest.mark.parametrize(("engine", "model", "effort", "body"), SENT)
def test_what_is_sent(engine: str, model: str, effort: str, body: Mapping[str, object]) -> None:
    assert effort_for(engine, model, effort).body == body


@pytest.mark.parametrize(
    ("model", "effort", "words"),
    [
        ("openai/gpt-oss-20b", "none", "the least is --reasoning-effort low"),
        ("Qwen/QwQ-32B", "none", "give it room"),
        ("mistralai/Magistral-Small-2509", "low", "switched by the model card's system prompt"),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "none", "/no_think"),
        ("openai/gpt-oss-20b", "huge", "one of none, low, medium, high"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_what_it_can(model: str, effort: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        effort_for("vllm", model, effort)
    assert words in caught.value.hint


@pytest.mark.parametrize(
    ("model", "effort", "words"),
    [
        ("Qwen/Qwen3-8B", "low", "no levels"),
        ("Qwen/QwQ-32B", "high", "no levels"),
        ("mistralai/Mistral-Small-4-119B-2603", "low", "has no 'low': it reasons with 'high'"),
        ("Qwen/Qwen2.5-7B-Instruct", "low", "doesn't reason"),
        ("openai/gpt-oss-20b", "low", ""),
    ],
)
def test_what_is_not_quite_what_was_asked_for_is_said(model: str, effort: str, words: str) -> None:
    note = effort_for("vllm", model, effort).note
    assert words in note
    assert bool(words) == bool(note)


def test_nothing_asked_nothing_sent() -> None:
    assert effort_for("vllm", "openai/gpt-oss-20b", None).body == {}


def test_every_family_has_an_answer_for_every_effort() -> None:
    """A body, or a refusal that says what to do; and no family that reasons is left to chance."""
    for family in families():
        if family.reasoning_default == "none":
            assert (family.thinking_variable, dict(family.efforts)) == ("", {}), family.id
        elif family.reasoning_default != "always":
            told = any("system prompt" in switch for switch in family.switches.values())
            assert family.thinking_variable or family.efforts or told or not family.switches, family.id
        assert not family.efforts or set(family.efforts) | {"none"} == set(EFFORTS), family.id


def test_models_that_always_think_open_the_thinking_in_their_template() -> None:
    assert opens_thinking("Qwen/QwQ-32B")
    assert not opens_thinking("Qwen/Qwen3-8B")
    assert not opens_thinking("nobody/knows-this")
