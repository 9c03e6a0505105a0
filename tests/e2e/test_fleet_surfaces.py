"""Every command that takes a deployment, given a fleet by somebody who has read ``--help``: it works, or says what to
do instead, and what it says holds no credential.

One fleet has its gateway on this machine, the other in a sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from e2e.fleetbench import SCRIPTED, Fleet, fleet_of, kill, scripted_shell
from e2e.inside import Inside
from e2e.test_ci_contract import conforms
from e2e.usershell import Done, eventually, names

pytestmark = pytest.mark.slow
PLANTED = "hf_plantedPlantedPlantedPlanted"
PRICE = 3.5
TOOLS = 'def weather(city: str) -> str:\n    """The weather."""\n    return city\n'


@dataclass
class Heard(Inside):
    """A shell that remembers all that was ever printed in it."""

    said: list[str] = field(default_factory=list, repr=False)

    def run(self, *argv: str, **more: Any) -> Done:
        done = super().run(*argv, **more)
        self.said.append(f"{argv} {done.out} {done.err}")
        return done

    def refused(self, *argv: str) -> tuple[int, str, str]:
        """How a command that must fail ended: its status, what was wrong and what to do next."""
        done = self.run(*argv, "--json")
        assert done.status != 0, done
        assert done.error["hint"], done
        return done.status, done.error["message"], done.error["hint"]

    def tokens(self) -> list[str]:
        """The credentials of the sandboxes that this user's machine remembers."""
        cache = json.loads((self.home / "cache" / "gpuserve" / "deployments.json").read_text())
        known = [one["endpoint"] for one in cache["deployments"].values() if one.get("endpoint")]
        return [one["headers"]["x-daytona-preview-token"] for one in known]

    def other(self) -> str:
        """A deployment of another model; its sandbox."""
        self.ok("up", *SCRIPTED, "--name", "other", "--served-as", "another")
        return next(str(row["sandbox_id"]) for row in self.live() if row["name"] == "other")

    def answer(self, which: str) -> str:
        """What the deployment answers; a scripted engine answers with its sandbox's ID."""
        return self.ok("query", "hi", "--no-stream", "--id", which).out.strip()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    with scripted_shell(tmp_path_factory.mktemp("surfaces")) as made:
        made.env |= {"HF_TOKEN": PLANTED, "GPUSERVE_PRICES": f"H100={PRICE}"}
        heard = Heard(made.home, made.env, made.started)
        (heard.home / "rows.txt").write_text("one\ntwo\nthree\n")
        (heard.home / "helpers.py").write_text(TOOLS)
        yield heard


@pytest.fixture(scope="module")
def fleet(shell: Heard) -> Iterator[Fleet]:
    with fleet_of(shell, "f", *SCRIPTED, "--replicas", "2", "--no-wait") as made:
        waited = shell.ok("wait", "f", "--json").data
        assert (waited["name"], waited["ready"], waited["endpoint"]) == ("f", True, made.base)
        assert made.rotation() == set(made.asked["workers"])
        yield made


def ask(base: str, key: str, headers: dict[str, str], model: str = "qwen3-8b") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    credentials = {**headers, "Authorization": f"Bearer {key}"}
    return httpx.post(f"{base}/v1/chat/completions", json=body, headers=credentials, timeout=30)


def use(shell: Heard, name: str, workers: int) -> None:
    """All that is done with a deployment, done with the fleet."""
    assert shell.ok("query", "hi", "--id", name).out.split() == ["0", "1", "2"]
    assert shell.ok("query", "hi", "--id", name, "--tool", "helpers:weather").out
    assert "tools sandbox" not in shell.ok("query", "hi", "--id", name, "--tools", "sandbox", "--yes").err
    assert shell.ok("chat", name, stdin="hello\n").out.split() == ["0", "1", "2"]
    assert shell.ok("cache-check", name, "--pairs", "1", "--json").data["name"] == name
    assert f"gpuserve env {name}" in shell.ok("snippet", name, "--for", "curl").err
    assert "ENDPOINT" in shell.ok("env", name).out
    done = shell.ok("batch", "rows.txt", "--id", name, "-o", f"{name}.jsonl", "--json").data
    assert (done["answered"], done["failed"]) == (3, 0)
    measured = ("--concurrency", "2", "--requests", "4", "--prompt-tokens", "32", "--output-tokens", "3", "--json")
    found = shell.ok("bench", name, *measured).data
    assert (found["name"], found["gpu"], found["cost_per_hour"]) == (name, f"{workers} x H100", workers * PRICE)
    conforms("wait", shell.ok("wait", name, "--json").data)
    conforms("fleet status", shell.ok("status", name, "--json").data)
    assert f"fleets    {name}," in shell.ok("status").err
    conforms("extend", shell.ok("extend", name, "9h", "--json").data)
    assert all(8.9 * 3600 < row["seconds_left"] < 9.1 * 3600 for row in shell.live() if row["fleet"] == name)


