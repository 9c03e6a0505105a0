"""What the engines' plans set beside what was asked for: a fast boot's flags and variables, SGLang's gRPC port."""

from __future__ import annotations

import pytest

from fakes.plans import plan
from gpuserve import engines
from gpuserve.engines.base import StartsFaster

FORK, RUNNER = "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_USE_V2_MODEL_RUNNER"


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("vllm", ("--enforce-eager", "--optimization-level", "0")),
        ("sglang", ("--disable-cuda-graph", "--disable-piecewise-cuda-graph")),
        ("llamacpp", ()),
    ],
)
def test_a_fast_boot_adds_its_flags_and_nothing_else(engine: str, flags: tuple[str, ...]) -> None:
    usual = plan(engine, "somebody/strange-1b-GGUF")
    fast = plan(engine, "somebody/strange-1b-GGUF", fast_boot=True)
    assert fast.argv == (*usual.argv, *flags)
    assert dict(fast.env) == ({FORK: "fork", RUNNER: "0"} if engine == "vllm" else {})
    assert dict(usual.env) == {}
    assert isinstance(engines.load(engine), StartsFaster) is bool(flags)


@pytest.mark.parametrize(
    ("engine", "theirs", "left"),
    [
        ("vllm", "--no-enforce-eager", "--enforce-eager"),
        ("vllm", "-O2", "--optimization-level"),
        ("vllm", "--optimization_level=1", "--optimization-level"),
        ("sglang", "--disable-piecewise-cuda-graph", "--disable-piecewise-cuda-graph"),
    ],
)
def test_the_users_own_choice_stands_in_a_fast_boot(engine: str, theirs: str, left: str) -> None:
    made = plan(engine, "Qwen/Qwen3-8B", theirs, fast_boot=True)
    assert left not in made.argv[:-1]
    assert made.argv[-1] == theirs
    assert any(note.startswith(f"{left} is left to your engine arguments") for note in made.notes)


@pytest.mark.parametrize(("name", "value"), [(FORK, "spawn"), (RUNNER, "1")])
def test_the_users_variables_stand_in_a_fast_boot(name: str, value: str) -> None:
    made = plan("vllm", "Qwen/Qwen3-8B", fast_boot=True, env={name: value})
    assert made.env[name] == value
    assert not any(name in note for note in made.notes)


def test_a_fast_boot_does_not_fork_where_vllm_would_refuse_to_start() -> None:
    made = plan("vllm", "Qwen/Qwen3-8B", "--mm-tensor-ipc=torch_shm", fast_boot=True)
    assert FORK not in made.env
    assert made.env[RUNNER] == "0"


@pytest.mark.parametrize(("port", "wanted"), [(30_000, None), (55_535, None), (55_536, "45536"), (60_999, "50999")])
def test_sglang_finds_a_port_for_its_grpc_wherever_it_listens(port: int, wanted: str | None) -> None:
    assert plan("sglang", "Qwen/Qwen3-8B", port=port).env.get("SGLANG_GRPC_PORT") == wanted


def test_the_users_port_for_sglangs_grpc_stands() -> None:
    made = plan("sglang", "Qwen/Qwen3-8B", port=60_000, env={"SGLANG_GRPC_PORT": "1234"})
    assert made.env["SGLANG_GRPC_PORT"] == "1234"
