"""A fleet as a user meets it: two real engines behind the real gateway, one address, one key, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.fleetbench import Fleet, Told, fleet_of, shares
from e2e.inside import inside
from e2e.test_ci_contract import conforms
from e2e.test_tools_engine import OPENING, TEMPLATE
from e2e.usershell import QUICK, Shell, bring_up, make_shell

#: A template that knows of tools.
FLAGS = ("--jinja", "--chat-template-file", str(TEMPLATE))
PLANTED = "hf_plantedPlantedPlantedPlanted"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A home of its own: what is meant without a name depends on all that lives."""
    made = make_shell(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("weights"))
    made.env["HF_TOKEN"] = PLANTED
    made.ok("host", "start")
    yield made
    made.end_started()
    made.ok("host", "stop")


@pytest.fixture(scope="module")
def fleet(shell: Shell) -> Iterator[Fleet]:
    with fleet_of(shell, "real", *QUICK, *(f"--engine-arg={flag}" for flag in FLAGS), "--replicas", "2") as made:
        yield made


@pytest.fixture(scope="module")
def state(fleet: Fleet) -> dict[str, Any]:
    """What ``fleet status`` says."""
    assert chat(fleet).status_code == 200
    return fleet.status()


def chat(fleet: Fleet, **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": fleet.model, "messages": messages, "max_tokens": 16, "temperature": 0, **more}
    headers = {"Authorization": f"Bearer {fleet.key}"}
    return httpx.post(f"{fleet.base}/v1/chat/completions", json=body, headers=headers, timeout=60)


def message(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]["message"]
    return found


def test_the_hand_off(fleet: Fleet) -> None:
    conforms("fleet up", fleet.asked)
    assert fleet.asked["failed"] == []
    assert len(fleet.asked["workers"]) == 2
    assert fleet.rotation() == set(fleet.asked["workers"])
    lines = fleet.shell.ok("env", "real").out.splitlines()
    assert f"export ENDPOINT={fleet.base}" in lines
    assert f"export API_KEY={fleet.key}" in lines


def test_what_clients_ask_passes_through_the_gateway(fleet: Fleet) -> None:
    whole = message(chat(fleet))["content"]
    assert whole
    events = [line.removeprefix("data: ") for line in chat(fleet, stream=True).text.splitlines() if line]
    assert events[-1] == "[DONE]"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == whole
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert set(json.loads(message(chat(fleet, response_format=asked, max_tokens=32))["content"])) == {"n"}
    nudge = {str(token): 5 for token in OPENING}  # the small model calls nothing of its own accord
    called = message(chat(fleet, tools=[TOOL], tool_choice="required", max_tokens=64, logit_bias=nudge))
    function = called["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("weather", {"city": "Rome"})


def test_commands_take_a_fleet_where_they_take_a_deployment(fleet: Fleet) -> None:
    shell = fleet.shell
    for named in (("--id", "real"), ()):  # nothing else lives: it is meant where nothing is named
        assert shell.ok("query", "hi", *named, "--max-tokens", "4").out.strip()
    assert "gpuserve env real" in shell.ok("snippet", "real", "--for", "curl").err
    script = 'curl -sf "$OPENAI_BASE_URL/models" -H "Authorization: Bearer $OPENAI_API_KEY"'
    done = shell.ok("connect", "real", "--", "sh", "-c", script)
    assert fleet.model in done.out
    logs = shell.run("logs", "real")
    assert logs.status == 4
    assert all(name in logs.err for name in fleet.asked["workers"])


def test_what_a_fleet_is_not_is_told_with_a_way_on(fleet: Fleet) -> None:
    """More of that, and what works: ``test_fleet_surfaces.py``."""
    shell, worker = inside(fleet.shell), fleet.asked["workers"][0]
    assert shell.ok("wait", "real", "--json").data["name"] == "real"
    assert shell.ok("query", "hi", "--id", f"real/{fleet.model}", "--max-tokens", "4").out.strip()
    for argv, status, hint in (
        (("query", "hi", "--id", "real/other"), 4, f"there is real/{fleet.model}"),
        (("share", "real", "--public", "on"), 2, "--gateway sandbox"),
        (("share", "real", "--rotate-key"), 2, "--yes"),
        (("fleet", "status", worker), 4, "name real instead"),
        (("fleet", "remove", "real", "none"), 4, f"it has {', '.join(sorted(fleet.asked['workers']))}"),
        (("fleet", "scale", "real", "0"), 2, "gpuserve fleet down real"),
    ):
        done = shell.run(*argv, "--json")
        assert (done.status, hint in done.error["hint"]) == (status, True), done
        assert "loads the model" not in done.error["message"]
    assert fleet.rotation() == set(fleet.asked["workers"])


def test_only_the_key_opens_the_gateway(fleet: Fleet) -> None:
    for key in ("", "wrong", fleet.record["control_key"]):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        for path in ("/v1/chat/completions", "/v1/completions"):
            answer = httpx.post(f"{fleet.base}{path}", json={"model": fleet.model, "prompt": "x"}, headers=headers)
            assert answer.status_code == 401
        assert httpx.get(f"{fleet.base}/workers", headers=headers).status_code == 401


def test_nobody_comes_around_the_gateway(fleet: Fleet) -> None:
    """Another user of this machine can open the injector's port, and read no file of ours."""
    injector = f"http://127.0.0.1:{fleet.record['injector_port']}"
    worker = fleet.asked["workers"][0]
    body = {"model": fleet.model, "messages": [{"role": "user", "content": "hi"}]}
    for key in ("", "wrong"):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert httpx.post(f"{injector}/w/{worker}/v1/chat/completions", json=body, headers=headers).status_code == 401
        for path in ("v1/models", "metrics", "slots", "props", "health/../slots", "health%2f..%2fslots"):
            assert httpx.get(f"{injector}/w/{worker}/{path}", headers=headers).status_code in (400, 401)
        assert httpx.post(f"{injector}/control/status", headers=headers).status_code == 401
    assert httpx.get(f"{injector}/w/{worker}/health").json() == {"status": "ok"}
    # The clients' key isn't the commands'.
    ours = {"Authorization": f"Bearer {fleet.key}"}
    assert httpx.post(f"{injector}/control/drain", json={"names": [worker]}, headers=ours).status_code == 401
    assert stat.S_IMODE(fleet.home.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) & 0o077 for one in fleet.home.iterdir() if "lock" not in one.name} == {0}
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    mine = [line for line in listening if any(f"pid={one.pid}," in line for one in fleet.processes().values())]
    assert len(mine) >= 3
    assert all(line.split()[3].startswith("127.0.0.1:") for line in mine), mine


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_of_this_machine_gets_no_answer(fleet: Fleet) -> None:
    """They reach the port, and nothing behind it."""

    def nobody(*argv: str) -> str:
        done = subprocess.run(("curl", "-s", *argv), user="nobody", cwd="/", capture_output=True, text=True, timeout=30)
        return done.stdout

    worker = f"http://127.0.0.1:{fleet.record['injector_port']}/w/{fleet.asked['workers'][0]}"
    assert json.loads(nobody(f"{worker}/health")) == {"status": "ok"}
    body = json.dumps({"model": fleet.model, "messages": [{"role": "user", "content": "hi"}]})
    for url in (f"{worker}/v1/chat/completions", f"{fleet.base}/v1/chat/completions"):
        assert nobody("-o", "/dev/null", "-w", "%{http_code}", "-d", body, url) == "401"


def test_no_worker_credential_is_anywhere(fleet: Fleet, state: dict[str, Any]) -> None:
    cache = json.loads((fleet.shell.home / "cache" / "gpuserve" / "deployments.json").read_text())
    tokens = [one["endpoint"]["headers"]["x-daytona-preview-token"] for one in cache["deployments"].values()]
    account = fleet.shell.ok("host", "status", "--show-key", "--json").data["api_key"]
    assert len(tokens) == 2
    ours = {"Authorization": f"Bearer {fleet.key}"}
    wrong = chat(fleet, messages="nonsense"), chat(fleet, model="no-such")
    asked = [
        chat(fleet),
        *wrong,
        *(httpx.get(f"{fleet.base}{path}", headers=ours) for path in ("/workers", "/v1/models")),
    ]
    told = [f"{one.headers}{one.text}" for one in asked]
    told += [httpx.get(f"http://127.0.0.1:{fleet.record['metrics_port']}/metrics").text, fleet.log]
    told += [json.dumps(state), (fleet.home / "workers.json").read_text()]
    processes = list(fleet.processes().values())
    assert len(processes) == 3
    kept = [f"{one.cmdline()}{one.environ()}" for one in processes]
    for secret in (*tokens, account, PLANTED):
        assert not [text for text in (*told, *kept) if secret in text]
    for secret in (fleet.key, fleet.record["control_key"]):
        assert not [text for text in (*told, *kept) if secret in text]


def test_the_state_of_a_fleet(fleet: Fleet, state: dict[str, Any]) -> None:
    conforms("fleet status", state)
    assert (state["gateway"], state["in_rotation"], state["models"]) == ("runs", 2, [fleet.model])
    assert state["served"] >= 1
    own = ("worker_state", "in_rotation", "in_flight", "served", "cache_hit_rate", "token_age_seconds")
    for row in state["workers"]:
        conforms("fleet status worker", {name: row.pop(name) for name in own})
        conforms("status", row)
    table = fleet.shell.ok("status", "real").out  # as fleet status
    assert all(name in table for name in fleet.asked["workers"])


@pytest.mark.slow
def test_batch_bench_and_extend_take_a_fleet(fleet: Fleet) -> None:
    shell = fleet.shell
    (shell.home / "rows.txt").write_text("".join(f"Count to {number}.\n" for number in range(12)))
    before = {name: one["served"] for name, one in fleet.workers().items()}
    done = shell.ok("batch", "rows.txt", "--id", "real", "--max-tokens", "4", "--json").data
    assert (done["rows"], done["answered"], done["in_sandbox"]) == (12, 12, False)
    served = {name: one["served"] - before[name] for name, one in fleet.workers().items()}
    assert sum(served.values()) == 12, served
    measured = ("--concurrency", "2", "--requests", "4", "--prompt-tokens", "32", "--output-tokens", "4", "--json")
    found = shell.ok("bench", "real", *measured).data
    assert (found["name"], len(found["points"])) == ("real", 1)
    assert shell.ok("extend", "real", "3h", "--json").data["name"] == "real"
    assert all(3600 * 2.9 < row["seconds_left"] < 3600 * 3.1 for row in shell.live())
    assert abs(fleet.record["until"] - time.time() - 3 * 3600) < 600


@pytest.mark.slow
def test_a_name_means_one_thing(fleet: Fleet) -> None:
    shell, worker = fleet.shell, fleet.asked["workers"][0]
    for argv in (("up", "--name", "real"), ("fleet", "up", "--replicas", "1", "--name", worker)):
        done = shell.run(*argv, *QUICK, "--json")
        assert (done.status, done.error["code"]) == (5, "conflict"), done
    other = shell.run("fleet", "up", *QUICK, "--replicas", "3", "--name", "real", "--served-as", "other", "--json")
    assert "serves" in other.error["message"]
    assert fleet.record["served_model"] == fleet.model
    assert set(fleet.workers()) == set(fleet.asked["workers"])
    assert not (fleet.home.parent / worker).exists()


@pytest.mark.slow
def test_real_engines_find_what_they_have_read_before(fleet: Fleet) -> None:
    """Three workers: who asks with a known beginning comes to the one that knows it, and none has more than half."""
    fleet.shell.ok("fleet", "scale", "real", "3")
    told: list[Told] = []
    found = asyncio.run(shares(fleet, groups=9, each=4, at_once=3, long=60, told=told, max_tokens=2))
    main = [counts.most_common(1)[0][1] / counts.total() for counts in found.values()]
    assert sum(main) / len(main) >= 0.9, found
    loads = [sum(counts[worker] for counts in found.values()) for worker in fleet.rotation()]
    assert len(loads) == 3
    assert max(loads) <= sum(loads) / 2, loads
    cached = [json.loads(one.text)["usage"]["prompt_tokens_details"]["cached_tokens"] for one in told]
    assert sum(tokens > 100 for tokens in cached) >= 9 * 2, cached  # the first of each group finds nothing
    print(f"\n3 real workers: main {sum(main) / len(main):.2f}, loads {loads}, cached {sorted(cached)}")  # noqa: T201  # the numbers
    fleet.shell.ok("fleet", "scale", "real", "2")


@pytest.mark.slow
def test_a_fleet_of_two_models(fleet: Fleet) -> None:
    """A deployment that serves something else joins; the gateway goes by the model that a request names."""
    other = bring_up(fleet.shell, "--name", "other", "--served-as", "another")
    fleet.shell.ok("fleet", "add", "real", "other")
    answer = chat(fleet, model="another")
    assert message(answer)["content"]
    assert answer.headers["x-smg-routed-worker-id"].endswith("/other")
    assert not chat(fleet).headers["x-smg-routed-worker-id"].endswith("/other")
    assert chat(fleet, model="a-third").status_code == 404
    assert fleet.status()["models"] == ["another", fleet.model]
    came = fleet.shell.ok("fleet", "scale", "real", "2", "--json").data
    assert (came["came"], came["went"]) == ([], [])  # who serves something else isn't counted
    removed = fleet.shell.ok("fleet", "remove", "real", "other", "--spare", "--json").data
    conforms("fleet remove", removed)
    assert other["name"] in [row["name"] for row in fleet.shell.live()]
    assert fleet.shell.ok("query", "hi", "--id", "other", "--max-tokens", "2").out
    fleet.shell.ok("down", "other")


@pytest.mark.slow
def test_one_more_and_one_less(fleet: Fleet) -> None:
    before = set(fleet.asked["workers"])
    (came,) = fleet.shell.ok("fleet", "scale", "real", "3", "--json").data["came"]
    assert fleet.rotation() == before | {came}
    data = fleet.shell.ok("fleet", "scale", "real", "2", "--json").data
    conforms("fleet scale", data)
    assert [one["name"] for one in data["went"]] == [came]  # nobody is busy: the youngest goes
    assert fleet.rotation() == before


@pytest.mark.slow
def test_a_gateway_that_was_stopped_starts_again_with_the_same_key(fleet: Fleet) -> None:
    conforms("fleet stop", fleet.shell.ok("fleet", "stop", "real", "--json").data)
    assert fleet.status()["gateway"] == "stopped"
    assert fleet.shell.run("query", "hi", "--id", "real").status == 12
    conforms("fleet start", fleet.shell.ok("fleet", "start", "real", "--json").data)
    fleet.wait_for(2)
    assert message(chat(fleet))["content"]
