"""The phases that each real log tells, in order; and what readers do with logs of any size and in any state."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuserve import engines
from gpuserve.cli.narrator import Narrator
from gpuserve.serving.events import Boot

LOGS = Path(__file__).parents[1] / "data" / "logs"
NAMES = sorted(path.name for path in LOGS.glob("*.log"))
ENGINES = ("vllm", "sglang", "llamacpp")

_GPU = ["weights", "compile", "KV cache", "graphs", "port"]
_CPU = ["weights", "compile", "KV cache", "port"]
_EAGER = ["weights", "KV cache", "port"]
#: Every log, and the phases that a person sees of it.
PHASES = {
    "llamacpp-b11549-boot-verbose.log": _EAGER,
    "llamacpp-b11549-boot.log": _EAGER,
    "llamacpp-b11549-fail-bad-flag.log": [],
    "llamacpp-b11549-fail-bad-value.log": [],
    "llamacpp-b11549-fail-corrupt.log": ["weights"],
    "llamacpp-b11549-fail-flag-with-equals.log": [],
    "llamacpp-b11549-fail-no-file.log": ["weights"],
    "llamacpp-b11549-fail-no-model.log": [],
    "llamacpp-b11549-fail-not-gguf.log": ["weights"],
    "llamacpp-b11549-fail-port-in-use.log": [],
    "llamacpp-b11549-fail-unknown-architecture.log": ["weights"],
    "sglang-0.5.12.post1-cpu-boot-2026-11-22.log": _EAGER,
    "sglang-0.5.12.post1-cpu-scheduler-killed-2026-11-22.log": _EAGER,
    "sglang-boot.log": _EAGER,
    "sglang-crash-after-ready.log": _EAGER,
    "sglang-0.5.12.post1-cpu-fail-grpc-port-2026-11-22.log": [],
    "sglang-fail-bad-flag.log": [],
    "sglang-fail-mem-fraction.log": ["weights"],
    "sglang-fail-model-no-network.log": [],
    "sglang-fail-model-offline.log": [],
    "sglang-fail-port-in-use.log": ["weights", "KV cache"],
    "sglang-fail-reasoning-think-token.log": ["weights", "KV cache"],
    "sglang-fail-unknown-reasoning-parser.log": [],
    "sglang-fail-unknown-tool-parser.log": [],
    "sglang-fail-weights-corrupt.log": ["weights"],
    "vllm-0.22.1-engine-killed.log": _CPU,
    "vllm-0.22.1-fail-auto-tool-without-parser.log": [],
    "vllm-0.22.1-fail-bad-flag.log": [],
    "vllm-0.22.1-fail-gated-401.log": [],
    "vllm-0.22.1-fail-gated-403.log": [],
    "vllm-0.22.1-fail-gguf-gemma.log": ["weights"],
    "vllm-0.22.1-fail-gguf-smollm2.log": ["weights", "compile"],
    "vllm-0.22.1-fail-kv-cache-huge.log": ["weights", "compile"],
    "vllm-0.22.1-fail-kv-cache-too-small.log": ["weights", "compile", "KV cache"],
    "vllm-0.22.1-fail-max-model-len.log": [],
    "vllm-0.22.1-fail-memory-util.log": ["weights", "compile", "KV cache"],
    "vllm-0.22.1-fail-model-dir-empty.log": [],
    "vllm-0.22.1-fail-model-no-network.log": [],
    "vllm-0.22.1-fail-model-offline.log": [],
    "vllm-0.22.1-fail-port-in-use.log": [],
    "vllm-0.22.1-fail-reasoning-think-token.log": ["weights"],
    "vllm-0.22.1-fail-repo-not-found.log": [],
    "vllm-0.22.1-fail-unknown-reasoning-parser.log": ["weights"],
    "vllm-0.22.1-fail-unknown-tool-parser.log": [],
    "vllm-0.22.1-h200-api4-2026-11-22.log": _GPU,
    "vllm-0.22.1-h200-fast-boot-2026-11-22.log": _EAGER,
    "vllm-0.22.1-h200-fast-boot-fork-2026-11-22.log": _EAGER,
    "vllm-0.22.1-h200-gptoss-api4.log": _GPU,
    "vllm-0.22.1-h200-gptoss-eager.log": _EAGER,
    "vllm-0.22.1-h200-gptoss-trimmed.log": _GPU,
    "vllm-0.22.1-h200-gptoss-warm.log": _GPU,
    "vllm-0.22.1-h200-qwen-cold.log": _GPU,
    "vllm-0.22.1-h200-qwen-eager.log": _EAGER,
    "vllm-0.22.1-h200-tiny.log": _GPU,
    "vllm-0.32.0-cpu-boot-2026-11-22.log": _EAGER,
    "vllm-0.32.0-cpu-engine-killed-2026-11-22.log": _EAGER,
    "vllm-0.32.0-cpu-fail-max-model-len-2026-11-22.log": [],
    "vllm-0.32.0-cpu-fail-socket-path-2026-11-22.log": ["weights"],
    "vllm-0.32.0-cpu-fail-unknown-tool-parser-2026-11-22.log": [],
    "vllm-0.22.1-h200-up-2026-11-22.log": _GPU,
    "vllm-boot-0.22.1-cold.log": _CPU,
    "vllm-boot-0.22.1-eager.log": _CPU,
    "vllm-boot-0.32.0.log": _CPU,
}


def phases_of(name: str) -> list[str]:
    """As the narrator tells them, a second between two lines."""
    engine, narrator = engines.load(name.split("-")[0]), Narrator()
    for second, line in enumerate((LOGS / name).read_text(encoding="utf-8").splitlines()):
        fact = engine.read(line)
        if fact is not None:
            narrator.take(Boot(fact, second), second)
    return list(narrator.phases)


def test_every_log_is_in_the_table() -> None:
    assert set(PHASES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_phases_in_order(name: str) -> None:
    assert phases_of(name) == PHASES[name]


def _lines() -> list[str]:
    return [line for name in NAMES for line in (LOGS / name).read_text(encoding="utf-8").splitlines()]


@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
    st.integers(0, 5000),
    st.integers(0, 9000),
)
@settings(max_examples=60, deadline=None)
def test_interleaved_cut_and_mangled_logs_never_raise(
    names: list[str], chance: random.Random, start: int, size: int
) -> None:
    """Lines of more logs in one, cut within a character too, and joined by whatever ends a line."""
    lines = [line for name in names for line in (LOGS / name).read_text(encoding="utf-8").splitlines()]
    chance.shuffle(lines)
    ends = ["\n", "\r", "\r\n", "", "\x1b[A", " "]
    whole = "".join(line + chance.choice(ends) for line in lines).encode()[start : start + size]
    noisy = bytes(byte if chance.random() > 0.01 else chance.randrange(256) for byte in whole)
    text = noisy.decode("utf-8", errors="replace")
    for known in ENGINES:
        engine, narrator = engines.load(known), Narrator()
        engine.diagnose(text)
        for second, line in enumerate([text, *text.splitlines()]):
            fact = engine.read(line)
            if fact is not None:
                narrator.take(Boot(fact, second), second)
        assert all(phase.spent >= 0 for phase in narrator.phases.values())
        assert narrator.summary()


def _mixed(size: int) -> str:
    chance, lines = random.Random(4), _lines()
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(chance.choice(lines))
        length += len(parts[-1]) + 1
    return "\n".join(parts)[:size]


def _one_word(size: int) -> str:
    return ("a.b-" * (size // 4))[:size]


def _one_bar(size: int) -> str:
    step = "model-00001-of-00002.safetensors:  10%|#  | 0.4G/4.8G [00:10<01:40, 44MB/s]\r"
    return (step * (size // len(step) + 1))[:size]


@pytest.mark.parametrize("make", [_mixed, _one_word, _one_bar])
@pytest.mark.parametrize("known", ENGINES)
def test_ten_times_the_log_takes_about_ten_times_as_long(known: str, make: Callable[[int], str]) -> None:
    """A square would make it a hundred times. Small sizes are made comparable by a floor under the shorter time."""
    engine = engines.load(known)

    def spent(text: str) -> float:
        began = time.process_time()
        engine.diagnose(text)
        for line in text.split("\n"):
            engine.read(line)
        return time.process_time() - began

    small, large = make(500_000), make(5_000_000)
    assert spent(large) < 20 * max(min(spent(small), spent(small)), 0.01)