def test_what_takes_a_deployment_takes_a_fleet(shell: Heard, fleet: Fleet) -> None:
    use(shell, "f", workers=2)
    script = 'curl -sf "$OPENAI_BASE_URL/models" -H "Authorization: Bearer $OPENAI_API_KEY"'
    assert shell.start("connect", "f", "--", "sh", "-c", script).wait(60) == 0
    assert shell.ok("reap", "--json").data == []


@pytest.mark.parametrize(
    "argv", [("logs", "f"), ("exec", "f", "--", "ls"), ("cp", "f:x", "y"), ("cp", "rows.txt", "f:y")]
)
def test_what_takes_one_sandbox_names_the_workers(shell: Heard, fleet: Fleet, argv: tuple[str, ...]) -> None:
    done = shell.run(*argv)
    assert done.status == 4
    assert all(name in done.err for name in fleet.asked["workers"]), done.err


def test_a_gateway_on_this_machine_is_not_shared_with_others(shell: Heard, fleet: Fleet) -> None:
    for more in ((), ("--expires", "5m"), ("--revoke",), ("--public", "on"), ("--public", "off")):
        status, message, hint = shell.refused("share", "f", *more)
        assert (status, "this machine only" in message, "--gateway sandbox" in hint) == (2, True, True)
    status, message, hint = shell.refused("batch", "rows.txt", "--id", "f", "--in-sandbox", "-o", "never.jsonl")
    assert (status, "--in-sandbox" in hint) == (2, True)
    assert not (shell.home / "never.jsonl").exists()
    signed = shell.run("connect", "f", "--via", "signed", "--", "true")
    assert (signed.status, "--gateway sandbox" in signed.err) == (2, True)


def test_another_key_for_the_gateway_loads_no_model_anew(shell: Heard, fleet: Fleet) -> None:
    status, message, hint = shell.refused("share", "f", "--rotate-key")
    assert (status, "--yes" in hint) == (2, True)
    assert "the gateway" in message
    assert "loads the model" not in message
    old = shell.ok("env", "f", "--format", "json").out
    engines = {one.pid for name in fleet.asked["workers"] for one in fleet.engine(name)}
    done = shell.ok("share", "f", "--rotate-key", "--yes", "--json").data
    conforms("share --rotate-key", done)
    was = json.loads(old)["api_key"]
    assert done["api_key"] not in ("", was)
    assert ask(fleet.base, done["api_key"], {}).status_code == 200
    assert ask(fleet.base, was, {}).status_code == 401
    assert {one.pid for name in fleet.asked["workers"] for one in fleet.engine(name)} == engines
    fleet.asked["api_key"] = done["api_key"]


