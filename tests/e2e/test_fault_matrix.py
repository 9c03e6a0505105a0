"""The API, the toolbox and the proxy fail at every call that a command makes: once, for a while, for good.

A fault that passes is survived wherever repeating is safe, and doubles nothing. One that stays ends the command with
the right status and a sentence, in bounded time; the sandbox is gone, or the message names it and how to delete it.
Every call meets some faults and every fault some calls; the whole product is run with ``-m slow``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from e2e.faultbench import Bench, error_of, open_bench, within
from fakes.faultyapi import Fault
from gpuserve.sandboxes import create, manager, session
from gpuserve.serving import up
from gpuserve.serving.plan import free_port

# The SDK leaves its connections to the garbage collector, which finds those that a fault broke.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SANDBOX = "/api/sandbox/[^/]+"
SESSION = "/toolbox/[^/]+/process/session"
EXEC = f"{SESSION}/vllm/exec"
#: Every call of ``up`` that may be repeated: method, path, and how many of the same came before it.
CALLS = {
    "look for the name": ("GET", SANDBOX, 0),
    "look at the creation": ("GET", SANDBOX, 1),
    "look at it later": ("GET", SANDBOX, 3),
    "look for the session": ("GET", f"{SESSION}/vllm", 0),
    "make the session": ("POST", SESSION, 0),
    "start the engine": ("POST", EXEC, 0),
    "preview URL": ("GET", f"{SANDBOX}/ports/[0-9]+/preview-url", 0),
    "engine's life": ("GET", f"{SESSION}/vllm/command/[^/]+", 0),
    "engine's log": ("GET", f"{SESSION}/vllm/command/[^/]+/logs", 0),
    "health": ("GET", "/preview/[^/]+/health", 0),
}
#: What passes if it is asked again.
PASSING: dict[str, dict[str, Any]] = {
    "429": {"status": 429},
    "429 with Retry-After": {"status": 429, "retry_after": "1"},
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "504": {"status": 504},
    "reset": {"ending": "reset"},
    "closed": {"ending": "cut"},
    "reset after the work": {"ending": "reset-after"},
    "closed after the work": {"ending": "cut-after"},
    "silent": {"ending": "silent"},
    "silent after the work": {"ending": "silent-after"},
}
#: What stays, and the statuses that may come of it.
STAYING: dict[str, tuple[dict[str, Any], set[int]]] = {
    "401": ({"status": 401}, {3}),
    "403": ({"status": 403}, {3}),
    "429": ({"status": 429, "retry_after": "3600"}, {14}),
    "500": ({"status": 500}, {13}),
    "503 with Retry-After": ({"status": 503, "retry_after": "3600"}, {13}),
    "504": ({"status": 504}, {13}),
    "reset": ({"ending": "reset"}, {12}),
    "silent": ({"ending": "silent"}, {10, 12}),
}


def pairs(calls: Sequence[str], faults: Sequence[str], each: int) -> list[Any]:
    """Every call with every fault; all but ``each`` faults of a call, in rotation, only when the slow tests run."""
    found = []
    for row, call in enumerate(calls):
        for column, fault in enumerate(faults):
            quick = (column - row * each) % len(faults) < each
            found.append(pytest.param(call, fault, marks=[] if quick else [pytest.mark.slow]))
    return found


@pytest.fixture(scope="module")
def whole_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One host and one proxy for all tests here."""
    with open_bench(tmp_path_factory.mktemp("bench")) as made:
        yield made
    gc.collect()  # what was left to it, while the mark above still holds


