"""The engines' readers and diagnosers, on logs that the real engines wrote."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuserve import engines
from gpuserve.engines._logs import Fault, diagnose, fault, line, read
from gpuserve.engines.base import Engine
from gpuserve.engines.llamacpp import _FAULTS as LLAMA_FAULTS
from gpuserve.engines.sglang import _FAULTS as SGLANG_FAULTS
from gpuserve.engines.vllm import _FAULTS as VLLM_FAULTS
from gpuserve.records import BootFact

LOGS = Path(__file__).parents[1] / "data" / "logs"
NAMES = sorted(path.name for path in LOGS.glob("*.log"))
PHASES = {"downloading", "loading", "compiling", "kv_cache", "graphs", "serving"}


def engine_of(name: str) -> Engine:
    return engines.load(name.split("-")[0])


def text_of(name: str) -> str:
    return (LOGS / name).read_text(encoding="utf-8")


def facts_of(name: str) -> list[BootFact]:
    engine = engine_of(name)
    return [fact for printed in text_of(name).splitlines() if (fact := engine.read(printed)) is not None]


def figures_of(name: str) -> dict[str, float]:
    """The last value of each figure, as a reader of the whole log would hold them."""
    return {figure: value for fact in facts_of(name) for figure, value in fact.figures.items()}


#: Words of the cause, and words of the remedy, for every failure that we have.
DIAGNOSES = {
    "llamacpp-b11549-fail-bad-flag.log": ("--no-such-flag", "help"),
    "llamacpp-b11549-fail-bad-value.log": ("invalid int value: 'many'", "Correct"),
    "llamacpp-b11549-fail-corrupt.log": ("damaged or incomplete", "Delete"),
    "llamacpp-b11549-fail-flag-with-equals.log": ("--ctx-size=4096", "--engine-arg=--ctx-size --engine-arg=4096"),
    "llamacpp-b11549-fail-no-file.log": ("/models/missing.gguf can't be opened: No such file", "path"),
    "llamacpp-b11549-fail-no-model.log": ("couldn't get the model nobody/no-such-model-GGUF:Q4_K_M", "HF_TOKEN"),
    "llamacpp-b11549-fail-not-gguf.log": ("no GGUF file", "vllm"),
    "llamacpp-b11549-fail-port-in-use.log": ("Port 18962", "--port"),
    "llamacpp-b11549-fail-unknown-architecture.log": ("lhama", "--image"),
    "sglang-0.5.12.post1-cpu-scheduler-killed-2026-11-22.log": ("SGLang's scheduler was killed", "--memory"),
    "sglang-crash-after-ready.log": ("xgrammar", "llguidance"),
    "sglang-0.5.12.post1-cpu-fail-grpc-port-2026-11-22.log": ("gRPC port is 70565", "SGLANG_GRPC_PORT"),
    "sglang-fail-bad-flag.log": ("--no-such-flag", "help"),
    "sglang-fail-mem-fraction.log": ("KV cache", "--mem-fraction-static"),
    "sglang-fail-model-no-network.log": ("can't reach https://huggingface.co", "network"),
    "sglang-fail-model-offline.log": ("HF_HUB_OFFLINE", "HF_HUB_OFFLINE"),
    "sglang-fail-port-in-use.log": ("port is taken", "--port"),
    "sglang-fail-reasoning-think-token.log": ("</think>", "--reasoning-parser"),
    "sglang-fail-unknown-reasoning-parser.log": ("no reasoning parser nosuch", "'qwen3-thinking'"),
    "sglang-fail-unknown-tool-parser.log": ("no tool-call parser nosuch", "'gpt-oss'"),
    "sglang-fail-weights-corrupt.log": ("incomplete metadata, file not fully covered", "Delete"),
    "vllm-0.22.1-engine-killed.log": ("died without writing a reason", "--memory"),
    "vllm-0.22.1-fail-auto-tool-without-parser.log": ("without a tool-call parser", "--tool-call-parser"),
    "vllm-0.22.1-fail-bad-flag.log": ("--no-such-flag", "help"),
    "vllm-0.22.1-fail-gated-401.log": ("google/gated-model is gated, and no valid", "HF_TOKEN"),
    "vllm-0.22.1-fail-gated-403.log": (
        "google/forbidden-model is gated, and the Hugging Face account",
        "Ask for access",
    ),
    "vllm-0.22.1-fail-gguf-smollm2.log": ("GGUF", "llamacpp"),
    "vllm-0.22.1-fail-kv-cache-huge.log": ("200.0 GiB of KV cache were asked for, and 21.1/23.54 GiB", "VLLM_CPU"),
    "vllm-0.22.1-fail-kv-cache-too-small.log": ("42.92 GiB of KV cache, and 1.0 GiB", "--max-model-len=46592"),
    "vllm-0.22.1-fail-max-model-len.log": ("100000 tokens was asked for; the model takes 8192", "--max-model-len=8192"),
    "vllm-0.22.1-fail-memory-util.log": ("Nothing is left for the KV cache", "--gpu-memory-utilization"),
    "vllm-0.22.1-fail-model-dir-empty.log": ("models/empty is neither", "spelling"),
    "vllm-0.22.1-fail-model-no-network.log": ("can't reach https://huggingface.co", "network"),
    "vllm-0.22.1-fail-model-offline.log": ("HF_HUB_OFFLINE", "HF_HUB_OFFLINE"),
    "vllm-0.22.1-fail-port-in-use.log": ("port is taken", "--port"),
    "vllm-0.22.1-fail-reasoning-think-token.log": ("Gemma4ReasoningParser", "--reasoning-parser"),
    "vllm-0.22.1-fail-repo-not-found.log": ("no model google/no-such-model", "spelling"),
    "vllm-0.22.1-fail-unknown-reasoning-parser.log": ("no reasoning parser nosuch", "openai_gptoss"),
    "vllm-0.22.1-fail-unknown-tool-parser.log": ("no tool-call parser nosuch", "llama3_json"),
    "vllm-0.32.0-cpu-engine-killed-2026-11-22.log": ("died without writing a reason", "--memory"),
    "vllm-0.32.0-cpu-fail-max-model-len-2026-11-22.log": (
        "100000 tokens was asked for; the model takes 8192",
        "--max-model-len=8192",
    ),
    "vllm-0.32.0-cpu-fail-socket-path-2026-11-22.log": ("path has 107 characters at most", "VLLM_RPC_BASE_PATH=/tmp"),
    "vllm-0.32.0-cpu-fail-unknown-tool-parser-2026-11-22.log": ("no tool-call parser nosuch", "hermes"),
}
#: It was stopped from outside after five minutes: its log names no cause.
WITHOUT_CAUSE = {"vllm-0.22.1-fail-gguf-gemma.log"}
CAME_UP = {name for name in NAMES if "boot" in name or "h200" in name}


def test_every_log_has_an_expectation() -> None:
    assert CAME_UP
    assert set(NAMES) == DIAGNOSES.keys() | WITHOUT_CAUSE | CAME_UP


@pytest.mark.parametrize("name", sorted(DIAGNOSES))
def test_cause_and_remedy(name: str) -> None:
    found = engine_of(name).diagnose(text_of(name))
    assert found is not None
    cause, remedy = DIAGNOSES[name]
    assert cause in found.cause
    assert remedy in found.remedy
    assert "{" not in found.cause + found.remedy


@pytest.mark.parametrize("name", sorted(CAME_UP | WITHOUT_CAUSE))
def test_no_cause_is_made_up(name: str) -> None:
    assert engine_of(name).diagnose(text_of(name)) is None


def test_killed_engine_is_not_named_when_it_wrote_a_reason() -> None:
    reason = "(EngineCore pid=9) ERROR 11-22 03:46:21 [core.py:1165] RuntimeError: something new\n"
    assert engines.load("vllm").diagnose(reason + text_of("vllm-0.22.1-engine-killed.log")) is None


@pytest.mark.parametrize("name", sorted(CAME_UP))
def test_a_boot_reads_as_phases_that_end_in_serving(name: str) -> None:
    facts = facts_of(name)
    phases = [fact.phase for fact in facts]
    assert set(phases) <= PHASES
    assert phases[-1] == "serving"
    assert phases.index("loading") < phases.index("kv_cache") < phases.index("serving")
    assert all(fact.detail and "{" not in fact.detail for fact in facts)


@pytest.mark.parametrize("name", sorted(name for name in NAMES if "fail" in name))
def test_a_failed_boot_never_reads_as_answering(name: str) -> None:
    assert "answering" not in {fact.detail for fact in facts_of(name)}


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        (
            "vllm-0.22.1-h200-gptoss-trimmed.log",
            {"kv_cache_tokens": 4_574_402, "max_context": 131_072, "weights_gib": 13.58, "kv_cache_gib": 111.36},
        ),
        (
            "vllm-0.22.1-h200-up-2026-11-22.log",
            {"kv_cache_tokens": 844_912, "max_context": 40_960, "weights_gib": 15.27, "kv_cache_gib": 116.03},
        ),
        (
            "vllm-0.22.1-h200-fast-boot-fork-2026-11-22.log",
            {"kv_cache_tokens": 847_184, "max_context": 40_960, "weights_gib": 15.27, "kv_cache_gib": 116.34},
        ),
        (
            "vllm-0.22.1-h200-fast-boot-2026-11-22.log",
            {"kv_cache_tokens": 838_144, "max_context": 40_960, "weights_gib": 15.27},
        ),
        ("vllm-0.22.1-h200-api4-2026-11-22.log", {"kv_cache_tokens": 844_912, "kv_cache_gib": 116.03}),
        ("vllm-boot-0.22.1-cold.log", {"kv_cache_tokens": 46_592, "max_context": 8192, "weights_gib": 0.25}),
        ("vllm-boot-0.32.0.log", {"kv_cache_tokens": 46_592, "max_context": 4096}),
        (
            "vllm-0.32.0-cpu-boot-2026-11-22.log",
            {"kv_cache_tokens": 46_592, "requests": 11.38, "weights_gib": 0.25, "kv_cache_gib": 1.0},
        ),
        ("sglang-0.5.12.post1-cpu-boot-2026-11-22.log", {"kv_cache_tokens": 16_384, "max_context": 8192}),
        ("sglang-boot.log", {"kv_cache_tokens": 16_384, "max_context": 4096, "weights_gib": 0.55}),
        ("llamacpp-b11549-boot.log", {"kv_cache_tokens": 8192, "max_context": 8192}),
        (
            "llamacpp-b11549-boot-verbose.log",
            {"kv_cache_tokens": 4096, "max_context": 2048, "weights_gib": pytest.approx(92.1 / 1024)},
        ),
    ],
)
def test_figures(name: str, figures: dict[str, float]) -> None:
    found = figures_of(name)
    assert {figure: found[figure] for figure in figures} == figures


def test_a_loading_time_is_told_though_the_memory_shrank_meanwhile() -> None:
    """SGLang on a CPU, beside others who let go of theirs: "mem usage=-0.44 GB"."""
    (loaded,) = [f for f in facts_of("sglang-0.5.12.post1-cpu-boot-2026-11-22.log") if "loaded in" in f.detail]
    assert (loaded.detail, loaded.figures) == ("loaded in 2.73 s", {"seconds": 2.73})


def test_phases_of_a_boot_on_a_gpu() -> None:
    phases = [fact.phase for fact in facts_of("vllm-0.22.1-h200-gptoss-trimmed.log")]
    assert list(dict.fromkeys(phases)) == ["loading", "compiling", "kv_cache", "graphs", "serving"]
    (captured,) = [f for f in facts_of("vllm-0.22.1-h200-gptoss-trimmed.log") if "graphs captured" in f.detail]
    assert captured.figures == {"seconds": 50}


@pytest.mark.parametrize(
    ("engine", "printed", "phase", "figures"),
    [
        # Shapes from the engines' sources that no log of ours holds.
        (
            "vllm",
            "(Worker pid=1) INFO 11-22 03:03:28 [w.py:603] Time spent downloading weights for a/b: 61.5 seconds",
            "downloading",
            {"seconds": 61.5},
        ),
        (
            "sglang",
            "[2026-11-22 03:55:08] Capture cuda graph begin. This can take up to several minutes. avail mem=6.2 GB",
            "graphs",
            {},
        ),
        ("sglang", "Capturing batches (bs=1 avail_mem=5.80 GB):  40%|##", "graphs", {"percent": 40}),
        ("sglang", "Capture cuda graph end. Time elapsed: 9.81 s. mem usage=0.4 GB.", "graphs", {"seconds": 9.81}),
        (
            "vllm",
            "model-1-of-2.safetensors:  10%|#  | 0.4G/4.8G\rmodel-1-of-2.safetensors:  20%|## | 0.9G/4.8G",
            "downloading",
            {"percent": 20, "bytes_done": 900e6, "bytes_all": 4800e6},
        ),
        (
            "sglang",
            "model-00001-of-00002.safetensors:  10%|#  | 482M/4.80G [00:10<01:40, 44.5MB/s]",
            "downloading",
            {"percent": 10, "bytes_done": 482e6, "bytes_all": 4800e6, "bytes_rate": 44.5e6},
        ),
        # All files in one bar, as newer clients draw them
        (
            "vllm",
            "(EngineCore pid=629) Downloading (incomplete total...):   3%|   | 2.67M/78.2M [00:19<00:13, 5.56MB/s]",
            "downloading",
            {"percent": 3, "bytes_done": 2.67e6, "bytes_all": 78.2e6, "bytes_rate": 5.56e6},
        ),
        (
            "vllm",
            "Reconstructing (incomplete total...):  20%|##        | 1.00GB / 5.00GB    44.0MB/s",
            "downloading",
            {"percent": 20, "bytes_done": 1e9, "bytes_all": 5e9, "bytes_rate": 44e6},
        ),
        (
            "vllm",
            "Reconstructing (incomplete total...):   0%|          |  0.00B / 5.00GB            ",
            "downloading",
            {"percent": 0, "bytes_done": 0, "bytes_all": 5e9},
        ),
        (
            "vllm",
            "model.safetensors:   0%|          | 0.00/977k [00:00<?, ?B/s]",
            "downloading",
            {"percent": 0, "bytes_done": 0, "bytes_all": 977e3},
        ),
        (
            "vllm",
            "Fetching 12 files:  50%|#####     | 6/12 [00:05<00:05,  1.20it/s]",
            "downloading",
            {"percent": 50, "files_done": 6, "files_all": 12},
        ),
        (
            "vllm",
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]",
            "loading",
            {"percent": 50, "shards_done": 1, "shards_all": 2},
        ),
        # llama.cpp's own download, whose MB are of 2^20 bytes
        (
            "llamacpp",
            "[=========>          ]  34%  (123 MB / 360 MB)\r[=========>          ]  35%  (126 MB / 360 MB)",
            "downloading",
            {"percent": 35, "bytes_done": 126 * 2**20, "bytes_all": 360 * 2**20},
        ),
        (
            "llamacpp",
            "common_download_file_single: trying to download model from https://hub/a/m.gguf to /c/m.gguf.x (e:1)",
            "downloading",
            {},
        ),
        ("llamacpp", "load_tensors: offloaded 62/62 layers to GPU", "loading", {}),
    ],
)
def test_lines_that_only_a_gpu_or_a_download_prints(
    engine: str, printed: str, phase: str, figures: dict[str, float]
) -> None:
    fact = engines.load(engine).read(printed)
    assert fact is not None
    assert (fact.phase, dict(fact.figures)) == (phase, figures)


@given(st.sampled_from(NAMES), st.randoms(use_true_random=False), st.integers(0, 40_000), st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_shuffled_and_cut_logs_never_raise(name: str, order: random.Random, start: int, length: int) -> None:
    lines = text_of(name).splitlines()
    order.shuffle(lines)
    cut = "\n".join(lines)[start : start + length]
    for known in ("vllm", "sglang", "llamacpp"):
        engine = engines.load(known)
        engine.diagnose(cut)
        for printed in cut.splitlines():
            engine.read(printed)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_is_readable(text: str) -> None:
    for known in ("vllm", "sglang", "llamacpp"):
        engine = engines.load(known)
        engine.read(text)
        engine.diagnose(text)


@pytest.mark.parametrize("row", [*VLLM_FAULTS, *SGLANG_FAULTS, *LLAMA_FAULTS])
def test_every_sentence_can_be_filled(row: Fault) -> None:
    groups = dict.fromkeys(row.pattern.groupindex, "x")
    assert "{" not in row.cause.format_map(groups)
    assert "{" not in row.remedy.format_map(groups)


def test_braces_in_a_log_are_text() -> None:
    table = (fault(r"bad (?P<what>.*)", "It is {what}."),)
    found = diagnose(table, "bad {0} {x!r}")
    assert found is not None
    assert found.cause == "It is {0} {x!r}."
    fact = read((line("loading", r"at (?P<where>.*)", "{where}"),), "at {nowhere}")
    assert fact is not None
    assert fact.detail == "{nowhere}"