def several_models(shell: Heard, name: str, fresh: dict[str, Any]) -> None:
    """Another model joins, is asked for by its name, and leaves; ``fresh`` is how the fleet was handed off."""
    sandbox = shell.other()
    assert shell.refused("fleet", "status", "other")[1] == "other is a deployment, and no fleet"
    assert shell.refused("query", "hi")[1] == f"several deployments are live: {', '.join(sorted((name, 'other')))}"
    assert shell.refused("fleet", "up", *SCRIPTED, "--name", "other", "--replicas", "1")[0] == 5
    for _ in range(2):  # who is in it already joins again: nothing changes
        conforms("fleet add", shell.ok("fleet", "add", name, "other", "--json").data)
    assert shell.refused("fleet", "down", "other")[1] == f"other is a worker of {name}, and no fleet"
    assert shell.answer(f"{name}/another") == sandbox
    assert shell.answer(name) != sandbox
    assert (
        shell.ok("batch", "rows.txt", "--id", f"{name}/another", "-o", f"{name}2.jsonl", "--json").data["answered"] == 3
    )
    assert (shell.home / f"{name}2.jsonl").read_text().count(sandbox) == 3
    assert '"another"' in shell.ok("snippet", f"{name}/another", "--for", "openai").out
    status, message, hint = shell.refused("query", "hi", "--id", f"{name}/third")
    assert (status, "'third'" in message) == (4, True)
    assert hint == f"there is {name}/another, {name}/qwen3-8b"
    told = ask(fresh["endpoint"], fresh["api_key"], fresh["headers"], model="third")
    assert (told.status_code, "third" in told.json()["error"]["message"]) == (404, True)
    assert shell.refused("query", "hi", "--id", "other/third")[0] == 2
    data = shell.ok("fleet", "scale", name, "2", "--json").data
    assert (data["came"], data["went"]) == ([], [])  # who serves something else isn't counted
    assert "lives on" in shell.ok("fleet", "remove", name, "other", "--spare").err
    assert shell.answer("other") == sandbox
    assert shell.refused("fleet", "remove", name, "other")[1] == f"{name} has no worker 'other'"
    shell.ok("down", "other")


def test_a_fleet_of_two_models_is_asked_for_either(shell: Heard, fleet: Fleet) -> None:
    several_models(shell, "f", fleet.asked)


def test_to_wait_for_a_worker_that_has_ended_says_so(shell: Heard, fleet: Fleet) -> None:
    (lost,) = shell.ok("fleet", "scale", "f", "3", "--json").data["came"]
    kill(fleet.engine(lost))
    eventually(lambda: not fleet.workers()[lost]["in_rotation"])
    status, message, hint = shell.refused("wait", "f")
    assert (status, lost in message, f"fleet remove f {lost}" in hint) == (9, True, True)
    shell.ok("fleet", "remove", "f", lost)
    assert shell.ok("wait", "f", "--json").data["ready"]


LONG = "a" * 59
REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("fleet", "scale", "f", "0"), 2, "fleet down f"),
    (("fleet", "scale", "f", "-1"), 2, "fleet scale"),
    (("fleet", "scale", "f", "many"), 2, "fleet scale"),
    (("fleet", "scale", "none", "2"), 4, "fleet status"),
    (("fleet", "status", "none"), 4, "fleet status"),
    (("fleet", "add", "f", "none"), 4, "gpuserve status"),
    (("fleet", "add", "none", "f"), 4, "fleet status"),
    (("fleet", "remove", "f", "none"), 4, "it has f-"),
    (("fleet", "roll", "none"), 4, "fleet status"),
    (("fleet", "start", "none"), 4, "fleet status"),
    (("fleet", "stop", "none"), 4, "fleet status"),
    (("fleet", "down", "none"), 4, "fleet status"),
    (("fleet", "up", *SCRIPTED, "--name", "n", "--replicas", "0"), 2, "fleet up"),
    (("fleet", "up", *SCRIPTED, "--name", "n", "--replicas", "2", "--min-ready", "3"), 2, "--min-ready"),
    (("fleet", "up", *SCRIPTED, "--name", LONG, "--replicas", "1"), 2, "58"),
    (("fleet", "up", *SCRIPTED, "--name", LONG, "--replicas", "1", "--gateway", "sandbox"), 2, "58"),
    (("fleet", "up", *SCRIPTED, "--name", "n", "--replicas", "1", "--access", "key"), 2, "--gateway sandbox"),
    (("fleet", "up", *SCRIPTED, "--name", "n", "--replicas", "1", "--gateway", "moon"), 2, "sandbox"),
    (("fleet", "up", *SCRIPTED, "--name", "n", "--replicas", "1", "--lost-after", "soon"), 2, "30s"),
    (("fleet", "up", *SCRIPTED, "--name", "f", "--replicas", "2", "--served-as", "third"), 5, "fleet add"),
    (("fleet", "up", *SCRIPTED, "--name", "f", "--replicas", "2", "--gateway", "sandbox"), 5, "fleet down f"),
    (("up", *SCRIPTED, "--name", "f"), 5, "--name"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "status", "next_step"), REFUSED, ids=[" ".join(one[0][:4]) for one in REFUSED])
