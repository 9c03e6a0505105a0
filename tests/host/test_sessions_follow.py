"""Following a command's log over the websocket, with the SDK's own callbacks."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from daytona import Sandbox, SessionExecuteRequest
from daytona.common.errors import DaytonaError

from gpuserve.host.daemon import HostInfo
from host.toolbox_http import Toolbox


class Reader(threading.Thread):
    """Follows one command in a thread of its own, and keeps what came and what it ended with."""

    def __init__(self, sandbox: Sandbox, command: str) -> None:
        super().__init__(daemon=True)
        self.sandbox = sandbox
        self.command = command
        self.out: list[str] = []
        self.err: list[str] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        follow = self.sandbox.process.get_session_command_logs_async
        try:
            asyncio.run(follow("s", self.command, self.out.append, self.err.append))
        except DaytonaError as error:
            self.error = error

    def done(self, seconds: float = 30) -> tuple[str, str]:
        self.join(seconds)
        assert not self.is_alive(), "the stream did not end"
        return "".join(self.out), "".join(self.err)


def start(sandbox: Sandbox, command: str) -> str:
    request = SessionExecuteRequest(command=command, run_async=True)
    return sandbox.process.execute_session_command("s", request, timeout=30).cmd_id


def until_seen(reader: Reader, text: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while text not in "".join(reader.out):
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def session(sandbox: Sandbox) -> None:
    sandbox.process.create_session("s")


def test_every_byte_once_live_and_from_the_beginning(sandbox: Sandbox) -> None:
    wait = "until [ -e {} ]; do sleep 0.02; done;"
    command = start(sandbox, f"echo one; echo bad >&2; {wait.format('a')} echo two; {wait.format('b')} printf 'ü€𝄞'")
    early = Reader(sandbox, command)
    until_seen(early, "one\n")
    assert "two" not in "".join(early.out)
    sandbox.process.exec("touch a")
    until_seen(early, "two\n")
    late = Reader(sandbox, command)
    until_seen(late, "two\n")
    sandbox.process.exec("touch b")
    for reader in (early, late):
        assert reader.done() == ("one\ntwo\nü€𝄞\n", "bad\n")
        assert reader.error is None


def test_much_output_and_long_lines(sandbox: Sandbox) -> None:
    command = start(sandbox, "seq 1 60000; head -c 700000 /dev/zero | tr '\\0' z; echo; seq 1 2000 >&2")
    out, err = Reader(sandbox, command).done(60)
    assert out == "".join(f"{n}\n" for n in range(1, 60001)) + "z" * 700_000 + "\n"
    assert err == "".join(f"{n}\n" for n in range(1, 2001))


def test_a_command_that_is_over_is_replayed_and_closed(sandbox: Sandbox) -> None:
    command = start(sandbox, "echo done; false")
    Reader(sandbox, command).done()
    reader = Reader(sandbox, command)
    assert reader.done() == ("done\n", "")
    assert reader.error is None


def test_what_a_background_process_says_just_after_the_end_still_comes(sandbox: Sandbox) -> None:
    reader = Reader(sandbox, start(sandbox, "(sleep 0.3; echo after) & echo before"))
    assert reader.done() == ("before\nafter\n", "")


def test_deleting_the_session_ends_the_stream_with_another_code(sandbox: Sandbox) -> None:
    reader = Reader(sandbox, start(sandbox, "echo up; sleep 1000"))
    until_seen(reader, "up\n")
    sandbox.process.delete_session("s")
    assert reader.done() == ("up\n", "")
    assert "1001" in str(reader.error)


def test_no_exit_code_no_end(sandbox: Sandbox) -> None:
    reader = Reader(sandbox, start(sandbox, "echo bye; exit 1"))
    until_seen(reader, "bye\n")
    reader.join(2.5)
    assert reader.is_alive()
    sandbox.process.delete_session("s")
    reader.done()


def test_without_a_websocket_the_answer_depends_on_the_client(sandbox: Sandbox, host: HostInfo) -> None:
    command = start(sandbox, "echo a; echo b >&2; printf '\\377'")
    Reader(sandbox, command).done()
    toolbox, path = Toolbox(host, sandbox), f"/process/session/s/command/{command}/logs"
    raw = b"\x01\x01\x01a\n\x02\x02\x02b\n\x01\x01\x01\xff\n"
    for version in (None, "0.166.9"):
        headers = {"X-Daytona-SDK-Version": version} if version else {}
        answer = toolbox.request("GET", path, headers=headers)
        assert answer.headers["content-type"].startswith("text/plain")
        assert sorted(answer.content.splitlines()) == sorted(raw.splitlines())
    answer = toolbox.request("GET", path, headers={"X-Daytona-SDK-Version": "0.167.0"})
    assert answer.json()["stdout"] == "a\n�\n"
    assert answer.json()["stderr"] == "b\n"
