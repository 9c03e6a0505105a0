"""Deadline, idle limit, price, `wait` and `reap`, by the installed command on the real embedded engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from e2e.inside import inside
from e2e.usershell import QUICK, Shell, bring_up, eventually, make_shell, names

if TYPE_CHECKING:
    from daytona import Daytona

PRICES = {"GPUSERVE_PRICES": "H100=36000"}  # ten for a second, so that a short life costs something
LOCAL = ("--local", "--json")


@pytest.fixture(scope="module", name="shell")
def within(shell: Shell) -> Shell:
    """The same shell, its commands run here."""
    return inside(shell)


@pytest.fixture(autouse=True)
def _nothing_is_left(shell: Shell) -> Iterator[None]:
    yield
    shell.run("down", "--all", "--yes")


def sdk(shell: Shell) -> Daytona:
    """The real SDK on the shell's host: somebody else with the same key."""
    from daytona import Daytona, DaytonaConfig

    info = json.loads((shell.home / "state" / "gpuserve" / "host" / "host.json").read_text())
    return Daytona(DaytonaConfig(api_key=info["key"], api_url=info["url"], target="us-east-1"))


# -- the deadline ------------------------------------------------------------------------------------------------------


def test_extend_moves_the_deadline_both_ways(shell: Shell) -> None:
    bring_up(shell, "--name", "longer", "--ttl", "10m", "--no-wait")
    later = shell.ok("extend", "longer", "2h", *LOCAL).data
    assert later["name"] == "longer"
    assert 7100 < later["seconds_left"] <= 7200
    row = shell.ok("status", "longer", *LOCAL).data
    assert row["expires_at"] == later["expires_at"]
    assert row["warning"] is None
    sooner = shell.ok("extend", "longer", "90s", *LOCAL).data
    assert 60 < sooner["seconds_left"] <= 120  # the platform counts in minutes
    plain = shell.ok("extend", "longer", "1h", "--local")
    assert plain.out.startswith("20")
    assert "is deleted in" in plain.err


def test_no_deadline_must_be_said_out_loud(shell: Shell) -> None:
    bring_up(shell, "--name", "always", "--no-wait")
    for word in ("0", "0s", "30s"):
        assert shell.run("extend", "always", word, *LOCAL).error["code"] == "usage"
    done = shell.ok("extend", "always", "none", "--local")
    assert "nothing deletes always now" in done.err
    row = shell.ok("status", "always", *LOCAL).data
    assert (row["expires_at"], row["seconds_left"], row["warning"]) == (None, None, None)
    assert shell.run("extend", "no-such", "1h", *LOCAL).status == 4


def test_a_deadline_that_the_platform_does_not_hold_is_told(shell: Shell) -> None:
    """As if the platform had left it out: somebody with the same key took it away."""
    data = bring_up(shell, "--name", "drift", "--ttl", "1h")
    sdk(shell).get(data["id"]).set_ttl(0)
    told = shell.ok("status", "drift", "--local")
    assert "the platform did not take the time to live" in told.err
    assert "drift" in shell.live()[0]["warning"]
    again = shell.ok("up", *QUICK, "--name", "drift")
    assert "the platform did not take the time to live" in again.err
    sdk(shell).get(data["id"]).set_ttl(600)
    assert "deleted 9h" in shell.ok("status", "drift", *LOCAL).data["warning"]
    shell.ok("extend", "drift", "1h", "--local")
    assert shell.ok("status", "drift", *LOCAL).data["warning"] is None


# -- the price ---------------------------------------------------------------------------------------------------------


def test_the_cost_is_shown_where_there_is_a_price(shell: Shell) -> None:
    bring_up(shell, "--name", "priced", "--gpu", "H100", "--no-check", "--no-wait")
    bare = shell.ok("status", "priced", *LOCAL).data
    assert (bare["cost_per_hour"], bare["cost"]) == (None, None)
    row = shell.ok("status", "priced", *LOCAL, env=PRICES).data
    assert row["cost_per_hour"] == 36000
    assert row["cost"] == pytest.approx(row["age_seconds"] * 10, abs=10)
    assert "Per hour    36000.00" in shell.ok("status", "priced", "--local", env=PRICES).out
    bad = shell.run("status", *LOCAL, env={"GPUSERVE_PRICES": "H100"})
    assert (bad.status, bad.error["code"]) == (2, "config")
    told = shell.ok("down", "priced", "--local", env=PRICES)
    assert "priced deleted, it is gone; it cost " in told.err


