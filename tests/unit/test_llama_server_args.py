"""The flags of the llama-server look-alike, and which file it takes for a model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuserve import catalog, engines
from gpuserve.host import llama_flags, llama_models, weights
from gpuserve.records import ServeRequest

NO_ENVIRONMENT: dict[str, str] = {}


def parse(*arguments: str, **environment: str) -> object:
    return llama_flags.parse(arguments, environment)


def value(name: str, *arguments: str, **environment: str) -> object:
    return getattr(parse(*arguments, **environment), name)


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        (("-m", "a.gguf"), "model", "a.gguf"),
        (("--model", "a b.gguf"), "model", "a b.gguf"),
        (("-hf", "a/b:Q4"), "hf_repo", "a/b:Q4"),
        (("-hfr", "a/b"), "hf_repo", "a/b"),
        (("--hf-repo", "a/b"), "hf_repo", "a/b"),
        (("--hf-file", "c.gguf"), "hf_file", "c.gguf"),
        (("--alias", "x,y"), "alias", "x,y"),
        (("-a", "x"), "alias", "x"),
        ((), "host", "127.0.0.1"),
        ((), "port", 8080),
        (("--port", "1"), "port", 1),
        (("-c", "4096"), "ctx_size", 4096),
        (("--ctx_size", "4096"), "ctx_size", 4096),
        (("-np", "2"), "parallel", 2),
        ((), "parallel", 4),
        ((), "kv_unified", True),
        (("-np", "-1", "-no-kvu"), "kv_unified", False),
        (("--parallel", "2"), "kv_unified", None),
        (("-t", "3"), "threads_batch", 3),
        (("-t", "3", "-tb", "2"), "threads_batch", 2),
        (("-ngl", "all"), "gpu_layers", -2),
        (("-ngl", "12"), "gpu_layers", 12),
        (("-fa", "off"), "flash_attn", "off"),
        (("--seed", "-1"), "seed", -1),
        (("--chat-template-kwargs", '{"enable_thinking": false, "a": "b"}'), "chat_template_kwargs",
         {"enable_thinking": "false", "a": '"b"'}),
        (("--chat-template", "--{{ messages }}"), "chat_template", "--{{ messages }}"),
        (("--reasoning-format", "none"), "reasoning_format", "none"),
        (("--metrics",), "metrics", True),
        ((), "metrics", False),
        (("--no-slots",), "slots", False),
        (("--jinja",), "jinja", True),
        (("--no-jinja", "--jinja"), "jinja", True),
        ((), "cors_origins", ""),
    ],
)  # fmt: skip
def test_values(arguments: tuple[str, ...], name: str, expected: object) -> None:
    assert value(name, *arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--no-such-flag",), "invalid argument: --no-such-flag"),
        (("--ctx-size=4096",), "invalid argument: --ctx-size=4096"),
        (("--ctx", "1"), "invalid argument: --ctx"),
        (("stray",), "invalid argument: stray"),
        (("-m",), "argument -m: expected value for argument"),
        (("-c", "many"), "invalid int value: 'many'"),
        (("-fa", "maybe"), "unknown value 'maybe', expected on, off, auto"),
        (("-ngl", "some"), "some"),
        (("--port", "0"), "port 0 is out of range"),
        (("--port", "65536"), "port 65536 is out of range"),
        (("--chat-template-kwargs", "{"), "no JSON"),
        (("--chat-template-kwargs", "[]"), "no JSON object"),
        (("--api-key-file", "/no/such/file"), "failed to open file '/no/such/file'"),
    ],
)
def test_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(llama_flags.BadArgument) as caught:
        parse(*arguments)
    assert said in str(caught.value)


def test_api_keys_come_from_the_environment_the_flag_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("three\n\nfour\n")
    keys = value("api_keys", "--api-key", "two, one", "--api-key-file", str(file), LLAMA_API_KEY="one")
    assert keys == ["one", "two", "three", "four"]
    assert value("api_keys") == []


def test_template_file(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages }}")
    assert value("chat_template", "--chat-template-file", str(file)) == "{{ messages }}"


@pytest.mark.parametrize(
    ("cores", "ci", "threads"), [(1, "", 1), (2, "", 1), (8, "", 7), (8, "true", 1), (None, "", 1)]
)
def test_default_threads(monkeypatch: pytest.MonkeyPatch, cores: int | None, ci: str, threads: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert value("threads", CI=ci) == threads
    assert value("threads", "-t", "5", CI=ci) == 5


def test_help_names_every_flag() -> None:
    text = llama_flags.parser().format_help()
    assert all(name in text for flag in llama_flags.FLAGS for name in flag.names)


def test_every_flag_of_the_plan_is_known() -> None:
    request = ServeRequest(model="a/b-GGUF", engine="llamacpp", engine_args=("-c", "2048"))
    options = parse(*engines.load("llamacpp").plan(request, catalog.lookup(request.model, "llamacpp")).argv[1:])
    assert vars(options).items() >= {"hf_repo": "a/b-GGUF", "alias": "b", "port": 8000, "metrics": True}.items()


# ---- which file


@pytest.mark.parametrize(
    ("names", "quantisation", "file", "chosen"),
    [
        (["b-Q8_0.gguf", "b-Q4_K_M.gguf"], "", "", "b-Q4_K_M.gguf"),
        (["b-Q8_0.gguf", "b-Q4_K_M.gguf"], "q8_0", "", "b-Q8_0.gguf"),
        (["b-Q8_0.gguf", "a-Q5.gguf"], "", "", "a-Q5.gguf"),
        (["b-Q8_0.gguf"], "Q2_K", "", ""),
        (["b-Q8_0.gguf", "c.gguf"], "", "c.gguf", "c.gguf"),
        (["b-Q8_0.gguf"], "", "d.gguf", ""),
        (["mmproj-Q4_K_M.gguf", "README.md"], "", "", ""),
        (["q/b-Q8_0-00002-of-00002.gguf", "q/b-Q8_0-00001-of-00002.gguf"], "Q8_0", "", "q/b-Q8_0-00001-of-00002.gguf"),
    ],
)
def test_choose(names: list[str], quantisation: str, file: str, chosen: str) -> None:
    assert llama_models.choose(names, quantisation, file) == chosen


def test_parts() -> None:
    assert llama_models.parts("a.gguf") == ["a.gguf"]
    assert llama_models.parts("x/a-00001-of-00002.gguf") == ["x/a-00001-of-00002.gguf", "x/a-00002-of-00002.gguf"]


def find(*arguments: str) -> Path:
    return llama_models.find(llama_flags.parse(arguments, NO_ENVIRONMENT), lambda _line: None)


def test_model_in_the_hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--somebody--model-GGUF"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc\n")
    files = [place / "snapshots" / "abc" / name for name in ("m-Q4_0.gguf", "m-Q8_0-00001-of-00002.gguf")]
    files[0].parent.mkdir(parents=True)
    for file in files:
        file.touch()
    assert find("-hf", "somebody/model-GGUF") == files[0]
    assert find("-hf", "somebody/model-GGUF:q4_0", "--offline") == files[0]
    with pytest.raises(llama_models.ModelNotFound, match=r"model-GGUF:Q8_0.*--offline"):
        find("-hf", "somebody/model-GGUF:Q8_0", "--offline")  # its second part is missing


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_cache_directory(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert llama_models.cache_directory() == Path(expected)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LLAMA_CACHE": "/a", "XDG_CACHE_HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/gpuserve/weights"),
        ({"HOME": "/d"}, "/d/.cache/gpuserve/weights"),
    ],
)
def test_default_directory(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    for name in ("LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert weights.default_directory() == Path(expected)


@pytest.mark.parametrize("repository", ["nothing", "a/b/c", "a b/c", "../x"])
def test_bad_repository(repository: str) -> None:
    with pytest.raises(llama_models.ModelNotFound, match="invalid HF repo format"):
        find("-hf", repository)


def test_no_model() -> None:
    with pytest.raises(llama_models.ModelNotFound, match="--model is required"):
        find()
