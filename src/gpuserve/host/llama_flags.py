"""The flags of the ``llama-server`` look-alike: llama-server's own names, for what its library takes here."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never


class BadArgument(Exception):
    """An argument that llama-server would refuse, in its words."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: its spellings, what it sets, and how its value is read (None: it takes none and sets ``value``)."""

    names: tuple[str, ...]
    dest: str
    read: Callable[[str], object] | None
    help: str
    value: object = True


def _layers(text: str) -> int:
    return {"auto": -1, "all": -2}.get(text) or int(text)


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"unknown value {text!r}, expected {', '.join(choices)}")
        return text

    return read


def _template_variables(text: str) -> dict[str, str]:
    """A JSON object as the library wants it: each value as JSON again."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("no JSON object")
    return {key: json.dumps(value) for key, value in found.items()}


FLAGS = (
    Flag(("-m", "--model"), "model", str, "path of a GGUF file"),
    Flag(("-hf", "-hfr", "--hf-repo"), "hf_repo", str, "Hugging Face repository, <user>/<model>[:quant]"),
    Flag(("-hff", "--hf-file"), "hf_file", str, "file of that repository; wins over the quantisation"),
    Flag(("--offline",), "offline", None, "use only what is in the caches"),
    Flag(("-a", "--alias"), "alias", str, "model names, separated by commas"),
    Flag(("--host",), "host", str, "address to listen on (default 127.0.0.1)"),
    Flag(("--port",), "port", int, "port to listen on (default 8080)"),
    Flag(("--api-key",), "api_key", str, "keys, separated by commas; better in LLAMA_API_KEY"),
    Flag(("--api-key-file",), "api_key_file", str, "file with one key a line"),
    Flag(("--cors-origins",), "cors_origins", str, "web pages that may call the server (default none; * for all)"),
    Flag(("-c", "--ctx-size"), "ctx_size", int, "tokens of context (default 0: the model's own)"),
    Flag(("-np", "--parallel"), "parallel", int, "requests served at once (default -1: 4 that share the context)"),
    Flag(("-kvu", "--kv-unified"), "kv_unified", None, "all requests share one KV cache"),
    Flag(("-no-kvu", "--no-kv-unified"), "kv_unified", None, "each has its own part", value=False),
    Flag(("-t", "--threads"), "threads", int, "threads for generation (default: the cores but one)"),
    Flag(("-tb", "--threads-batch"), "threads_batch", int, "threads for prompts (default: as --threads)"),
    Flag(("--threads-http",), "threads_http", int, "threads for requests"),
    Flag(("-b", "--batch-size"), "batch_size", int, "logical batch, in tokens (default 2048)"),
    Flag(("-ub", "--ubatch-size"), "ubatch_size", int, "physical batch, in tokens (default 512)"),
    Flag(("-n", "--predict", "--n-predict"), "predict", int, "most tokens of an answer (default -1: no limit)"),
    Flag(("-ngl", "--gpu-layers", "--n-gpu-layers"), "gpu_layers", _layers, "layers on the GPU, auto or all"),
    Flag(("-fa", "--flash-attn"), "flash_attn", _one_of("on", "off", "auto"), "flash attention: on, off or auto"),
    Flag(("-s", "--seed"), "seed", int, "seed of the sampling (default -1: random)"),
    Flag(("--temp", "--temperature"), "temperature", float, "default temperature"),
    Flag(("--top-k",), "top_k", int, "default top-k"),
    Flag(("--top-p",), "top_p", float, "default top-p"),
    Flag(("--cache-reuse",), "cache_reuse", int, "least tokens to reuse from the cache by shifting"),
    Flag(("-cram", "--cache-ram"), "cache_ram", int, "MiB of memory for idle prompts (default 512)"),
    Flag(("--warmup",), "warmup", None, "run once before serving (default)"),
    Flag(("--no-warmup",), "warmup", None, "don't", value=False),
    Flag(("--jinja",), "jinja", None, "use the model's own chat template (default)"),
    Flag(("--no-jinja",), "jinja", None, "don't", value=False),
    Flag(("--chat-template",), "chat_template", str, "a template, or the name of a built-in one"),
    Flag(("--chat-template-file",), "chat_template_file", str, "file with a template"),
    Flag(("--chat-template-kwargs",), "chat_template_kwargs", _template_variables, "its variables, a JSON object"),
    Flag(
        ("--reasoning-format",),
        "reasoning_format",
        _one_of("none", "deepseek", "deepseek-legacy", "auto"),
        "where reasoning goes: none (in the text), deepseek (reasoning_content), deepseek-legacy (both) or auto",
    ),
    Flag(("--metrics",), "metrics", None, "serve /metrics"),
    Flag(("--slots",), "slots", None, "serve /slots (default)"),
    Flag(("--no-slots",), "slots", None, "don't", value=False),
    Flag(("--props",), "props", None, "let clients change settings through /props"),
    Flag(("-lv", "--verbosity", "--log-verbosity"), "verbosity", int, "1 errors, 2 warnings, 3 steps (default), 4 all"),
    Flag(("-h", "--help", "--usage"), "help", None, "show this and end"),
    Flag(("--version",), "version", None, "show the version and end"),
)

_DEFAULTS: dict[str, object] = {
    "model": "", "hf_repo": "", "hf_file": "", "offline": False, "alias": "", "host": "127.0.0.1", "port": 8080,
    "api_key": "", "api_key_file": "", "cors_origins": "", "ctx_size": 0, "parallel": -1, "kv_unified": None,
    "threads": None, "threads_batch": None, "threads_http": -1, "batch_size": 2048, "ubatch_size": 512, "predict": -1,
    "gpu_layers": -1, "flash_attn": "auto", "seed": -1, "temperature": None, "top_k": None, "top_p": None,
    "cache_reuse": 0, "cache_ram": 512, "warmup": True, "jinja": True, "chat_template": "", "chat_template_file": "",
    "chat_template_kwargs": {}, "reasoning_format": "auto", "metrics": False, "slots": True, "props": False,
    "verbosity": 3, "help": False, "version": False,
}  # fmt: skip

_BY_NAME = {name: flag for flag in FLAGS for name in flag.names}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise BadArgument(message)


def parser() -> argparse.ArgumentParser:
    """The parser behind ``parse``; its ``format_help`` is what ``--help`` prints."""
    made = _Parser(prog="llama-server", add_help=False, allow_abbrev=False)
    made.set_defaults(**_DEFAULTS)
    for flag in FLAGS:
        if flag.read is None:
            made.add_argument(*flag.names, dest=flag.dest, action="store_const", const=flag.value, help=flag.help)
        else:
            made.add_argument(*flag.names, dest=flag.dest, type=flag.read, help=flag.help, metavar="X")
    return made


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """The options in ``arguments``, with their defaults; ``api_keys`` holds every key, from wherever it came.

    As with llama-server, a flag and its value are two arguments, and underscores stand for hyphens.

    Raises:
        BadArgument: an unknown flag, a value that is missing or can't be read, or a file that can't.
    """
    options = parser().parse_args(_joined(arguments))
    options.api_keys = _api_keys(options, environment)
    if options.chat_template_file:
        options.chat_template = _file(options.chat_template_file)
    if not 0 < options.port < 65536:
        raise BadArgument(f"port {options.port} is out of range")
    _fill(options, environment)
    return options


def _joined(arguments: Sequence[str]) -> list[str]:
    """``--flag value`` as ``--flag=value``, so that a value may begin with a hyphen, as it may in llama-server."""
    joined = []
    left = iter(arguments)
    for argument in left:
        spelling = argument.replace("_", "-") if argument.startswith("--") else argument
        flag = _BY_NAME.get(spelling)
        if flag is None:
            raise BadArgument(f"invalid argument: {argument}")
        if flag.read is None:
            joined.append(spelling)
            continue
        value = next(left, None)
        if value is None:
            raise BadArgument(f"argument {spelling}: expected value for argument")
        joined.append(f"{flag.names[-1]}={value}")
    return joined


def _api_keys(options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    keys = environment.get("LLAMA_API_KEY", "").split(",") + options.api_key.split(",")
    if options.api_key_file:
        keys += _file(options.api_key_file).splitlines()
    return list(dict.fromkeys(stripped for key in keys if (stripped := key.strip())))


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"failed to open file '{path}': {error}") from error


def _fill(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Defaults that follow from other options or from the machine."""
    if options.threads is None or options.threads < 1:
        options.threads = default_threads(environment)
    if options.threads_batch is None or options.threads_batch < 1:
        options.threads_batch = options.threads
    if options.parallel < 1:
        options.parallel = 4
        options.kv_unified = True if options.kv_unified is None else options.kv_unified


def default_threads(environment: Mapping[str, str]) -> int:
    """The cores but one; one on a small machine or in CI.

    With as many threads as cores, each step waits for whichever core does something else: on two loaded
    cores two threads generated 2.4 tokens/s and one thread 20.
    """
    cores = os.cpu_count() or 1
    return 1 if cores <= 2 or environment.get("CI") else cores - 1
