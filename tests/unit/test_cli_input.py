"""Bad input: a clear error, the right status, and nothing asked of any platform.

The API address leads nowhere; a command that tried to use it would end as "network", not as "usage".
"""

import json
from pathlib import Path

import pytest

from gpuserve.cli.main import run

MODEL = ("--model", "openai/gpt-oss-20b")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_planted0123456789")
    monkeypatch.setenv("DAYTONA_API_URL", "http://127.0.0.1:9/api")
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("GPUSERVE_TARGET", "GPUSERVE_HOST_DIR", "GPUSERVE_MODEL", "GPUSERVE_ENGINE"):
        monkeypatch.delenv(name, raising=False)


BAD = [
    (("up", *MODEL, "--engine", "vlm"), "unknown engine 'vlm'", "vllm"),
    (("up", "--model", "no spaces/allowed"), "is no model ID", "openai/gpt-oss-20b"),
    (("up", "--model", "a/b\nRUN evil"), "is no model ID", ""),
    (("up", "--model", "--flag"), "is no model ID", ""),
    (("up", "--model", "a/../b"), "is no model ID", ""),
    (("up", *MODEL, "--image", "python:3\nRUN evil"), "is no image reference", "vllm/vllm-openai"),
    (("up", *MODEL, "--image", "UPPER/case"), "is no image reference", ""),
    (("up", *MODEL, "--port", "0"), "out of range", "8000"),
    (("up", *MODEL, "--port", "65536"), "out of range", ""),
    (("up", *MODEL, "--port", "22222"), "belongs to the platform", ""),
    (("up", *MODEL, "--gpu", "H101"), "unknown GPU type 'H101'", "RTX-PRO-6000"),
    (("up", *MODEL, "--ttl=-5"), "is no duration", "2h"),
    (("up", *MODEL, "--ttl", "0"), "too short", "--ttl none"),
    (("up", *MODEL, "--timeout", "soon"), "is no duration", ""),
    (("up", *MODEL, "--name", "Not A Name"), "is no deployment name", ""),
    (("up", *MODEL, "--env", "1BAD=x"), "is no environment variable name", ""),
    (("up", *MODEL, "--env", "NOT_SET_HERE_AT_ALL"), "not set here", ""),
    (("up", *MODEL, "--label", "novalue"), "is no label", ""),
    (("up", *MODEL, "--label", "gpuserve/run=x"), "can't be set", ""),
    (("up", *MODEL, "--on-failure", "perhaps"), "can't be 'perhaps'", "keep or delete"),
    (("up", *MODEL, "-o", "yaml"), "unknown output format 'yaml'", "github"),
    (("up", *MODEL, "--cpu", "0"), "cpu 0 is out of range", ""),
    (("up", *MODEL, "--", "--port", "1"), "", "--port"),
    (("up", "stray"), "unexpected argument 'stray'", "--model stray"),
    (("up",), "no model named", "--model"),
    (("up", "--engin", "vllm"), "No such option: --engin", "--help"),
    (("share", "--expires", "0"), "can't live for 0 s", "1 to 86400"),
    (("share", "--expires", "25h"), "can't live for 90000 s", "1 to 86400"),
    (("share", "--revoke", "--expires", "1h"), "don't go together", ""),
    (("share", "--url", "x"), "goes with --revoke", ""),
    (("share", "list", "--revoke"), "one thing at a time", "--rotate-key"),
    (("share", "--public", "on", "--expires", "1h"), "one thing at a time", ""),
    (("share", "--public", "sideways"), "can't be 'sideways'", "--public on"),
    (("share", "a", "b"), "one deployment at a time", ""),
    (("share", "--reveal"), "goes with list", ""),
    (("share", "--rotate-key"), "loads the model anew", "--yes"),
    (("up", *MODEL, "--access", "open", "--no-check"), "anybody who has the URL", "--yes"),
    (("up", *MODEL, "--public", "--no-check"), "anybody who has the URL", "--yes"),
    (("up", *MODEL, "--access", "all"), "unknown access 'all'", "signed"),
    (("up", *MODEL, "--access", "token", "--public"), "don't go together", ""),
    (("status", "x", "--url", "http://127.0.0.1:9"), "--url goes with neither", ""),
    (("status", "--url", "http://127.0.0.1:9", "--token-from", "NOT_SET_AT_ALL"), "isn't set", "export"),
    (("status", "--token-from", "TOKEN"), "go with --url", ""),
    (("status", "a/b"), "is no deployment's name", ""),
    (("logs", "../x"), "is no deployment's name", ""),
    (("logs", "x", "--since", "yesterday"), "is no duration", ""),
    (("down",), "name what to delete", ""),
    (("down", "x", "--all"), "name what to delete", ""),
    (("query", "   "), "no question", "haiku"),
    (("query", "x", "--tools", "shell"), "unknown tools 'shell'", "--tools sandbox"),
    (("query", "x", "--tool", "no_such_module:f"), "there is no module no_such_module", "NAME.py"),
    (("query", "x", "--tool", "no_colon"), "names no tool", "module:function"),
    (("query", "x", "--tools", "sandbox", "--tool-network", "a b"), "neither a domain nor a network", "pypi.org"),
    (("query", "x", "--tools", "sandbox", "--tool-ttl", "1"), "too short", "1m"),
    (("query", "x", "--tools", "sandbox", "--max-rounds", "0"), "more than 0", ""),
    (("query", "x", "--tools", "sandbox", "--tool-timeout", "x"), "is no duration", ""),
    (("exec", "x"), "no command", "--python"),
    (("exec", "x", "--python", "missing.py"), "missing.py can't be read", ""),
    (("cp", "a", "b"), "one side must be here", "ID:PATH"),
    (("cp", "x:a", "y:b"), "one side must be here", "ID:PATH"),
    (("cp", "a", "x:"), "names no path", ""),
    (("cp", "missing.txt", "x:a"), "missing.txt can't be opened", ""),
    (("cp", ".", "x:a"), ". is a directory", "tar"),
    (("nonsense",), "No such command", "--help"),
    (("up", *MODEL, "--env-file", "missing.env"), "missing.env can't be read", "--env-file"),
]


