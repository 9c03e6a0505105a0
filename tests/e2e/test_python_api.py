from __future__ import annotations

import pytest

import gpuserve
from e2e.usershell import Shell, names


@pytest.fixture
def here(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """This very process in the shell's home."""
    for name, value in shell.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR")
    return shell


def test_a_deployment_lives_as_long_as_its_block(here: Shell) -> None:
    events: list[object] = []
    engine_args = ("--threads", "1", "--ctx-size", "2048")
    with gpuserve.up(local=True, name="api", engine_args=engine_args, emit=events.append) as endpoint:
        client = endpoint.openai(timeout=60)
        reply = client.chat.completions.create(
            model=endpoint.served_model,
            messages=[{"role": "user", "content": "What is the capital of France? Answer with one word."}],
            max_tokens=16,
            temperature=0,
        )
        client.close()
        assert "Paris" in (reply.choices[0].message.content or "")
        assert names(here.live()) == ["api"]
    assert here.live() == []
    kinds = [type(event).__name__ for event in events]
    assert kinds[0] == "Planned"
    assert kinds[-1] == "Ready"


def test_a_block_that_fails_leaves_nothing_either(here: Shell) -> None:
    with pytest.raises(ZeroDivisionError), gpuserve.up(local=True, name="api2", engine_args=("--threads", "1")):
        raise ZeroDivisionError
    assert here.live() == []


def test_bad_input_is_refused_before_anything_exists(here: Shell) -> None:
    with pytest.raises(gpuserve.GpuserveError, match="unknown engine"):
        gpuserve.up("a/b", engine="nope", local=True)
    assert here.live() == []