def test_what_has_no_gpu_has_no_price_and_a_bad_price_stops_no_deletion(shell: Shell) -> None:
    bring_up(shell, "--name", "free", "--no-wait")
    assert shell.ok("status", "free", *LOCAL, env=PRICES).data["cost"] is None
    gone = shell.ok("down", "free", *LOCAL, env={"GPUSERVE_PRICES": "H100=much"}).data
    assert gone[0]["deleted"] is True
    assert (gone[0]["cost_per_hour"], gone[0]["cost"]) == (None, None)
    assert shell.live() == []


# -- idle --------------------------------------------------------------------------------------------------------------


def test_idle_is_told_by_the_engines_own_counters(shell: Shell) -> None:
    bring_up(shell, "--name", "counted")

    def status() -> dict[str, Any]:
        found: dict[str, Any] = shell.ok("status", "counted", *LOCAL).data
        return found

    unused = status()
    assert unused["idle_since"] == unused["created_at"]  # neither readiness nor looks count as use
    shell.ok("query", "hello", "--id", "counted", "--max-tokens", "2", "--local")
    used = status()
    assert used["idle_since"] > unused["idle_since"]
    assert status()["idle_since"] == used["idle_since"]
    assert used["idle_limit_seconds"] is None


@pytest.fixture(scope="module")
def hasty(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell whose host takes six seconds for a minute."""
    made = inside(make_shell(tmp_path_factory.mktemp("hasty"), Path(shell.env["LLAMA_CACHE"])))
    made.env["GPUSERVE_HOST_MINUTE"] = "6"
    made.ok("host", "start")
    yield made
    made.ok("host", "stop")
    assert made.processes() == []


@contextmanager
def polling(url: str, headers: dict[str, str]) -> Iterator[None]:
    """Somebody who asks for the model's health all the time."""
    stop = threading.Event()

    def poll() -> None:
        with httpx.Client(headers=headers) as client:
            while not stop.wait(0.5):
                client.get(f"{url}/health")

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_what_nobody_uses_is_deleted_however_often_status_looks(hasty: Shell) -> None:
    data = bring_up(hasty, "--name", "unused", "--idle", "1m")
    assert hasty.live()[0]["idle_limit_seconds"] == 60
    headers = {"x-daytona-preview-token": data["token"], "X-Daytona-Skip-Last-Activity-Update": "true"}
    with polling(data["endpoint"], headers):
        eventually(lambda: hasty.live() == [], within=60)
    assert hasty.run("wait", "unused", *LOCAL).status == 4


def test_what_is_asked_by_others_stays(hasty: Shell) -> None:
    """A poller that doesn't ask to be left out counts as use: the platform can't tell it from a user."""
    data = bring_up(hasty, "--name", "polled", "--idle", "1m")
    with polling(data["endpoint"], {"x-daytona-preview-token": data["token"]}):
        until = time.monotonic() + 15  # more than two of its host's minutes
        while time.monotonic() < until:
            assert names(hasty.live()) == ["polled"]
    eventually(lambda: hasty.live() == [], within=60)


def test_a_time_to_live_ends_what_is_used(hasty: Shell) -> None:
    data = bring_up(hasty, "--name", "brief", "--ttl", "2m")
    with polling(data["endpoint"], {"x-daytona-preview-token": data["token"]}):
        eventually(lambda: hasty.live() == [], within=60)
    assert hasty.processes(data["id"]) == []


# -- wait --------------------------------------------------------------------------------------------------------------


def test_wait_returns_when_the_model_answers(shell: Shell) -> None:
    data = bring_up(shell, "--name", "soon", "--no-wait")
    done = shell.ok("wait", "soon", "--timeout", "2m", *LOCAL).data
    assert (done["name"], done["sandbox_id"], done["ready"]) == ("soon", data["id"], True)
    assert done["endpoint"] == data["endpoint"]
    assert shell.ok("status", "soon", *LOCAL).data["health"] == "ready"
    assert "soon answers" in shell.ok("wait", "--local").err  # at once, and the only one needs no name


def test_wait_notices_a_dead_engine_and_changes_nothing(shell: Shell) -> None:
    shell.ok("up", *QUICK, "--name", "doomed", "--no-wait", "--", "--no-such-flag")
    done = shell.run("wait", "doomed", "--timeout", "1m", *LOCAL)
    assert (done.status, done.error["code"]) == (9, "boot_failed")
    assert "--no-such-flag" in done.error["message"]
    assert "--no-such-flag" in Path(done.error["log_file"]).read_text()
    assert names(shell.live()) == ["doomed"]


def test_wait_gives_up_in_time(shell: Shell) -> None:
    bring_up(shell, "--name", "mute", "--no-wait", "--label", "host/fault=dead-proxy")
    done = shell.run("wait", "mute", "--timeout", "3s", *LOCAL)
    assert (done.status, done.error["code"]) == (10, "timed_out")
    assert names(shell.live()) == ["mute"]


def test_wait_for_what_is_gone(shell: Shell) -> None:
    assert shell.run("wait", "no-such", *LOCAL).status == 4
    bring_up(shell, "--name", "leaving", "--no-wait", "--label", "host/fault=dead-proxy")
    process = shell.start("wait", "leaving", "--timeout", "1m", *LOCAL)
    assert process.stdout is not None
    process.stdout.readline()  # it follows the log
    shell.ok("down", "leaving")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 4, out
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "not_found"


# -- reap --------------------------------------------------------------------------------------------------------------


def test_reap_lists_and_then_deletes_what_failed_and_nothing_else(shell: Shell) -> None:
    from daytona import CreateSandboxFromSnapshotParams

    foreign = sdk(shell).create(CreateSandboxFromSnapshotParams(name="not-ours", ephemeral=True), timeout=30)
    bring_up(shell, "--name", "good", "--no-wait")
    failed = shell.run("up", *QUICK, "--name", "broken", "--on-failure", "keep", "--label", "host/fault=error")
    assert failed.status == 9
    listed = shell.ok("reap", *LOCAL).data
    assert [(row["name"], row["state"], row["deleted"]) for row in listed] == [("broken", "error", False)]
    assert names(shell.live()) == ["broken", "good"]
    table = shell.ok("reap", "--dry-run", "--local")
    assert table.out.splitlines()[0] == "NAME\tSTATE\tAGE\tREASON"
    assert "nothing was deleted" in table.err
    assert [row["deleted"] for row in shell.ok("reap", "--yes", *LOCAL).data] == [True]
    assert names(shell.live()) == ["good"]
    assert shell.run("reap", "--yes", "--dry-run", *LOCAL).status == 2
    everything = shell.ok("reap", "--older-than", "0s", "--yes", *LOCAL).data
    assert [row["name"] for row in everything] == ["good"]
    assert sdk(shell).get("not-ours").id == foreign.id
    foreign.delete()


def test_reap_knows_a_sandbox_whose_engine_was_never_started(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who made it died between the create request and the launch, more than the grace ago."""
    from gpuserve.serving import reap
    from gpuserve.serving.context import Context
    from gpuserve.settings import load
    from gpuserve.state import Cache

    bring_up(shell, "--name", "engine", "--no-wait")
    process = shell.start("up", *QUICK, "--name", "empty", "--label", "host/fault=slow-boot=4")
    eventually(lambda: "empty" in names(shell.live()))
    process.kill()
    process.communicate()
    eventually(lambda: {row["name"]: row["state"] for row in shell.live()}["empty"] == "started")
    for name, value in shell.env.items():
        if name.startswith("XDG_"):
            monkeypatch.setenv(name, value)
    context = Context(load(), Cache(), local=True)
    assert reap.orphans(context, None) == ([], [])  # both are young
    monkeypatch.setattr(reap, "LAUNCH_GRACE", 0)
    found, errors = reap.orphans(context, None)
    assert errors == []
    assert [one.deployment.name for one in found] == ["empty"]
    assert "never started" in found[0].reason


def test_reap_takes_what_nobody_used_by_its_engines_own_counters(shell: Shell) -> None:
    """What this machine saw last is set back by an hour: as if the last look had been so long ago."""
    bring_up(shell, "--name", "dusty", "--idle", "10m")
    bring_up(shell, "--name", "without-limit")
    shell.ok("query", "hi", "--id", "dusty", "--max-tokens", "4", "--local")
    assert shell.ok("reap", *LOCAL).data == []
    seen = shell.home / "state" / "gpuserve" / "uses.json"
    seen = seen if seen.exists() else next(shell.home.rglob("uses.json"))
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    seen.write_text(json.dumps({key: [tokens, hour_ago] for key, (tokens, _) in json.loads(seen.read_text()).items()}))
    found = shell.ok("reap", *LOCAL).data
    assert [row["name"] for row in found] == ["dusty"]
    assert "nobody used it for" in found[0]["reason"]
    shell.ok("query", "hi", "--id", "dusty", "--max-tokens", "4", "--local")
    assert shell.ok("reap", *LOCAL).data == []