@pytest.mark.parametrize(("argv", "message", "hint"), BAD, ids=[" ".join(case[0])[:60] for case in BAD])
def test_bad_input(argv: tuple[str, ...], message: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with_json = (argv[0], "--json", *argv[1:]) if argv[0] != "nonsense" else ("nonsense", "--json")
    assert run(list(with_json)) == 2
    shown = capsys.readouterr()
    error = json.loads(shown.out)["error"]
    assert error["code"] in ("usage", "config")
    assert message in error["message"]
    assert hint in error["hint"] + error["message"]
    assert "\n" not in error["message"]
    assert shown.err == ""

    assert run(list(argv)) == 2
    plain = capsys.readouterr()
    assert plain.out == ""
    assert plain.err.startswith("error     ")
    assert "Traceback" not in plain.err


def test_an_unreadable_dotenv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    assert run(["up", *MODEL]) == 2
    assert ".env can't be read" in capsys.readouterr().err


def test_without_a_key_one_sentence_names_both_ways_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAYTONA_API_KEY")
    assert run(["up", *MODEL]) == 3
    first = capsys.readouterr().err.splitlines()[0]
    assert "DAYTONA_API_KEY" in first
    assert "--local" in first


def test_an_unreachable_platform_is_a_network_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json"]) == 12
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["retryable"]) == ("network", True)


def test_a_dry_run_needs_no_key_and_no_platform(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAYTONA_API_KEY")
    argv = [
        "up",
        *MODEL,
        "--engine",
        "sglang",
        "--dry-run",
        "--json",
        "--engine-arg=--a=b c",
        "--",
        "--x",
        "$y",
        "--",
        "z",
    ]
    assert run(argv) == 0
    plan = json.loads(capsys.readouterr().out)["data"]
    assert plan["command"][-5:] == ["--a=b c", "--x", "$y", "--", "z"]
    assert plan["ttl_seconds"] == 4 * 3600


@pytest.mark.parametrize(
    ("engine", "flag", "note"),
    [
        ("vllm", "--enforce-eager", "vLLM leaves out compilation, CUDA graphs and tuning of kernels at its start"),
        ("sglang", "--disable-cuda-graph", "SGLang leaves out CUDA graphs at its start"),
        ("llamacpp", "", "llama.cpp has nothing to leave out at its start"),
    ],
)
def test_a_dry_run_says_what_a_fast_boot_comes_to(
    capsys: pytest.CaptureFixture[str], engine: str, flag: str, note: str
) -> None:
    up = ("up", *MODEL, "--engine", engine, "--dry-run", "--no-check", "--json")
    assert run([*up, "--fast-boot"]) == 0
    fast = json.loads(capsys.readouterr().out)["data"]
    assert run([*up]) == 0
    usual = json.loads(capsys.readouterr().out)["data"]
    assert (fast["fast_boot"], usual["fast_boot"]) == (True, False)
    assert any(note in one for one in fast["notes"])
    assert not any("fast-boot" in one for one in usual["notes"])
    assert (flag in fast["command"]) is bool(flag)
    assert fast["reasons"].get(flag, "").startswith("--fast-boot: " if flag else "")


def test_a_dry_run_for_people_puts_the_command_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["up", "--local", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith('PATH="$PATH:/app" llama-server ')
    assert shown.out.count("\n") == 1
    assert "deleted after 4h" in shown.err


def test_debug_shows_a_traceback_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--debug"]) == 12
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "dtn_planted" not in shown


def test_a_defect_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import gpuserve.serving.status as core

    def broken(*_: object) -> object:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(core, "survey", broken)
    assert run(["status", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "error"
    assert "ZeroDivisionError: oops" in error["message"]