def test_what_cannot_be_done_is_refused_with_a_way_on(
    shell: Heard, fleet: Fleet, argv: tuple[str, ...], status: int, next_step: str
) -> None:
    before = fleet.record
    told = shell.refused(*argv)
    assert told[0] == status, told
    assert next_step in told[2], told
    assert names(shell.live()) == sorted(fleet.asked["workers"])
    assert fleet.record == before
    assert [one.name for one in fleet.home.parent.iterdir()] == ["f"]


def test_the_same_fleet_asked_for_again_is_handed_off_again(shell: Heard, fleet: Fleet) -> None:
    again = shell.ok("fleet", "up", *SCRIPTED, "--name", "f", "--replicas", "2", "--json").data
    assert (again["endpoint"], again["api_key"]) == (fleet.base, fleet.key)
    assert sorted(again["workers"]) == sorted(fleet.asked["workers"])
    worker = fleet.asked["workers"][0]
    assert shell.refused("fleet", "status", worker)[2] == "name f instead"
    assert "there was no fleet none" in shell.ok("fleet", "down", "none", "--ignore-not-found").err


def test_nothing_that_was_said_holds_a_credential(shell: Heard, fleet: Fleet) -> None:
    account = json.loads(Inside.run(shell, "host", "status", "--show-key", "--json").out)["data"]["api_key"]
    hidden = [PLANTED, account, fleet.record["control_key"], *shell.tokens()]
    assert len(hidden) >= 5
    assert len(shell.said) > 40
    assert not [text for text in shell.said for one in hidden if one in text]


# -- the gateway in a sandbox ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Heard, dict[str, Any]]]:
    with scripted_shell(tmp_path_factory.mktemp("away")) as made:
        made.env |= {"HF_TOKEN": PLANTED, "GPUSERVE_PRICES": f"H100={PRICE}"}
        heard = Heard(made.home, made.env, made.started)
        (heard.home / "rows.txt").write_text("one\ntwo\nthree\n")
        (heard.home / "helpers.py").write_text(TOOLS)
        up = ("fleet", "up", *SCRIPTED, "--name", "g", "--replicas", "2", "--gateway", "sandbox", "--json")
        yield heard, heard.ok(*up).data
        conforms("down", (went := heard.ok("down", "g", "--json").data)[0])
        assert [one["name"] for one in went][-1] == "g"  # its gateway last
        assert heard.live() == []
        assert heard.processes() == []


def test_a_fleet_with_its_gateway_in_a_sandbox_is_used_as_any(away: tuple[Heard, dict[str, Any]]) -> None:
    shell, _ = away
    use(shell, "g", workers=2)
    assert {row["name"] for row in shell.live() if row["seconds_left"] > 8.9 * 3600} == set(names(shell.live()))
    done = shell.ok("batch", "rows.txt", "--id", "g", "--in-sandbox", "-o", "there.jsonl", "--json").data
    assert (done["answered"], done["in_sandbox"]) == (3, True)
    assert "mode  IGW" in shell.ok("logs", "g").out  # the gateway's own
    script = 'curl -sf "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $(cat ~/.gpuserve-key)" '
    asked = json.dumps({"model": "qwen3-8b", "messages": [{"role": "user", "content": "hi"}]})
    script += f"-H 'content-type: application/json' -d '{asked}'"
    assert "chat.completion" in shell.start("exec", "g", "--", "sh", "-c", script).communicate(timeout=60)[0]
    assert shell.ok("reap", "--json").data == []


def test_its_gateway_ends_no_sooner_than_its_workers(away: tuple[Heard, dict[str, Any]]) -> None:
    shell, _ = away
    shell.ok("extend", "g", "9h")
    shell.ok("fleet", "scale", "g", "3")  # the new one ends after four hours
    left = {row["name"]: row["seconds_left"] for row in shell.live()}
    assert left["g"] > 8.9 * 3600
    assert min(left.values()) < 4.1 * 3600
    shell.ok("fleet", "scale", "g", "2")


