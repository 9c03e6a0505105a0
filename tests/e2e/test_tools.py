"""``query`` with tools: a scripted model over a real socket, the installed command, real sandboxes of a real host."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from e2e.scriptedmodel import calls, client, piece, rooms, says, scripted
from e2e.usershell import Shell, eventually
from fakes.scripted import Reply, Scripted, Seen, sse, stream

if TYPE_CHECKING:
    from daytona import Daytona

ASK = ("query", "Go.", "--id", "scripted", "--tools", "sandbox", "--yes")


@pytest.fixture(scope="module")
def daytona(shell: Shell) -> Daytona:
    return client(shell)


@pytest.fixture(autouse=True)
def no_room_is_left(daytona: Daytona) -> Iterator[None]:
    """Whatever happens to a conversation, its sandbox is gone when the command has ended."""
    yield
    assert rooms(daytona) == []


def told(seen: Seen) -> list[str]:
    messages = seen.json()["messages"]
    assert isinstance(messages, list)
    return [one["content"] for one in messages if one["role"] == "tool"]


def held(reply: Reply) -> tuple[Reply, threading.Event]:
    """The same reply, which comes only once the event is set."""
    gate = threading.Event()
    assert reply.chunks is not None
    return Reply(headers=reply.headers, chunks=[gate, *reply.chunks]), gate


def asking(shell: Shell, *more: str) -> subprocess.Popen[str]:
    return shell.start(*ASK, *more)


def requests(server: Scripted, count: int) -> None:
    eventually(lambda: len(server.requests) >= count)


def test_code_and_commands_run_in_one_sandbox_of_this_conversation(shell: Shell, daytona: Daytona) -> None:
    write = calls(("run_python", json.dumps({"code": "open('n', 'w').write('7'); print(6 * 7)"})))
    read, gate = held(calls(("run_shell", json.dumps({"command": "cat n; exit 3"})), ("run_shell", "{"), ("ls", "{}")))
    with scripted(shell, write, read, says("It is ", "42.")) as server:
        process = asking(shell, "--json", "--tool-network", "pypi.org,10.0.0.0/8", "--tool-ttl", "10m")
        requests(server, 2)
        [room] = rooms(daytona)
        gate.set()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    data = json.loads(out)["data"]
    assert (data["content"], data["rounds"], data["capped"]) == ("It is 42.", 2, False)
    answers = told(server.requests[2])
    assert answers[:2] == ["42", "7\n[exit code 3]"]
    assert "no valid JSON" in answers[2]
    assert "there is no tool 'ls'; there is run_python, run_shell" in answers[3]
    assert [one["error"] for one in data["tool_results"]] == [False, False, True, True]
    roles = [one["role"] for one in data["transcript"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "tool", "tool", "assistant"]
    limits = (room.gpu, room.domain_allow_list, room.network_allow_list, room.auto_stop_interval)
    assert limits == (0, "pypi.org", "10.0.0.0/8", 15)
    assert room.labels["gpuserve/for"] == "scripted"
    assert room.auto_delete_interval == 0
    assert room.auto_destroy_at is not None


def test_a_sandbox_on_this_machine_must_be_wanted(shell: Shell) -> None:
    with scripted(shell) as server:
        done = shell.run(*ASK[:-1], "--json")
    assert (done.status, done.error["code"]) == (2, "usage")
    assert "no security boundary" in done.error["message"]
    assert "--yes" in done.error["hint"]
    assert server.requests == []


def test_without_a_call_there_is_no_sandbox_and_none_is_a_deployment(shell: Shell, daytona: Daytona) -> None:
    with scripted(shell, says("Hello.")):
        done = shell.ok(*ASK)
    assert done.out == "Hello.\n"
    assert "sandbox" not in done.err
    sleeping = calls(("run_shell", json.dumps({"command": "true"})))
    rest, gate = held(says("done"))
    with scripted(shell, sleeping, rest) as server:
        process = asking(shell)
        requests(server, 2)
        [room] = rooms(daytona)
        assert room.network_block_all is True
        assert [row["name"] for row in shell.live()] == []
        assert shell.ok("down", "--all", "--yes", "--json").data == []
        gate.set()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n"), err
    assert re.search(rf"^tools +sandbox {room.id} created, no network$", err, re.MULTILINE)
    assert re.search(rf"^tools +sandbox {room.id} deleted$", err, re.MULTILINE)


def test_a_command_that_takes_too_long_is_ended_and_told(shell: Shell) -> None:
    slow = calls(("run_shell", json.dumps({"command": "echo begun; sleep 97"})), ("run_python", '{"code": "print(1)"}'))
    with scripted(shell, slow, says("ok")) as server:
        shell.ok(*ASK, "--tool-timeout", "1")
    assert told(server.requests[1]) == ["error: the command was not done after 1 s, and was ended", "1"]
    assert not [one for one in shell.processes() if "sleep 97" in one]


def test_a_sandbox_that_is_lost_is_replaced_once(shell: Shell, daytona: Daytona) -> None:
    look = calls(("run_shell", json.dumps({"command": "ls; echo here > kept"})))
    second, first_gate = held(look)
    fourth, second_gate = held(look)
    with scripted(shell, look, second, look, fourth, look, says("ok")) as server:
        process = asking(shell)
        for count, gate in ((2, first_gate), (4, second_gate)):
            requests(server, count)
            [room] = rooms(daytona)
            room.delete(timeout=30, wait=True)
            gate.set()
        _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert told(server.requests[5]) == [
        "(no output)",
        "error: the sandbox was lost, with all its files; the next call runs in a new, empty one",
        "(no output)",
        "error: the sandbox was lost again, with all its files; there won't be another: answer without it",
        "error: the sandbox was lost and can't be replaced again; answer without it",
    ]


def test_a_sandbox_lost_under_a_running_call(shell: Shell, daytona: Daytona) -> None:
    with scripted(shell, calls(("run_shell", json.dumps({"command": "sleep 93"}))), says("ok")) as server:
        process = asking(shell)
        eventually(lambda: [one for one in shell.processes() if "sleep 93" in one])
        [room] = rooms(daytona)
        room.delete(timeout=30, wait=True)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ok\n"), err
    assert len(told(server.requests[1])) == 1


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_deletes_the_sandbox(shell: Shell, daytona: Daytona, signal_: signal.Signals) -> None:
    with scripted(shell, calls(("run_shell", json.dumps({"command": "sleep 95"})))):
        process = asking(shell, "--json")
        eventually(lambda: [one for one in shell.processes() if "sleep 95" in one])
        process.send_signal(signal_)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, json.loads(out)["error"]["code"]) == (130, "interrupted"), err
        assert rooms(daytona) == []
    assert not [one for one in shell.processes() if "sleep 95" in one]


def test_an_answer_that_breaks_off_deletes_the_sandbox(shell: Shell) -> None:
    cut = Reply(headers={"Content-Type": "text/event-stream"}, chunks=[sse(piece(content="It"))])
    with scripted(shell, calls(("run_shell", '{"command": "true"}')), cut):
        done = shell.run(*ASK, "--json")
    assert (done.status, done.error["code"]) == (11, "engine_error")


def test_an_endless_loop_is_capped_with_a_warning(shell: Shell) -> None:
    look = calls(("run_shell", '{"command": "true"}'))
    with scripted(shell, look, look, says("Enough.")) as server:
        done = shell.ok(*ASK, "--max-rounds", "2")
    assert done.out == "Enough.\n"
    assert "used up its 2 rounds" in done.err
    assert server.requests[2].json()["tool_choice"] == "none"


MODULE = '''
import asyncio
print("noise of the module")

def get_weather(city: str) -> str:
    """The weather of a city."""
    print("noise of the tool")
    return f"sunny in {city}"

async def later(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"
'''


def test_functions_of_the_current_directory(shell: Shell) -> None:
    (shell.home / "mytools.py").write_text(MODULE)
    asked = calls(
        ("later", '{"seconds": 0.1}'), ("get_weather", '{"city": "Oslo"}'), ("run_shell", '{"command": "echo hi"}')
    )
    with scripted(shell, asked, says("Sun.")) as server:
        done = shell.ok(*ASK, "--tool", "mytools:get_weather", "--tool", "mytools:later", "--json")
    assert len(done.out.splitlines()) == 1  # noise goes to stderr
    assert "noise of the tool" in done.err
    assert told(server.requests[1]) == ["rested", "sunny in Oslo", "hi"]
    tools: Any = server.requests[0].json()["tools"]
    assert [one["function"]["name"] for one in tools] == ["get_weather", "later", "run_python", "run_shell"]


def test_a_call_that_would_drive_the_terminal_is_shown_harmlessly(shell: Shell) -> None:
    with scripted(shell, calls(("run_shell", json.dumps({"command": "printf '\x1b]0;owned\x07'"}))), says("ok")):
        done = shell.ok(*ASK)
    assert "\x1b" not in done.err
    assert "\x07" not in done.err


def test_a_stream_of_calls_in_pieces(shell: Shell) -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "run_python", "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": part}} for part in ('{"code": ', '"print(', '5)"}')]
    reply = stream(piece(tool_calls=[first]), *(piece(tool_calls=[one]) for one in rest), piece("tool_calls"))
    with scripted(shell, reply, says("5")) as server:
        shell.ok(*ASK)
    assert told(server.requests[1]) == ["5"]
