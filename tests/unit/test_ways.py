"""The ways in, before anything exists: what was asked for, what older options meant, how the key reaches the engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gpuserve.errors import UsageError
from gpuserve.records import ACCESS_MODES, Deployment, KeyPass, LaunchPlan, ServeRequest
from gpuserve.redaction import Redactor
from gpuserve.sandboxes import labels
from gpuserve.serving.plan import as_found, command_line, make_plan
from gpuserve.serving.ways import Way, chosen, key_words, new_key
from gpuserve.settings import load

ENGINES = ("vllm", "sglang", "llamacpp")
KEY = "my-own-key-1"


def way(access: str = "", *, engine: str = "vllm", public: bool = False, **more: object) -> Way:
    fields: dict[str, object] = {"env": {}, "engine_args": (), **more}
    return chosen(engine, access, public=public, settings=load(), **fields)  # type: ignore[arg-type]


def request(access: str = "", *, engine: str = "vllm", **more: object) -> ServeRequest:
    found = way(access, engine=engine, **more)  # type: ignore[arg-type]
    model = "org/model-GGUF" if engine == "llamacpp" else "org/model"
    return ServeRequest(
        model=model, engine=engine, access=found.access, public=found.public, api_key=found.api_key,
        env=found.env, engine_args=found.engine_args,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "public", "access", "is_public", "keyed"),
    [
        ("", False, "token", False, False),
        ("", True, "open", True, False),
        ("token", False, "token", False, False),
        ("signed", False, "signed", False, False),
        ("key", False, "key", True, True),
        ("key", True, "key", True, True),
        ("open", False, "open", True, False),
        ("open", True, "open", True, False),
    ],
)
def test_what_was_asked_for(asked: str, public: bool, access: str, is_public: bool, keyed: bool) -> None:
    found = way(asked, public=public)
    assert (found.access, found.public, bool(found.api_key)) == (access, is_public, keyed)


@pytest.mark.parametrize(
    ("asked", "public", "env", "says"),
    [
        ("token", True, {}, "don't go together"),
        ("signed", True, {}, "don't go together"),
        ("open", False, {"VLLM_API_KEY": KEY}, "one without a key"),
        ("everybody", False, {}, "unknown access"),
    ],
)
def test_contradictions(asked: str, public: bool, env: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        way(asked, public=public, env=env)


def test_a_key_given_as_the_engines_take_it_is_lifted_out() -> None:
    for more in (
        {"env": {"VLLM_API_KEY": KEY, "OTHER": "x"}},
        {"env": {"OTHER": "x"}, "engine_args": ("--api-key", KEY)},
        {"env": {"OTHER": "x"}, "engine_args": (f"--api-key={KEY}",)},
    ):
        found = way(**more)
        assert (found.api_key, dict(found.env), found.engine_args) == (KEY, {"OTHER": "x"}, ())
        assert found.access == "token"
        assert way(public=True, **more).access == "key"
        assert KEY not in repr(found)


def test_the_setting_names_the_key_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSERVE_API_KEY", "sk-of-the-setting")
    assert way("key").api_key == "sk-of-the-setting"
    assert way(public=True).access == "key"
    assert (way("token").api_key, way().api_key) == ("", "")
    assert "sk-of-the-setting" in load().secrets


def test_generated_keys_are_long_and_fit_everywhere() -> None:
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    for key in keys:
        assert len(key) >= 3 + 43  # 32 bytes in base 64
        assert ServeRequest(model="a/b", engine="vllm", api_key=key).api_key == key


@pytest.mark.parametrize(
    "key", ["short", "-begins-with-a-hyphen", "white space", 'quo"te-in-it', "line\nbreak-1", "k" * 300]
)
def test_keys_that_no_engine_could_take(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServeRequest(model="a/b", engine="vllm", api_key=key)
    assert key not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("engine", ENGINES)
def test_the_key_is_in_the_file_only(engine: str) -> None:
    plan = make_plan(request("key", engine=engine, env={}), place="daytona")
    key = plan.request.api_key
    shown = json.dumps(plan.as_dict()) + plan.command + repr(plan) + json.dumps(dict(plan.launch.env))
    encoded = labels.encode(plan.launch, plan.run_id, {})
    assert key not in shown + json.dumps(encoded)
    assert encoded[labels.KEY] == "yes"
    assert key in plan.secrets
    assert Redactor(plan.secrets)(f"x {key} y") == "x *** y"
    assert ".gpuserve-key" in plan.command
    assert key_words(engine)
    assert plan.who[-1] == key_words(engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_key_nothing_is_read(engine: str) -> None:
    plan = make_plan(request(engine=engine), place="daytona")
    assert "gpuserve-key" not in plan.command
    assert labels.encode(plan.launch, "r", {})[labels.KEY] == "no"


def launched(tmp_path: Path, engine: str) -> str:
    """What the engine would see, started by a real shell: its arguments, its variables, its configuration file."""
    real = make_plan(request("key", engine=engine), place="daytona").launch
    assert real.key is not None
    script = 'printf "%s\\n" "$@"; env | grep API_KEY; for last; do :; done; [ -f "$last" ] && cat "$last"; true'
    launch = LaunchPlan(
        engine=engine, model="m", served_model="s", image="i", argv=("sh", "-c", script, "-"), port=1, session="s",
        health_path="/", key=real.key,
    )  # fmt: skip
    (tmp_path / ".gpuserve-key").write_text(KEY)
    done = subprocess.run(
        ["/bin/sh", "-c", command_line(launch)],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_vllm_and_llamacpp_get_it_by_a_variable(tmp_path: Path) -> None:
    assert launched(tmp_path, "vllm").splitlines()[-1] == f"VLLM_API_KEY={KEY}"
    assert launched(tmp_path, "llamacpp").splitlines()[-1] == f"LLAMA_API_KEY={KEY}"


def test_sglang_gets_it_by_a_private_file(tmp_path: Path) -> None:
    seen = launched(tmp_path, "sglang").splitlines()
    assert seen == ["--config", str(tmp_path / ".gpuserve-sglang.yaml"), f'api-key: "{KEY}"']
    assert (tmp_path / ".gpuserve-sglang.yaml").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="--config"):
        make_plan(request("key", engine="sglang", engine_args=("--config", "mine.yaml")), place="daytona")


def test_vllms_key_is_called_what_it_is() -> None:
    assert "/invocations answers chat requests without it" in key_words("vllm")
    assert key_words("no-such-engine") == ""


def found(**more: object) -> Deployment:
    fields: dict[str, object] = {
        "name": "n", "sandbox_id": "i", "place": "daytona", "state": "started", "engine": "vllm", "model": "org/model",
        "served_model": "model", "port": 8123, "session": "vllm", "run_id": "r",
    }  # fmt: skip
    return Deployment(**(fields | more))  # type: ignore[arg-type]


def test_what_exists_decides_who_may_come_in() -> None:
    plan = make_plan(request("open"), place="daytona")
    taken = as_found(plan, found(access="key", keyed=True, public=True))
    assert (taken.launch.port, taken.request.access, bool(taken.request.api_key)) == (8123, "key", True)
    assert taken.launch.key == KeyPass("VLLM_API_KEY")
    bare = as_found(make_plan(request("key"), place="daytona"), found())
    assert (bare.request.access, bare.request.api_key, bare.launch.key) == ("token", "", None)


def test_labels_and_the_platforms_word_make_the_mode() -> None:
    read = {
        (asked, key, public): labels.access({labels.ACCESS: asked, labels.KEY: key}, public=public)
        for asked in (*ACCESS_MODES, "broken")
        for key in ("yes", "no")
        for public in (True, False)
    }
    assert {mode for (_, key, public), mode in read.items() if public and key == "yes"} == {"key"}
    assert {mode for (_, key, public), mode in read.items() if public and key == "no"} == {"open"}
    assert {asked for (asked, _, public), mode in read.items() if not public and mode == "signed"} == {"signed"}
    assert labels.access({}, public=False) == "token"
