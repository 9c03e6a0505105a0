"""Failures that no log of ours holds, in lines as users have reported them; their sources stand beside them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gpuserve import engines
from gpuserve.engines.exits import by_exit_code, telling

#: What vLLM's outer process writes after whatever ended the inner one.
DEAD = "(APIServer pid=451) RuntimeError: Engine core initialization failed. See root cause above."
LOGS = Path(__file__).parents[1] / "data" / "logs"
CASES: dict[str, dict[str, str]] = tomllib.loads((LOGS / "failures.toml").read_text(encoding="utf-8"))
#: They count only where nothing more certain is told.
GENERAL = {"no chat template", "out of GPU memory, old"}


@pytest.mark.parametrize("case", CASES)
def test_cause_and_remedy(case: str) -> None:
    told = CASES[case]
    assert told["source"]
    found = engines.load(told["engine"]).diagnose(f"starting\n{told['line']}\n{DEAD}\n")
    assert found is not None
    assert told["cause"] in found.cause
    assert told["remedy"] in found.remedy
    assert "{" not in found.cause + found.remedy
    assert ".." not in found.cause
    assert found.remedy.endswith(".")


@pytest.mark.parametrize("case", sorted(CASES.keys() - GENERAL))
def test_the_first_error_is_the_cause_and_not_what_follows_from_it(case: str) -> None:
    told = CASES[case]
    later = "\n".join(other["line"] for name, other in CASES.items() if name != case)
    found = engines.load(told["engine"]).diagnose(f"{told['line']}\n{later}\n")
    assert found is not None
    assert told["cause"] in found.cause


@pytest.mark.parametrize("case", sorted(GENERAL))
def test_what_is_told_only_for_want_of_better_stands_back(case: str) -> None:
    told, certain = CASES[case], CASES["disk full"]
    found = engines.load(told["engine"]).diagnose(f"{told['line']}\n{certain['line']}\n")
    assert found is not None
    assert certain["cause"] in found.cause


@pytest.mark.parametrize(
    "line",
    [
        "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).",
        "HTTP Error 429 thrown while requesting HEAD https://huggingface.co/a/b/resolve/main/config.json",
        "RuntimeError: something that nobody has seen",
        "Tokenizer for a/b loaded as generic TokenizersBackend. Set --trust-remote-code to load the model's tokenizer.",
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_what_need_not_be_the_end_or_is_unknown_is_no_cause(engine: str, line: str) -> None:
    assert engines.load(engine).diagnose(f"{line}\n") is None


#: A log that just stops, as of vllm-project/vllm killed while it loads weights.
STOPPED = "(EngineCore pid=9) INFO 11-22 03:03:27 [gpu_model_runner.py:5037] Starting to load model a/b...\n"

#: The boot of a real SGLang up to its weights: it speaks of import errors, and none of them is one.
UNLOADED = (
    (LOGS / "sglang-0.5.12.post1-cpu-boot-2026-11-22.log").read_text(encoding="utf-8").partition("Load weight")[0]
)


@pytest.mark.parametrize(
    ("code", "log", "cause", "remedy"),
    [
        (137, STOPPED, "killed in the middle (signal 9)", "--memory"),
        (-9, STOPPED, "killed in the middle (signal 9)", "--memory"),
        (137, STOPPED + "bash: line 1:   629 Killed\n", "main memory ran out", "--memory"),
        (137, "[ 12.3] Out of memory: Killed process 629 (python3)\n", "main memory ran out", "--memory"),
        (139, STOPPED, "signal 11", "--image"),
        (132, STOPPED, "this CPU doesn't have", "--image"),
        (127, "bash: line 1: vllm: command not found\n", "doesn't hold the engine's program", "--image"),
        (143, STOPPED, "told to stop from outside", "again"),
        (137, UNLOADED, "killed in the middle (signal 9)", "--memory"),
    ],
)
def test_an_exit_code_that_says_more_than_the_log(code: int, log: str, cause: str, remedy: str) -> None:
    found = by_exit_code(code, log)
    assert found is not None
    assert cause in found.cause
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("code", "log"),
    [
        (0, STOPPED),
        (1, STOPPED),
        (137, STOPPED + "Traceback (most recent call last):\n  File 'x.py'\nRuntimeError: something new\n"),
        (139, STOPPED + "0.01.024 E srv load_model: something new\n"),
    ],
)
def test_an_exit_code_that_says_nothing(code: int, log: str) -> None:
    assert by_exit_code(code, log) is None


def test_what_only_reads_like_an_error_is_left_out_and_nothing_else() -> None:
    kept = telling(UNLOADED)
    assert UNLOADED.count("Ignore import error") == 3
    assert UNLOADED.count("will be an error in a future release") == 6
    assert "error" not in kept
    assert len(kept.splitlines()) == len(UNLOADED.splitlines()) - 9
