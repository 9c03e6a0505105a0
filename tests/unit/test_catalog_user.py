"""The user's own catalogue file: its rows come first, replace built-in ones, and are blamed by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuserve import catalog
from gpuserve.catalog import shapes
from gpuserve.errors import ConfigError

FAMILY = """
[[family]]
id = "{id}"
match = '{match}'
confidence = "high"
source = "tried at home"
{engine}
"""
MODEL = """
[[model]]
hf = "{hf}"
params_b = 8.2
precision = "bf16"
weight_gib = 15.5
weight_src = "K"
config_src = "C"
max_context = 32768
kv_full_layers = 36
kv_heads = 8
head_dim = 128
confidence = "high"
source = "measured"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's catalogue belongs, in a directory of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "gpuserve").mkdir()
    return tmp_path / "gpuserve" / "catalog.toml"


def test_without_a_file_the_built_in_rows_stand(file: Path) -> None:
    assert not file.exists()
    assert catalog.lookup("Qwen/Qwen3-8B", "vllm").family == "qwen3"


def test_a_row_of_ones_own_comes_first(file: Path) -> None:
    file.write_text(FAMILY.format(id="mine", match="qwen3-8b", engine='vllm = { tool_parser = "qwen3_xml" }'))
    assert catalog.lookup("Qwen/Qwen3-8B", "vllm").tool_parser == "qwen3_xml"
    assert catalog.lookup("Qwen/Qwen3-8B", "sglang").family == "mine"
    assert catalog.lookup("Qwen/Qwen3-4B", "vllm").family == "qwen3"


def test_a_row_with_a_built_in_id_replaces_it(file: Path) -> None:
    file.write_text(FAMILY.format(id="qwen3", match="never-this", engine=""))
    assert catalog.lookup("Qwen/Qwen3-8B", "vllm").family == ""


def test_a_changed_file_is_read_again(file: Path) -> None:
    file.write_text(FAMILY.format(id="one", match="acme/", engine=""))
    assert catalog.lookup("acme/model", "vllm").family == "one"
    file.write_text(FAMILY.format(id="another", match="acme/", engine=""))
    assert catalog.lookup("acme/model", "vllm").family == "another"


def test_a_model_of_ones_own_gets_family_and_bytes_worked_out(file: Path) -> None:
    file.write_text(MODEL.format(hf="acme/Qwen3-8B-tuned"))
    shape = shapes.shape_of("acme/qwen3-8b-tuned")
    assert shape is not None
    assert shape.family == "qwen3"
    assert shape.active_b == shape.params_b
    assert shape.kv_bytes_per_token_vllm == shape.kv_bytes_per_token_sglang == 2 * 36 * 8 * 128 * 2
    assert len(shapes.shapes()) == 141


def test_sliding_layers_cost_sglang_every_token(file: Path) -> None:
    window = "kv_window_layers = 4\nkv_window = 128\nkv_window_heads = 8\nkv_window_head_dim = 64\n"
    file.write_text(MODEL.format(hf="acme/sliding") + window)
    shape = shapes.shape_of("acme/sliding")
    assert shape is not None
    assert shape.kv_bytes_per_token_sglang - shape.kv_bytes_per_token_vllm == 2 * 4 * 8 * 64 * 2
    assert shape.kv_window_bytes_per_seq_vllm == 2 * 4 * 8 * 64 * 2 * 128


def test_a_model_and_a_gpu_type_are_replaced(file: Path) -> None:
    gpu = '[[gpu]]\nname = "H100"\nmemory_mib = 95830\narch = "sm90"\nconfidence = "high"\nsource = "nvidia-smi"\n'
    file.write_text(MODEL.format(hf="qwen/qwen3-8b") + gpu)
    shape = shapes.shape_of("Qwen/Qwen3-8B")
    assert shape is not None
    assert shape.weight_gib == 15.5
    assert len(shapes.shapes()) == 140
    assert shapes.gpu("H100").memory_mib == 95830
    assert [spec.name for spec in shapes.gpus()].count("H100") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[family", "is no TOML"),
        ("[[engine]]\na = 1", r"expected \[\[family\]\], \[\[model\]\] and \[\[gpu\]\] tables only"),
        ("model = 1", r"expected \[\[model\]\] tables"),
        (FAMILY.format(id="", match="x", engine=""), "family 1: id is missing"),
        (
            FAMILY.format(id="x", match="x", engine="vllm = { toolparser = 'a' }"),
            r"family 1 \(x\): vllm: unknown field",
        ),
        (MODEL.format(hf="a/b").replace("15.5", "0"), r"model 1 \(a/b\): weight_gib is no number above 0"),
        (MODEL.format(hf="a/b").replace("weight_gib = 15.5", ""), r"model 1 \(a/b\): weight_gib is missing"),
        (MODEL.format(hf="a/b").replace("36", "-1"), r"model 1 \(a/b\): kv_full_layers is no whole number"),
        (MODEL.format(hf="a/b").replace("36", "0"), r"model 1 \(a/b\): kv_bytes_per_token_vllm is missing"),
        (MODEL.format(hf="a/b").replace("max_context", "context"), r"model 1 \(a/b\): max_context is missing"),
        (MODEL.format(hf="a/b") + "kv = 1", r"model 1 \(a/b\): unknown field kv"),
        (MODEL.format(hf="a/b") + MODEL.format(hf="A/B"), "more than one model is called a/b"),
        ('[[gpu]]\nname = "A100"\n', r"gpu 1 \(A100\): memory_mib is missing"),
    ],
)
def test_a_broken_row_is_blamed_with_its_file(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        catalog.lookup("Qwen/Qwen3-8B", "vllm")
    assert str(file) in caught.value.message


def test_a_file_that_cannot_be_read_is_an_error(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        shapes.gpus()
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        shapes.gpus()