@pytest.fixture
def bench(whole_bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    """The bench, empty, with short patience: what is minutes for a user is seconds here."""
    for name, value in whole_bench.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(manager, "CALL_TIMEOUT", 1)
    monkeypatch.setattr(session, "CALL_TIMEOUT", 1)
    monkeypatch.setattr(create, "CALL_TIMEOUT", 1)
    monkeypatch.setattr(create, "POLL", 0.1)
    monkeypatch.setattr(create, "LOST_ANSWER_GRACE", 1.5)
    monkeypatch.setattr(manager, "DELETE_TIMEOUT", 3.0)
    monkeypatch.setattr(manager, "PATIENCE", 3.0)
    monkeypatch.setattr(up, "PATIENCE", 10.0)  # the SDK gives a start command five seconds more than it is told
    whole_bench.capsys = capsys
    whole_bench.restart()
    yield whole_bench
    whole_bench.restart()


def assert_one_of_everything(bench: Bench, name: str) -> None:
    """One create request, one sandbox, one engine."""
    assert bench.live() == [name]
    assert bench.creates() == 1
    assert bench.api.reached("POST", EXEC) == 1
    assert bench.starts() == 1


@pytest.mark.parametrize(("call", "fault"), pairs([*CALLS], [*PASSING], 1))
def test_up_survives_what_passes(bench: Bench, call: str, fault: str) -> None:
    method, path, skip = CALLS[call]
    bench.api.add(Fault(method, path, skip=skip, times=1, **PASSING[fault]))
    with within(60):
        done = bench.up("--name", "steady")
    assert done.status == 0, done
    assert done.data["ready"] is True
    assert_one_of_everything(bench, "steady")


@pytest.mark.parametrize(("call", "fault"), pairs([*CALLS][:7], [*STAYING], 1))
def test_up_ends_in_words_at_what_stays(bench: Bench, call: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletion works only where the fault isn't in its way; else the user is told what to type."""
    monkeypatch.setattr(manager, "PATIENCE", 1.5)
    monkeypatch.setattr(up, "PATIENCE", 1.5)
    method, path, skip = CALLS[call]
    change, statuses = STAYING[fault]
    bench.api.add(Fault(method, path, skip=skip, **change))
    with within(90):
        done = bench.up("--name", "stays", "--timeout", "5s")
    if call == "look at it later" and not bench.api.struck:
        pytest.skip("up was ready before it looked again")
    status, _, message = error_of(done)
    assert status in statuses, message
    assert bench.creates() <= 1
    assert bench.api.reached("POST", EXEC) <= 1
    bench.api.clear()
    if bench.live():
        assert path == SANDBOX, "nothing was in the way of deleting it"
        assert "gpuserve down stays" in done.out
        assert bench.run("down", "stays").status == 0
    assert bench.live() == []


#: What a platform that keeps saying 404 or 409 at one call of ``up`` leads to: exit statuses.
DENIED = {
    "look for the name": (4, 5),
    "look at the creation": (4, 5),
    "look at it later": (4, 5),
    "look for the session": (0, 5),
    "make the session": (4, 4),
    "start the engine": (4, 5),
    "preview URL": (4, 5),
    "engine's life": (9, 9),
    "engine's log": (0, 0),
    "health": (10, 10),
}


@pytest.mark.parametrize(
    ("call", "column"),
    [
        pytest.param(call, column, marks=[] if (row + column) % 2 else [pytest.mark.slow])
        for row, call in enumerate(DENIED)
        for column in (0, 1)
    ],
)
def test_up_where_the_platform_denies(bench: Bench, call: str, column: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 404 or a 409 is believed, but not where it would leave a sandbox that nobody knows of."""
    monkeypatch.setattr(manager, "PATIENCE", 1.5)
    monkeypatch.setattr(up, "PATIENCE", 1.5)
    method, path, skip = CALLS[call]
    bench.api.add(Fault(method, path, skip=skip, status=(404, 409)[column]))
    done = bench.up("--name", "denied", "--timeout", "5s")
    bench.api.disarm()
    if call == "look at it later" and done.status == 0:
        pytest.skip("up was ready before it looked again")
    assert done.status == DENIED[call][column], done
    if done.status:
        error_of(done)
        assert not bench.live() or "gpuserve down denied" in done.out
    else:
        assert_one_of_everything(bench, "denied")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"status": 401}, 3),
        ({"status": 429, "retry_after": "1"}, 14),
        ({"status": 500}, 13),
        ({"status": 502}, 13),
        ({"status": 503, "retry_after": "1"}, 13),
        ({"ending": "reset"}, 12),
        ({"ending": "cut"}, 12),
    ],
)
def test_a_create_request_is_never_repeated(bench: Bench, change: dict[str, Any], status: int) -> None:
    bench.api.add(Fault("POST", "/api/sandbox", times=1, **change))
    done = bench.up("--name", "once")
    assert error_of(done)[0] == status
    assert bench.creates() == 1
    assert bench.live() == []


def test_a_create_request_that_can_not_be_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can have been made: no word of a sandbox that may still exist, and no waiting for one to turn up."""
    monkeypatch.setattr(create, "UNSENT_PATIENCE", 1.0)
    monkeypatch.setenv("DAYTONA_API_URL", f"http://127.0.0.1:{free_port()}/api")
    done = bench.up("--name", "unsent")
    status, _, message = error_of(done)
    assert (status, "Connection refused" in message, "Max retries" in message) == (12, True, False)
    assert "may still exist" not in done.out
    assert bench.live() == []


@pytest.mark.parametrize("ending", ["reset-after", "cut-after", "silent-after"])
def test_a_lost_create_answer_is_made_good(bench: Bench, ending: Any) -> None:
    bench.api.add(Fault("POST", "/api/sandbox", times=1, ending=ending))
    done = bench.up("--name", "lost")
    assert done.status == 0, done
    assert_one_of_everything(bench, "lost")


def test_a_create_request_that_never_arrives(bench: Bench) -> None:
    bench.api.add(Fault("POST", "/api/sandbox", ending="silent"))
    with within(60):
        done = bench.up("--name", "void", "--timeout", "3s")
    assert error_of(done)[0] in (6, 10, 12)
    assert bench.creates() == 1
    assert bench.live() == []


def test_the_sandbox_is_not_seen_at_first(bench: Bench) -> None:
    """A platform whose reads lag behind its writes."""
    bench.api.add(Fault("GET", f"{SANDBOX}", status=404, times=3))
    done = bench.up("--name", "laggard")
    assert done.status == 0, done
    assert_one_of_everything(bench, "laggard")


@pytest.mark.parametrize("change", [{"status": 503}, {"ending": "reset"}])
def test_the_whole_api_is_down_for_a_while(bench: Bench, change: dict[str, Any]) -> None:
    """In the middle of up's wait: five seconds without API, toolbox or proxy."""
    bench.api.add(Fault("", "/(api/sandbox|toolbox|preview).*", skip=12, seconds=5, **change))
    done = bench.up("--name", "outage", "--env", "ENGINE_BOOT=4")
    assert done.status == 0, done
    assert bench.api.struck > 3
    assert_one_of_everything(bench, "outage")


def test_the_whole_api_is_down_for_good(bench: Bench) -> None:
    bench.api.add(Fault("", "/(api/sandbox|toolbox|preview).*", skip=12, ending="reset"))
    with within(60):
        done = bench.up("--name", "abyss", "--env", "ENGINE_BOOT=600", "--timeout", "6s")
    assert error_of(done)[0] in (10, 12)
    assert "gpuserve down abyss" in done.out
    bench.api.disarm()
    assert bench.run("down", "abyss").status == 0
    assert bench.live() == []


def test_only_the_deletion_fails(bench: Bench) -> None:
    bench.api.add(Fault("DELETE", SANDBOX, status=500))
    done = bench.up("--name", "stuck", "--env", "ENGINE_DIES=1")
    assert error_of(done)[0] == 9
    assert "gpuserve down stuck" in done.out
    down = bench.run("down", "stuck", "--json")
    assert error_of(down)[0] == 13
    assert down.error["hint"]
    bench.api.disarm()
    assert bench.run("down", "stuck").status == 0
    assert bench.live() == []


#: The calls of the other commands, on a deployment that is ready.
OTHERS = {
    "status": (("status", "--json"), "GET", "/api/sandbox"),
    "status of one": (("status", "old", "--json"), "GET", SANDBOX),
    "logs, the sandbox": (("logs", "old", "--json"), "GET", SANDBOX),
    "logs, the session": (("logs", "old", "--json"), "GET", f"{SESSION}/vllm"),
    "logs, the log": (("logs", "old", "--json"), "GET", f"{SESSION}/vllm/command/[^/]+/logs"),
    "share": (("share", "old", "--json"), "GET", f"{SANDBOX}/ports/[0-9]+/signed-preview-url"),
    "share, the sandbox": (("share", "old", "--json"), "GET", SANDBOX),
    "down, the sandbox": (("down", "old", "--json"), "GET", SANDBOX),
    "down, the deletion": (("down", "old", "--json"), "DELETE", SANDBOX),
}


#: Those for which there is no other way: a deployment that can't be looked up may still be in the list.
WITHOUT_WAY_ROUND = [call for call in OTHERS if call != "status of one"]


@pytest.mark.parametrize(("call", "fault"), pairs([*OTHERS], [*PASSING], 1))
def test_other_commands_survive_what_passes(bench: Bench, call: str, fault: str) -> None:
    assert bench.up("--name", "old", "--no-wait").status == 0
    argv, method, path = OTHERS[call]
    bench.api.add(Fault(method, path, times=1, **PASSING[fault]))
    with within(60):
        done = bench.run(*argv)
    assert bench.api.struck == 1
    assert done.status == 0, done
    assert bench.live() == ([] if argv[0] == "down" else ["old"])


@pytest.mark.parametrize(("call", "fault"), pairs(WITHOUT_WAY_ROUND, [*STAYING], 1))
def test_other_commands_end_in_words_at_what_stays(
    bench: Bench, call: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "PATIENCE", 1.0)
    assert bench.up("--name", "old", "--no-wait").status == 0
    argv, method, path = OTHERS[call]
    change, statuses = STAYING[fault]
    bench.api.add(Fault(method, path, **change))
    with within(60):
        done = bench.run(*argv)
    status, _, message = error_of(done)
    assert status in statuses, message
    assert bench.live() == ["old"]


@pytest.mark.parametrize(
    ("call", "denial", "expected"),
    [
        pytest.param(call, denial, expected, marks=[] if (row + denial) % 2 else [pytest.mark.slow])
        for row, call in enumerate(OTHERS)
        for denial, expected in ((404, 4), (409, 5))
    ],
)
def test_other_commands_where_the_platform_denies(bench: Bench, call: str, denial: int, expected: int) -> None:
    """What the platform still lists is not said to be gone."""
    assert bench.up("--name", "old", "--no-wait").status == 0
    argv, method, path = OTHERS[call]
    bench.api.add(Fault(method, path, status=denial))
    done = bench.run(*argv)
    bench.api.disarm()
    assert bench.live() == ["old"]
    if call == "status of one":
        assert (done.status, done.data["name"]) == (0, "old")
    elif (argv[0], denial) == ("down", 404):
        assert error_of(done)[0] == 13
        assert "there is none" in done.err
    else:
        assert error_of(done)[0] == expected


@pytest.mark.parametrize("fault", ["429 with Retry-After", "reset after the work", "silent"])
def test_a_url_is_revoked_all_the_same(bench: Bench, fault: str) -> None:
    assert bench.up("--name", "old", "--no-wait").status == 0
    assert bench.run("share", "old").status == 0
    bench.api.add(Fault("POST", f"{SANDBOX}/ports/[0-9]+/signed-preview-url/[^/]+/expire", times=1, **PASSING[fault]))
    done = bench.run("share", "old", "--revoke", "--json")
    assert bench.api.struck == 1
    assert done.status == 0, done
    assert done.data["revoked"] == 1