def test_two_models_behind_a_gateway_in_a_sandbox(away: tuple[Heard, dict[str, Any]]) -> None:
    shell, asked = away
    several_models(shell, "g", asked)


def test_its_name_means_nothing_else(away: tuple[Heard, dict[str, Any]]) -> None:
    shell, _ = away
    before = shell.ok("fleet", "status", "g", "--json").data
    up = ("fleet", "up", *SCRIPTED, "--name", "g", "--replicas", "2")
    assert shell.refused(*up)[2] == "add --gateway sandbox"
    status, message, _ = shell.refused(*up, "--gateway", "sandbox", "--served-as", "third")
    assert (status, message) == (5, "g serves qwen3-8b")
    assert shell.refused("up", *SCRIPTED, "--name", "g")[1] == "g is a fleet"
    assert shell.refused("fleet", "stop", "g")[0] == 5
    assert shell.refused("fleet", "add", "g", "g")[0] == 5
    again = shell.ok(*up, "--gateway", "sandbox", "--access", "key")
    assert "is there with access 'token'" in again.err
    after = shell.ok("fleet", "status", "g", "--json").data
    assert names(after["workers"]) == names(before["workers"])
    assert {row["model"] for row in after["workers"]} == {"Qwen/Qwen3-8B"}
    assert shell.ok("fleet", "scale", "g", "2", "--json").data["came"] == []


def test_it_is_shared_closed_and_given_another_key(away: tuple[Heard, dict[str, Any]]) -> None:
    shell, asked = away
    shared = shell.ok("share", "g", "--expires", "5m")
    assert "the gateway's key as api_key" in shared.err
    url, key = shared.out.strip(), asked["api_key"]
    assert [ask(url, one, {}).status_code for one in (key, "wrong")] == [200, 401]
    assert len(shell.ok("share", "list", "g", "--json").data) == 1
    status, message, _ = shell.refused("share", "g", "--rotate-key")
    assert (status, "the gateway" in message, "loads the model" in message) == (2, True, False)
    fresh = shell.ok("share", "g", "--rotate-key", "--yes", "--json").data
    assert [ask(url, one, {}).status_code for one in (fresh["api_key"], key)] == [200, 401]
    opened = shell.ok("share", "g", "--public", "on", "--json").data
    assert ask(opened["url"], fresh["api_key"], {}).status_code == 200
    shell.ok("share", "g", "--public", "off")
    assert ask(opened["url"], fresh["api_key"], {}).status_code in (307, 401)
    assert shell.ok("share", "g", "--revoke", "--json").data["revoked"] == 1
    assert ask(url, fresh["api_key"], {}).status_code == 401
    asked["api_key"] = fresh["api_key"]


@pytest.mark.parametrize("access", ["key", "signed"])
def test_it_is_handed_out_by_the_way_that_was_asked_for(away: tuple[Heard, dict[str, Any]], access: str) -> None:
    shell, _ = away
    up = ("fleet", "up", *SCRIPTED, "--name", access, "--replicas", "1", "--gateway", "sandbox", "--access", access)
    asked = shell.ok(*up, "--json").data
    conforms("fleet up", asked)
    assert (asked["access"], asked["token"], asked["headers"]) == (access, "", {})
    assert [ask(asked["endpoint"], one, {}).status_code for one in (asked["api_key"], "wrong")] == [200, 401]
    started = shell.ok("fleet", "start", access, "--json").data
    base = started["base_url"].removesuffix("/v1")
    assert ask(base, started["api_key"], {}).status_code == 200
    went = shell.ok("fleet", "down", access, "--json").data["went"]
    assert [one["name"] for one in went][-1] == access


def test_nothing_that_was_said_of_it_holds_a_workers_credential(away: tuple[Heard, dict[str, Any]]) -> None:
    shell, asked = away
    account = json.loads(Inside.run(shell, "host", "status", "--show-key", "--json").out)["data"]["api_key"]
    hidden = [PLANTED, account, *(one for one in shell.tokens() if one != asked["token"])]
    assert len(hidden) >= 4
    assert not [text for text in shell.said for one in hidden if one in text]
