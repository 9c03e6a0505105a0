"""``gpuserve query`` against servers that speak as vLLM 0.22.1, SGLang 0.5.12.post1 and llama.cpp do.

The deployment is one that the cache remembers, so no platform is asked; the server is scripted, the rest is real.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.scripted import Reply, Scripted, as_json, stream
from gpuserve.cli.main import run
from gpuserve.records import Deployment, Endpoint
from gpuserve.state import Cache, Remembered

FIELD = {"vllm": "reasoning", "sglang": "reasoning_content", "llamacpp": "reasoning_content"}
ENGINES = tuple(FIELD)
GEMMA, OSS = "google/gemma-4-26B-A4B-it", "openai/gpt-oss-20b"
USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
Asked = Callable[..., tuple[int, str, str, dict[str, Any]]]


def delta(finish: str | None = None, /, **piece: object) -> dict[str, object]:
    return {"id": "c", "model": "tiny", "choices": [{"index": 0, "delta": piece, "finish_reason": finish}]}


def said(content: str, finish: str = "stop", **more: object) -> Reply:
    return stream(delta(role="assistant", content=""), delta(content=content, **more), delta(finish), USAGE)


@pytest.fixture
def asked(capsys: pytest.CaptureFixture[str]) -> Asked:
    """Runs ``query`` with a scripted answer; gives back status, stdout, stderr and the body that was sent."""

    def ask(engine: str, reply: Reply, *argv: str, model: str = GEMMA) -> tuple[int, str, str, dict[str, Any]]:
        with Scripted(reply) as server:
            deployment = Deployment(
                name="one", sandbox_id="id-1", place="daytona", state="started", engine=engine, model=model,
                served_model="tiny", port=8000, session=engine, run_id="r",
            )  # fmt: skip
            Cache().remember(
                Remembered(deployment=deployment, endpoint=Endpoint(url=server.url, served_model="tiny"), api_url="x")
            )
            status = run(["query", "--id", "one", *argv])
            (seen,) = server.requests
        out, err = capsys.readouterr()
        return status, out, err, seen.json()

    return ask


# ---- reasoning


@pytest.mark.parametrize("engine", ENGINES)
def test_reasoning_is_printed_apart_whatever_its_field(engine: str, asked: Asked) -> None:
    reply = stream(delta(**{FIELD[engine]: "hm, "}), delta(**{FIELD[engine]: "so"}), delta(content="7"), delta("stop"))
    status, out, err, _ = asked(engine, reply, "What is it?")
    assert (status, out, err) == (0, "7\n", "hm, so\n")


@pytest.mark.parametrize("engine", ENGINES)
def test_reasoning_that_no_parser_took_out_is_printed_apart_too(engine: str, asked: Asked) -> None:
    reply = stream(delta(content="<th"), delta(content="ink>\nso</thi"), delta(content="nk>\n\n7"), delta("stop"))
    status, out, err, _ = asked(engine, reply, "What is it?")
    assert (status, out, err) == (0, "7\n", "\nso\n")
    status, out, _, _ = asked(engine, said("<think>so</think>7"), "What is it?", "--json")
    data = json.loads(out)["data"]
    assert (data["content"], data["reasoning"]) == ("7", "so")


def test_a_model_that_always_thinks_begins_inside(asked: Asked) -> None:
    _, out, err, _ = asked("vllm", said("so\n</think>\n\n7"), "What?", model="Qwen/QwQ-32B")
    assert (out, err) == ("7\n", "so\n\n")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (stream(delta(reasoning="hm"), delta("length"), USAGE), "used up its tokens (4 of them) on reasoning"),
        (stream(delta(content="<think>hm"), delta("length")), "used up its tokens on reasoning"),
        (stream(delta(content=None), delta("length"), USAGE), "before it wrote a word"),
        (stream(delta(reasoning="hm"), delta("stop")), "thought and gave no answer"),
        (stream(delta(refusal="I must not."), delta("stop")), "the model refused: I must not."),
    ],
)
def test_an_answer_that_is_none_says_why(reply: Reply, words: str, asked: Asked) -> None:
    status, out, err, _ = asked("vllm", reply, "What is it?", "--max-tokens", "4")
    assert (status, out) == (15, "")
    assert words in err


def test_an_answer_that_is_cut_is_printed_with_a_warning(asked: Asked) -> None:
    status, out, err, _ = asked("vllm", said("It is", "length"), "What is it?")
    assert (status, out) == (0, "It is\n")
    assert "cut at the limit of tokens" in err


def test_an_effort_that_means_something_else_is_said_once(asked: Asked) -> None:
    _, _, err, body = asked("sglang", said("7"), "What?", "--reasoning-effort", "low")
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert err.count("has no levels of reasoning") == 1


def test_half_a_letter_does_not_break_the_output(asked: Asked) -> None:
    reply = Reply(
        headers={"Content-Type": "text/event-stream"},
        chunks=[
            b'data: {"choices": [{"delta": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
        ],
    )
    status, out, _, _ = asked("vllm", reply, "What?", "--json")
    assert (status, ascii(json.loads(out)["data"]["content"])) == (0, ascii("a\ud800b"))
    status, out, _, _ = asked("vllm", reply, "What?")
    assert (status, out) == (0, "a?b\n")


# ---- the form of an answer

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
FORMS: list[tuple[str, tuple[str, ...], dict[str, object]]] = [
    ("vllm", ("--schema", json.dumps(SCHEMA)), {"response_format": AS_SCHEMA}),
    ("sglang", ("--schema", json.dumps(SCHEMA)), {"response_format": AS_SCHEMA}),
    ("llamacpp", ("--schema", json.dumps(SCHEMA)), {"response_format": AS_SCHEMA}),
    ("vllm", ("--regex", "[ab]+"), {"structured_outputs": {"regex": "[ab]+"}}),
    ("sglang", ("--regex", "[ab]+"), {"regex": "[ab]+"}),
    ("llamacpp", ("--regex", "[ab]+"), {"grammar": "root ::= ([ab])+"}),
    ("vllm", ("--choice", "a.b, c"), {"structured_outputs": {"choice": ["a.b", "c"]}}),
    ("sglang", ("--choice", "a.b, c"), {"regex": r"(a\.b|c)"}),
    ("llamacpp", ("--choice", '["a.b", "c"]'), {"grammar": r'root ::= ("a\x2Eb" | "c")'}),
    ("vllm", ("--grammar", "g.gbnf"), {"structured_outputs": {"grammar": 'root ::= "a.b"+'}}),
    ("sglang", ("--grammar", "g.gbnf"), {"ebnf": 'root ::= "a.b"+'}),
    ("llamacpp", ("--grammar", "g.gbnf"), {"grammar": 'root ::= "a.b"+'}),
]
GOOD = {"--schema": '{"n": 7}', "--regex": "abba", "--choice": "a.b", "--grammar": "a.ba.b"}


@pytest.fixture(autouse=True)
def grammars(tmp_path: Path) -> None:
    (tmp_path / "g.gbnf").write_text('root ::= "a.b"+')
    (tmp_path / "lark").write_text('start: "a"')
    (tmp_path / "bad.gbnf").write_text("root ::= x")


@pytest.mark.parametrize(("engine", "form", "fields"), FORMS, ids=lambda one: str(one)[:24])
def test_each_engine_is_asked_in_its_own_way(
    engine: str, form: tuple[str, ...], fields: dict[str, object], asked: Asked
) -> None:
    answer = GOOD[form[0]]
    status, out, _, body = asked(engine, said(answer), "Tell", *form)
    assert (status, out) == (0, answer + "\n")
    own = {key: value for key, value in body.items() if key not in ("model", "messages", "stream", "stream_options")}
    assert own == fields


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (said('{"n": "seven"}'), "not JSON of the schema: $.n: 'seven' is not of type 'integer'"),
        (said("I can't answer that."), "not JSON of the schema: it is no JSON"),
        (said('{"n": 7', "length"), "cut at the limit of tokens"),
        (stream(delta(refusal="No."), delta("stop")), "the model refused: No."),
        (stream(delta(reasoning='{"n": 7}'), delta("length")), "on reasoning and gave no answer"),
        (stream(delta(content=""), delta("stop")), "gave no answer"),
        (said('{"n": 7}', "content_filter"), "filter held the answer back"),
        (said('{"n": 7}', "abort"), "broke the answer off (abort)"),
    ],
)
def test_an_answer_of_another_form_is_an_error_and_stdout_stays_empty(reply: Reply, words: str, asked: Asked) -> None:
    status, out, err, _ = asked("vllm", reply, "Tell", "--schema", json.dumps(SCHEMA))
    assert (status, out) == (15, "")
    assert words in err


@pytest.mark.parametrize(
    ("form", "content", "status"),
    [
        (("--schema", json.dumps(SCHEMA)), '{"n": 7}', 0),
        (("--schema", '{"type": "integer"}'), "7", 15),
        (("--schema", '{"type": "integer"}'), "7\n", 0),
        (("--choice", "yes,no"), "no", 0),
        (("--choice", "no,nobody"), "no", 15),
        (("--regex", "[ab]+"), "ab", 15),
    ],
)
def test_an_answer_that_ends_where_the_limit_falls_is_whole_if_nothing_could_follow(
    form: tuple[str, ...], content: str, status: int, asked: Asked
) -> None:
    told, _, err, _ = asked("vllm", said(content, "length"), "Tell", *form)
    assert told == status
    assert ("cut at the limit of tokens" in err) == bool(status)


@pytest.mark.parametrize(
    ("form", "content"), [(("--regex", "[ab]+"), "abc"), (("--choice", "a,b"), "a "), (("--grammar", "g.gbnf"), "a.b.")]
)
def test_what_does_not_match_to_the_letter_is_an_error(form: tuple[str, ...], content: str, asked: Asked) -> None:
    status, out, _, _ = asked("vllm", said(content), "Tell", *form, "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"], error["reply"], error["retryable"]) == (15, "bad_reply", content, False)
    assert "the answer is not" in error["message"]


def test_reasoning_goes_on_while_the_answer_is_held_back(asked: Asked) -> None:
    reply = stream(delta(reasoning="hm"), delta(content='{"n"'), delta(content=": 7}"), delta("stop"))
    status, out, err, _ = asked("vllm", reply, "Tell", "--schema", json.dumps(SCHEMA))
    assert (status, out, err) == (0, '{"n": 7}\n', "hm\n")


def test_json_mode_gives_the_value_too(asked: Asked) -> None:
    _, out, _, _ = asked("vllm", said('{"n": 7}'), "Tell", "--schema", json.dumps(SCHEMA), "--json")
    data = json.loads(out)["data"]
    assert (data["content"], data["parsed"]) == ('{"n": 7}', {"n": 7})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--schema", "{"), "is no JSON"),
        (("--regex", "a(?!b)"), "a look-around, at character 2"),
        (("--grammar", "bad.gbnf"), "line 1: the rule x is used and nowhere given"),
        (("--grammar", "nowhere"), "can't be read"),
        (("--choice", "one"), "at least two different answers"),
        (("--choice", "a,,b"), "none of them empty"),
        (("--choice", '["a", 1]'), "a JSON list of texts only"),
        (("--choice", "a,b", "--regex", "a"), "--regex and --choice can't be used together"),
        (("--image", "g.gbnf"), "is no image"),
        (("--raw", "--system", "x"), "--raw is bare text"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_asked(
    argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["query", "Tell", *argv, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], words in error["message"]) == ("usage", True), error


def test_larks_notation_goes_where_it_is_read(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, _, body = asked("vllm", said("a"), "Tell", "--grammar", "lark")
    assert body["structured_outputs"] == {"grammar": 'start: "a"'}
    from gpuserve.client.constraints import from_grammar
    from gpuserve.errors import UsageError
    from gpuserve.serving.ask import constraint_body

    for engine in ("sglang", "llamacpp"):
        with pytest.raises(UsageError):
            constraint_body(engine, from_grammar('start: "a"', "it"))
    assert constraint_body("llamacpp", from_grammar('%llguidance {}\nstart: "a"', "it"))


# ---- bare text


@pytest.mark.parametrize(
    ("engine", "sent"),
    [
        ("vllm", {"model": "tiny", "prompt": "The best", "max_tokens": 8, "structured_outputs": {"regex": " (a|b)"}}),
        ("llamacpp", {"model": "tiny", "prompt": "The best", "max_tokens": 8, "grammar": 'root ::= (" " ("a" | "b"))'}),
    ],
)
def test_bare_text_is_continued(engine: str, sent: dict[str, object], asked: Asked) -> None:
    reply = stream({"choices": [{"index": 0, "text": " a", "finish_reason": "stop"}]}, USAGE)
    argv = ("The best", "--raw", "--regex", " (a|b)", "--max-tokens", "8")
    status, out, _, body = asked(engine, reply, *argv)
    assert (status, out) == (0, " a\n")
    assert {key: value for key, value in body.items() if not key.startswith("stream")} == sent


@pytest.mark.parametrize(
    ("form", "text", "params"),
    [
        (("--regex", " (a|b)"), " a", {"regex": " (a|b)"}),
        (("--grammar", "g.gbnf"), "a.b", {"ebnf": 'root ::= "a.b"+'}),
        (("--schema", json.dumps(SCHEMA)), '{"n": 7}', {"json_schema": json.dumps(SCHEMA)}),
        (("--choice", "a,b"), "b", {"regex": "(a|b)"}),
    ],
)
def test_sglangs_own_route_is_asked_as_the_guide_does(
    form: tuple[str, ...], text: str, params: dict[str, object], asked: Asked
) -> None:
    meta = {
        "id": "g", "finish_reason": {"type": "stop", "matched": None}, "prompt_tokens": 9, "completion_tokens": 2,
        "cached_tokens": 4,
    }  # fmt: skip
    argv = ("The best", "--raw", *form, "--max-tokens", "8", "--json")
    status, out, _, body = asked("sglang", as_json({"text": text, "meta_info": meta}), *argv)
    assert body == {"text": "The best", "sampling_params": {"max_new_tokens": 8, **params}}
    data = json.loads(out)["data"]
    assert (status, data["content"], data["finish_reason"], data["usage"]["cached_tokens"]) == (0, text, "stop", 4)


def test_sglangs_own_route_tells_a_cut_as_well(asked: Asked) -> None:
    reply = as_json({"text": "a", "meta_info": {"finish_reason": {"type": "length", "length": 1}}})
    assert asked("sglang", reply, "The best", "--raw", "--choice", "a,ab")[0] == 15


# ---- statistics


def test_stats_tell_times_and_tokens(asked: Asked) -> None:
    usage = {
        "prompt_tokens": 900, "completion_tokens": 40, "prompt_tokens_details": {"cached_tokens": 768},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }  # fmt: skip
    reply = stream(*(delta(content=word) for word in "abc"), delta("stop"), {"choices": [], "usage": usage})
    status, out, err, _ = asked("vllm", reply, "Tell", "--stats")
    assert (status, out) == (0, "abc\n")
    assert "900 (768 cached) in, 40 (30 of them reasoning) out" in err
    assert "TTFT " in err


def test_sglangs_own_count_of_reasoning_is_read(asked: Asked) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "reasoning_tokens": 3, "prompt_tokens_details": None}
    _, out, _, _ = asked("sglang", stream(delta("stop", content="a"), {"choices": [], "usage": usage}), "x", "--json")
    data = json.loads(out)["data"]
    assert (data["usage"]["reasoning_tokens"], data["usage"]["cached_tokens"]) == (3, None)


# ---- images


def test_an_image_is_sent_as_data(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    _, _, _, body = asked("vllm", said("a cat"), "What is it?", "--image", "p.png", "--image", "https://x.example/y")
    first, second, text = body["messages"][0]["content"]
    assert first["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="
    assert second["image_url"]["url"] == "https://x.example/y"
    assert text == {"type": "text", "text": "What is it?"}
