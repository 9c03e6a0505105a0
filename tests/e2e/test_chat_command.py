"""``chat``: through a pipe, and on a real terminal with a person who types and presses Ctrl-C."""

from __future__ import annotations

import json
import threading
from contextlib import suppress

from e2e.scriptedmodel import piece, says, scripted
from e2e.usershell import PROGRAM, Shell
from fakes.scripted import Reply, Seen, sse
from fakes.terminal import Terminal

CHAT = ("chat", "scripted")
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b5m\u202eevil\r\x00 \ud83d <b>kept</b> " + "y" * 3000


def said(seen: Seen) -> list[tuple[str, str]]:
    messages = seen.json()["messages"]
    assert isinstance(messages, list)
    return [(one["role"], one["content"]) for one in messages]


def terminal(shell: Shell, *argv: str) -> Terminal:
    return Terminal([PROGRAM, *argv], env=shell.env, cwd=shell.home)


def test_every_line_of_a_pipe_is_a_message(shell: Shell) -> None:
    typed = 'Hi.\nTwo \\\nlines.\n"""\nA\n\nblock\n"""\n/system Be brief.\n//etc?\n/clear\n/save talk.json\nLast'
    with scripted(shell, *(says(f"answer {at}") for at in range(5))) as server:
        done = shell.ok(*CHAT, stdin=typed)
    assert done.out == "".join(f"answer {at}\n" for at in range(5))
    assert said(server.requests[1]) == [("user", "Hi."), ("assistant", "answer 0"), ("user", "Two \nlines.")]
    assert said(server.requests[2])[-1] == ("user", "A\n\nblock")
    assert said(server.requests[3])[0] == ("system", "Be brief.")
    assert said(server.requests[3])[-1] == ("user", "/etc?")
    assert said(server.requests[4]) == [("system", "Be brief."), ("user", "Last")]
    assert json.loads((shell.home / "talk.json").read_text()) == {
        "messages": [{"role": "system", "content": "Be brief."}]
    }


def test_json_is_exact_and_a_failure_ends_a_pipe(shell: Shell) -> None:
    broken = Reply(status=500, body=b"broken")
    with scripted(shell, says(HOSTILE), broken):
        done = shell.run(*CHAT, "--json", stdin="a\nb\nc\n")
    first, last = map(json.loads, done.out.splitlines())
    assert ascii(first["reply"]["content"]) == ascii(HOSTILE)
    assert (done.status, last["error"]["code"]) == (11, "engine_error")
    assert not set(done.out) & set("\x1b\x9b\u202e\x07\x00")


def stopped(screen: Terminal, at: int) -> int:
    """Ctrl-C until the prompt is back. Python hears of a signal that comes just before it goes to sleep in a read only
    at that read's end: then a person, too, types it once more."""
    for _ in range(5):
        screen.type("\x03")
        with suppress(AssertionError):
            return screen.until(">>> ", after=at, within=5)
    return screen.until(">>> ", after=at)


def test_a_person_stops_an_answer_and_leaves(shell: Shell) -> None:
    gate = threading.Event()
    head = {"Content-Type": "text/event-stream"}
    cut = Reply(headers=head, chunks=[sse(piece(content="An endless answer")), gate])
    with scripted(shell, cut, says("# Title\n\nSecond **answer**.")) as server:
        with terminal(shell, *CHAT) as screen:
            at = screen.until(">>> ")
            screen.type("first\n")
            at = screen.until("An endless answer", after=at)
            at = stopped(screen, at)
            gate.set()
            screen.type("/nonsense\nsecond\n")
            at = screen.until("answer", after=screen.until("Second", after=at))
            screen.until(">>> ", after=at)
            screen.type("\x04")
            assert screen.end() == 0
        assert said(server.requests[1]) == [("user", "first"), ("assistant", "An endless answer"), ("user", "second")]
    shown = screen.screen()
    assert "no command /nonsense" in shown
    assert shown.count("Second answer.") == 1
    assert "stopped" in shown


def test_a_hostile_answer_on_a_terminal(shell: Shell) -> None:
    for argv in (CHAT, (*CHAT, "--plain"), ("query", "x", "--id", "scripted")):
        parts = [HOSTILE[at : at + 11] for at in range(0, len(HOSTILE), 11)]
        with scripted(shell, says(*parts)), terminal(shell, *argv) as screen:
            if argv[0] == "chat":
                screen.until(">>> ")
                screen.type("go\n")
                screen.until(">>> ", after=screen.until("yyy\r\n", after=0))
                screen.type("\x04")
            assert screen.end() == 0
        assert screen.foreign() == [], argv
        assert b"\x1b[2J" not in screen.raw
        shown = screen.screen()
        assert "<b>kept</b>" in shown
        assert shown.count("y") >= 3000


def test_off_a_terminal_an_answer_is_the_models_own_bytes(shell: Shell) -> None:
    with scripted(shell, says("\x1b[1mbold\x1b[0m\r\n")):
        assert "\x1b[1mbold\x1b[0m" in shell.ok("query", "x", "--id", "scripted").out
