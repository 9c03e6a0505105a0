"""Small real weights for real engines: SmolLM2-135M-Instruct as a folder in Hugging Face's form.

    python scripts/engine_models.py [FOLDER]

vLLM and SGLang on a CPU read safetensors, and no package holds a small instruct model as such. So the embedded engine's
own weights (GGUF, fetched and checked by ``gpuserve.host.weights``) are turned into 16-bit safetensors with the
tokenizer, the template and the settings that the GGUF file carries. ``marked`` gives the same model the marker tokens
that the engines' parsers look for, and a template that knows tools and thinking.

It needs the project's environment; the conversion runs in a small one of its own (``tools``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

TOOLS = ("uv==0.13.9", "gguf==0.19.0", "numpy==2.4.6", "safetensors==0.8.0", "tokenizers==0.23.3")

#: Special tokens that SmolLM2 never writes, and what stands in their place in the marked model.
MARKERS = {
    "<repo_name>": "<think>",
    "<reponame>": "</think>",
    "<file_sep>": "<tool_call>",
    "<filename>": "</tool_call>",
}

#: Hermes' way of telling tools; thinking is begun by the prompt, as Qwen3's and DeepSeek-R1's templates begin it.
TEMPLATE = r"""
{%- if tools -%}
{{ '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' -%}{{ messages[0].content + '\n\n' }}{%- endif -%}
{{ '# Tools\nYou may call functions. Signatures inside <tools></tools>:\n<tools>' }}
{%- for tool in tools -%}{{ '\n' + tool | tojson }}{%- endfor -%}
{{ '\n</tools>\nReturn calls as <tool_call>\n{"name": NAME, "arguments": ARGS}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role != 'system' -%}
{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{ '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- elif message.role == 'assistant' and message.tool_calls -%}
{{ '<|im_start|>assistant\n' + (message.content or '') }}
{%- for call in message.tool_calls -%}
{%- set given = call.function.arguments -%}
{{ '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (given if given is string else given | tojson) + '}\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- elif not (loop.first and message.role == 'system' and tools) -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking -%}{{ '<think>\n' }}{%- endif -%}
{%- endif -%}
"""


def default_place() -> Path:
    """$GPUSERVE_ENGINES, or a folder below $XDG_CACHE_HOME or ~/.cache: real engines, and models for them."""
    chosen = os.environ.get("GPUSERVE_ENGINES")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else caches / "gpuserve-engines"


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def is_whole(folder: Path, content: object) -> bool:
    """Whether ``folder`` was finished with this content; what is there of another is removed."""
    stamp = folder.with_name(folder.name + ".json")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == json.dumps(content):
        return True
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"building {folder.name}")
    return False


def set_whole(folder: Path, content: object) -> None:
    """Notes that ``folder`` is finished with this content."""
    folder.with_name(folder.name + ".json").write_text(json.dumps(content), encoding="utf-8")


def tools(place: Path) -> Path:
    """The ``bin`` of an environment with uv, and with what the conversion needs; made once (about 150 MB)."""
    folder = place / "tools"
    if not is_whole(folder, TOOLS):
        venv.create(folder, with_pip=True)
        install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TOOLS)
        subprocess.run([str(folder / "bin" / "python"), *install], check=True, stdout=sys.stderr)
        set_whole(folder, TOOLS)
    return folder / "bin"


def smollm2(folder: Path, place: Path | None = None) -> Path:
    """``folder`` with SmolLM2-135M-Instruct in it (270 MB), made once. ``place`` is where ``tools`` are."""
    from gpuserve.host import weights

    content = [weights.SHA256, *TOOLS]
    if not is_whole(folder, content):
        source = weights.prepare(weights.default_directory(), say)
        convert = [str(tools(place or default_place()) / "python"), __file__, str(folder), "--from", str(source)]
        subprocess.run(convert, check=True, stdout=sys.stderr)
        set_whole(folder, content)
    return folder


def marked(folder: Path, source: Path) -> Path:
    """``folder`` with the model of ``source``, its weights shared, with ``MARKERS`` and ``TEMPLATE``; made once."""
    content = [MARKERS, TEMPLATE, source.with_name(source.name + ".json").read_text(encoding="utf-8")]
    if is_whole(folder, content):
        return folder
    folder.mkdir(parents=True)
    for name in ("config.json", "generation_config.json"):
        shutil.copy(source / name, folder)
    os.link(source / "model.safetensors", folder / "model.safetensors")
    tokenizer = _read(source / "tokenizer.json")
    tokenizer["model"]["vocab"] = {MARKERS.get(word, word): at for word, at in tokenizer["model"]["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        token["content"] = MARKERS.get(token["content"], token["content"])
    _write(folder / "tokenizer.json", tokenizer)
    settings = _read(source / "tokenizer_config.json")
    _write(folder / "tokenizer_config.json", {**settings, "chat_template": TEMPLATE.strip("\n")})
    set_whole(folder, content)
    return folder


def both(place: Path) -> tuple[Path, Path]:
    """The model as it is, and marked, in ``place/models``; no name of a known family, so that it may seem to reason."""
    plain = smollm2(place / "models" / "smollm2", place)
    return plain, marked(place / "models" / "marked", plain)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


# What follows runs in the environment of ``tools``.

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # a special token, in GGUF's ``tokenizer.ggml.token_type``


class Source:
    """A GGUF file of the Llama architecture with byte-level BPE."""

    def __init__(self, file: Path) -> None:
        from gguf import GGUFReader

        self._reader = GGUFReader(str(file))

    def get(self, key: str) -> Any:
        """A field's value; None if the file hasn't it."""
        field = self._reader.fields.get(key)
        return None if field is None else field.contents()

    def llama(self, key: str) -> Any:
        """A field of the architecture's own."""
        return self.get(f"llama.{key}")

    def token(self, which: str) -> tuple[int, str]:
        """A special token's number and text."""
        number = self.get(f"tokenizer.ggml.{which}_token_id")
        return number, self.get("tokenizer.ggml.tokens")[number]

    def tensors(self) -> dict[str, Any]:
        """The weights by Hugging Face's names, in 16 bits."""
        import numpy as np
        from gguf import dequantize

        found = {}
        for tensor in self._reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            name = _TOP.get(tensor.name)
            if name is None:
                _, block, kind, _ = tensor.name.split(".")
                name = f"model.layers.{block}.{_BLOCK[kind]}.weight"
                heads = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}.get(kind)
                values = _unpermuted(values, self.llama(heads)) if heads else values
            found[name] = np.ascontiguousarray(values.astype(np.float16))
        return found


def _unpermuted(values: Any, heads: int) -> Any:
    """GGUF keeps the two halves of each rotated pair side by side, Hugging Face one after the other."""
    rows = values.shape[0]
    return values.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


def convert(file: Path, folder: Path) -> None:
    """Writes ``folder`` from the GGUF file."""
    from safetensors.numpy import save_file

    source = Source(file)
    tensors = source.tensors()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    ids = {f"{name}_token_id": source.token(which)[0] for name, which in _SPECIAL.items() if name != "unk"}
    _write(folder / "config.json", {**_settings(source, tied="lm_head.weight" not in tensors), **ids})
    _write(folder / "generation_config.json", ids)
    _write(folder / "tokenizer_config.json", _tokenizer_settings(source))
    _tokenizer(source).save(str(folder / "tokenizer.json"))


_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def _settings(source: Source, *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": source.llama("embedding_length"),
        "intermediate_size": source.llama("feed_forward_length"),
        "num_hidden_layers": source.llama("block_count"),
        "num_attention_heads": source.llama("attention.head_count"),
        "num_key_value_heads": source.llama("attention.head_count_kv"),
        "vocab_size": len(source.get("tokenizer.ggml.tokens")),
        "hidden_act": "silu",
        "max_position_embeddings": source.llama("context_length"),
        "rms_norm_eps": round(source.llama("attention.layer_norm_rms_epsilon"), 10),
        "rope_theta": source.llama("rope.freq_base"),
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "attention_bias": False,
        "mlp_bias": False,
    }


def _tokenizer_settings(source: Source) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": source.token(which)[1] for name, which in _SPECIAL.items()},
        "model_max_length": source.llama("context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": source.get("tokenizer.chat_template"),
    }


def _tokenizer(source: Source) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = source.get("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in source.get("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    kinds = zip(words, source.get("tokenizer.ggml.token_type"), strict=True)
    made.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word, kind in kinds if kind == _CONTROL]
    )
    return made


def main() -> None:
    """Builds, and says where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=None, help="where the engines and models are kept")
    parser.add_argument("--from", dest="source", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.source:
        convert(given.source, given.folder)
        return
    for folder in both(given.folder or default_place()):
        print(folder)


if __name__ == "__main__":
    main()
