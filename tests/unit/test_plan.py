"""The guides' launches, as gpuserve plans them, and what a plan may not show."""

import json
import shlex
import subprocess

import pytest

from gpuserve.errors import UsageError
from gpuserve.records import LaunchPlan, ServeRequest
from gpuserve.serving import defaults
from gpuserve.serving.plan import at_port, command_line, make_plan
from gpuserve.settings import load


def request(**changes: object) -> ServeRequest:
    given: dict[str, object] = {"model": "openai/gpt-oss-20b", "engine": "sglang", "gpus": defaults.GPUS, **changes}
    return ServeRequest(**given)  # type: ignore[arg-type]  # keyword by keyword, checked by the record itself


def test_the_sglang_guide() -> None:
    plan = make_plan(request(), place="daytona").as_dict()
    guide = shlex.split(
        "python3 -m sglang.launch_server --model-path openai/gpt-oss-20b --served-model-name gpt-oss-20b --port 8000 "
        "--tool-call-parser gpt-oss --reasoning-parser gpt-oss --enable-cache-report"
    )
    command = plan["command"]
    assert isinstance(command, list)
    assert command[:3] == guide[:3]
    assert not set(guide) - set(command)
    assert plan["image"] == "lmsysorg/sglang:v0.5.12.post1-cu130"
    assert plan["health_path"] == "/health_generate"
    assert plan["gpus"] == ["H100", "RTX-PRO-6000"]
    assert (plan["session"], plan["port"], plan["target"], plan["env"]) == ("sglang", 8000, "us-east-1", {})
    assert (plan["ephemeral"], plan["auto_stop_minutes"], plan["timeout_seconds"]) == (True, 0, 900)


def test_the_vllm_guide() -> None:
    asked = request(model="google/gemma-4-26B-A4B-it", engine="vllm", served_as="gemma-4-moe", env={"HF_TOKEN": "hf_x"})
    plan = make_plan(asked, place="daytona").as_dict()
    guide = shlex.split(
        "vllm serve google/gemma-4-26B-A4B-it --port 8000 --served-model-name gemma-4-moe --enable-auto-tool-choice "
        "--tool-call-parser gemma4 --reasoning-parser gemma4 --enable-prefix-caching"
    )
    command = plan["command"]
    assert isinstance(command, list)
    assert command[:3] == guide[:3]
    assert not set(guide) - set(command)
    assert "--enable-prompt-tokens-details" in command  # without it the guide's cache measurement shows nothing
    assert plan["image"] == "vllm/vllm-openai:v0.22.1"
    assert (plan["health_path"], plan["session"]) == ("/health", "vllm")
    assert plan["env"] == {"HF_TOKEN": "***"}


def test_no_secret_of_the_environment_shows() -> None:
    secrets = {
        "HF_TOKEN": "hf_planted",
        "VLLM_API_KEY": "planted-key",
        "DB_PASSWORD": "planted-word",
        "A_SECRET": "planted-pw",
    }
    plan = make_plan(request(env={**secrets, "LOG_LEVEL": "debug"}), place="daytona")
    shown = json.dumps(plan.as_dict()) + repr(plan)
    assert not [value for value in secrets.values() if value in shown]
    assert plan.as_dict()["env"] == {**dict.fromkeys(secrets, "***"), "LOG_LEVEL": "debug"}
    assert set(plan.secrets) == set(secrets.values())


def test_names_are_unique_and_fit_for_the_platform() -> None:
    names = {make_plan(request(), place="daytona").name for _ in range(20)}
    assert len(names) > 15
    assert all(name.startswith("gpt-oss-20b-") for name in names)
    odd = make_plan(request(served_as="Org/Some_Model:Q4@x"), place="daytona").name
    assert odd.startswith("org-some-model-q4-x-")


def test_a_free_port_is_taken_on_this_machine_only_if_none_was_asked_for() -> None:
    free = make_plan(request(), place="local", any_port=True)
    assert free.launch.port not in (0, 8000)
    assert str(free.launch.port) in free.launch.argv
    assert make_plan(request(port=8123), place="local").launch.port == 8123
    assert make_plan(request(), place="daytona", any_port=True).launch.port == 8000


def test_a_plan_moves_to_another_port_and_stays_itself() -> None:
    plan = make_plan(request(), place="local", any_port=True)
    moved = at_port(plan, 8123)
    assert "8123" in moved.launch.argv
    assert str(plan.launch.port) not in moved.launch.argv
    assert (moved.name, moved.run_id, moved.launch.port) == (plan.name, plan.run_id, 8123)


def test_the_command_line_reaches_the_program_word_for_word(tmp_path: object) -> None:
    words = ("printf", "%s\\n", "a b", "$HOME", "'", '"', "ünï", "*", ";rm", "--x={'a': 1}", "")
    launch = LaunchPlan(
        engine="e", model="m", served_model="s", image="i", argv=words, port=1, session="s", health_path="/"
    )
    done = subprocess.run(["/bin/sh", "-c", command_line(launch)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(words[2:])
    assert shlex.split(command_line(launch)) == list(words)


def test_extra_directories_come_last_on_the_path() -> None:
    launch = LaunchPlan(
        engine="e",
        model="m",
        served_model="s",
        image="i",
        argv=("sh", "-c", 'echo "$PATH"'),
        port=1,
        session="s",
        health_path="/",
        path=("/app",),
    )
    done = subprocess.run(
        ["/bin/sh", "-c", command_line(launch)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/bin:/usr/bin"},
    )
    assert done.stdout == "/bin:/usr/bin:/app\n"


@pytest.mark.parametrize(
    ("asked", "local", "expected"),
    [
        (("", ""), True, ("llamacpp", defaults.LOCAL_MODEL)),
        (("", "a/b"), False, ("vllm", "a/b")),
        (("sglang", "a/b"), True, ("sglang", "a/b")),
    ],
)
def test_what_is_served_when_little_is_said(
    asked: tuple[str, str], local: bool, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("GPUSERVE_ENGINE", raising=False)
    monkeypatch.delenv("GPUSERVE_MODEL", raising=False)
    assert defaults.engine_and_model(*asked, load(), local=local) == expected


def test_no_model_is_an_error_where_nothing_is_embedded() -> None:
    for engine, local in (("", False), ("vllm", True)):
        with pytest.raises(UsageError, match="no model"):
            defaults.engine_and_model(engine, "", load(), local=local)


def test_gpus_and_ttl_as_people_write_them() -> None:
    settings = load()
    assert defaults.gpus("h100, rtx_pro_6000", settings, local=False) == ("H100", "RTX-PRO-6000")
    assert defaults.gpus("none", settings, local=False) == ()
    assert defaults.gpus("", settings, local=True) == ()
    assert defaults.ttl("none", settings) is None
    assert defaults.ttl("90m", settings) == 5400
    assert defaults.ttl("", settings) == 4 * 3600
