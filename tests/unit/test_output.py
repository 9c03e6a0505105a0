"""The one place that prints: what goes where, in every mode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.deployments import DEPLOYMENT
from gpuserve.cli.output import Output, plain, report_error, shown_path
from gpuserve.cli.progress import Progress
from gpuserve.records import BootFact, ServeRequest
from gpuserve.serving.events import (
    Boot,
    BuildLog,
    EngineLog,
    Event,
    Launched,
    PickedUp,
    Planned,
    Removed,
    SandboxState,
    Warned,
)
from gpuserve.serving.plan import make_plan

PLAN = make_plan(
    ServeRequest(model="a/b", engine="vllm", gpus=("H100",), env={"HF_TOKEN": "hf_planted"}), place="daytona"
)
EVENTS: list[Event] = [
    Planned(PLAN),
    PickedUp(DEPLOYMENT),
    SandboxState("n-1", "pending_build", 0.4),
    BuildLog("step 1"),
    SandboxState("n-1", "started", 41),
    Launched(DEPLOYMENT, "/logs/n-1.log", 42),
    EngineLog("line one\nline two\n"),
    Boot(BootFact("loading", "12.8 GiB", {"weights_gib": 12.8}), 60),
    Boot(BootFact("loading", "again", {}), 61),
    Boot(BootFact("kv_cache", "", {"kv_cache_tokens": 1_234_567, "max_context": 131_072}), 70),
    Warned("mind the gap"),
    Removed("n-1"),
]


@pytest.mark.parametrize(
    ("mode", "result", "remark", "warning"),
    [({}, True, True, True), ({"quiet": True}, True, False, True), ({"as_json": True}, False, True, True)],
)
def test_modes(
    mode: dict[str, bool], result: bool, remark: bool, warning: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(**mode)
    output.result("the result")
    output.say("say", "a remark")
    output.detail("say", "a detail")
    output.warn("a warning")
    output.data({"key": "välue"})
    shown = capsys.readouterr()
    assert ("the result\n" in shown.out) is result
    assert ("say       a remark\n" in shown.err) is remark
    assert ("warning   a warning\n" in shown.err) is warning
    assert "a detail" not in shown.err
    assert shown.out == ("the result\n" if result else '{"data": {"key": "välue"}}\n')


def test_progress_off_a_terminal_is_one_plain_line_a_change(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(Output()) as progress:
        for event in EVENTS:
            progress.draw(event)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "\x1b" not in shown.err
    lines = shown.err.splitlines()
    assert lines[0].startswith("plan      a/b on vllm (vllm/vllm-openai:v0.22.1), 1x H100, us-east-1")
    assert [line.split()[-1] for line in lines if "waiting for capacity" in line] == ["0:00"]
    assert len([line for line in lines if line.startswith("engine    loading weights")]) == 1
    assert "line one" not in shown.err
    assert lines[-1] == "sandbox   n-1 deleted, it is gone"
    assert "hf_planted" not in shown.err


def test_progress_shows_the_log_when_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(Output(verbose=True), log_on_terminal=True) as progress:
        for event in EVENTS:
            progress.draw(event)
    assert "line one\nline two\n" in capsys.readouterr().err


def test_progress_in_json_is_one_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(Output(as_json=True)) as progress:
        for event in EVENTS:
            progress.draw(event)
    documents = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert [one["kind"] for one in documents] == [type(event).__name__.lower() for event in EVENTS]
    assert documents[7] == {
        "kind": "boot",
        "phase": "loading",
        "detail": "12.8 GiB",
        "figures": {"weights_gib": 12.8},
        "at": 60,
    }
    assert "hf_planted" not in str(documents)


def test_what_comes_from_elsewhere_cannot_drive_the_terminal() -> None:
    assert plain("a\x1b[2Jb\rc\x07\u202e\nd\te") == "a�[2Jb�c��\nd\te"


def test_a_table_off_a_terminal_is_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("A", "B"), [("1", "x\x1by")])
    assert capsys.readouterr().out == "A\tB\n1\tx�y\n"


def test_an_error_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"code": "usage", "message": "no\x1b key hf_0123456789abcdefgh", "hint": "do that", "log_file": "/l"}
    report_error(error, as_json=False)
    shown = capsys.readouterr()
    assert shown.err == "error     no� key ***\ntry       do that\nlog       /l\n"
    report_error(error, as_json=True)
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "no\x1b key ***"


def test_paths_are_shown_from_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert shown_path("/home/me/a/b") == "~/a/b"
    assert shown_path("/home/meadow/b") == "/home/meadow/b"
