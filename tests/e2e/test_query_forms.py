"""Forms of answers, statistics and the prefix cache on the real embedded engine, by the installed command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.inside import inside
from e2e.usershell import Shell, bring_up

NAME = "forms"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 24}, "season": {"enum": ["summer", "winter"]}},
    "required": ["title", "season"],
    "additionalProperties": False,
}
#: A picture of one point.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645"
    "400000000049454e44ae426082"
)


@pytest.fixture(scope="module", name="shell")
def within(shell: Shell) -> Shell:
    """The same shell, its commands run here."""
    return inside(shell)


@pytest.fixture(scope="module")
def live(shell: Shell) -> Iterator[dict[str, Any]]:
    yield bring_up(shell, "--name", NAME)
    shell.run("down", NAME, "--yes")


@pytest.fixture
def files(shell: Shell) -> Path:
    (shell.home / "schema.json").write_text(json.dumps(SCHEMA))
    (shell.home / "list.gbnf").write_text('root ::= item ("\\n" item){2}\nitem ::= "- " [a-z]{3,8}\n')
    (shell.home / "point.png").write_bytes(PNG)
    (shell.home / "weather_models.py").write_text(
        "from pydantic import BaseModel, Field\n"
        "class Weather(BaseModel):\n"
        "    city: str = Field(max_length=12)\n"
        "    warm: bool\n"
    )
    return shell.home


def query(shell: Shell, *argv: str) -> Any:
    return shell.ok("query", "--id", NAME, "--max-tokens", "120", *argv, "--json").data


def test_json_of_a_schema(shell: Shell, live: dict[str, Any], files: Path) -> None:
    data = query(shell, "A haiku's title and season as JSON", "--schema", "schema.json")
    assert json.loads(data["content"]) == data["parsed"]
    assert set(data["parsed"]) == {"title", "season"}
    assert data["parsed"]["season"] in ("summer", "winter")


def test_json_of_a_pydantic_model(shell: Shell, live: dict[str, Any], files: Path) -> None:
    data = query(shell, "The weather in Lisbon as JSON", "--schema", "pydantic:weather_models.Weather")
    assert isinstance(data["parsed"]["warm"], bool)
    assert len(data["parsed"]["city"]) <= 12


def test_the_guides_colour_by_a_regular_expression(shell: Shell, live: dict[str, Any]) -> None:
    argv = ("The best color for a terminal theme is", "--regex", " (red|green|blue|amber)", "--temperature", "2")
    assert shell.ok("query", "--id", NAME, *argv).out.rstrip("\n") in (" red", " green", " blue", " amber")


def test_bare_text_is_continued_in_a_form(shell: Shell, live: dict[str, Any], files: Path) -> None:
    data = query(shell, "The best color for a terminal theme is", "--raw", "--regex", " (red|green|blue|amber)")
    assert data["content"] in (" red", " green", " blue", " amber")
    assert data["usage"]["prompt_tokens"] < 16  # no chat template around it
    assert "title" in query(shell, "As JSON:", "--raw", "--schema", "schema.json")["parsed"]


def test_a_regular_expression_with_counts_and_classes(shell: Shell, live: dict[str, Any]) -> None:
    pattern = r"^[A-Z]{2}\d{3}(-[\w.]{1,4})?$"
    assert re.fullmatch(pattern, query(shell, "A licence plate, please", "--regex", pattern)["content"])


def test_a_choice_with_letters_that_mean_something_elsewhere(shell: Shell, live: dict[str, Any]) -> None:
    choices = ['C++ (or "C")', "naïve [yes]\\no", "50 %"]
    argv = ("Choose one", "--choice", json.dumps(choices))
    for heat in ("0", "2"):
        assert query(shell, *argv, "--temperature", heat)["content"] in choices


def test_a_grammar(shell: Shell, live: dict[str, Any], files: Path) -> None:
    done = shell.ok("query", "--id", NAME, "List three fruits", "--grammar", "list.gbnf")
    assert re.fullmatch(r"(- [a-z]{3,8}\n){3}", done.out)


def test_a_cut_answer_leaves_stdout_empty(shell: Shell, live: dict[str, Any], files: Path) -> None:
    argv = ("query", "--id", NAME, "A haiku as JSON", "--schema", "schema.json", "--max-tokens", "4")
    done = shell.run(*argv)
    assert (done.status, done.out) == (15, "")
    assert "cut at the limit of tokens" in done.err
    failed = shell.run(*argv, "--json")
    assert (failed.status, failed.error["code"]) == (15, "bad_reply")
    assert failed.error["reply"]
    assert len(failed.out.splitlines()) == 1


def test_stats_go_to_stderr(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.ok("query", "--id", NAME, "Tell me about the sea", "--max-tokens", "24", "--stats")
    assert re.search(
        r"stats +TTFT [\d.]+ s, [\d.]+ tokens/s \(ITL [\d.]+ ms\), \d+ \(\d+ cached\) in, 24 out", done.err
    )
    assert "TTFT" not in done.out
    timing = query(shell, "Tell me about the sea", "--max-tokens", "24")["timing"]
    assert 0 < timing["ttft_seconds"] < timing["total_seconds"]
    assert timing["itl_seconds"] == pytest.approx(1 / timing["tokens_per_second"])


def test_the_prefix_cache_as_the_guide_measures_it(shell: Shell, live: dict[str, Any]) -> None:
    data = shell.ok("cache-check", NAME, "--pairs", "2", "--tokens", "160", "--json").data
    assert data["works"] is True
    for pair in data["pairs"]:
        cold, warm = pair["cold"], pair["warm"]
        assert cold["cached_tokens"] < cold["prompt_tokens"] / 4
        assert warm["cached_tokens"] >= warm["prompt_tokens"] - 1
        assert warm["prompt_tokens"] == cold["prompt_tokens"] > 160
        assert warm["ttft_seconds"] < cold["ttft_seconds"]
    told = shell.ok("cache-check", NAME, "--pairs", "1", "--tokens", "80")
    assert told.out.startswith("The prefix cache works: ")
    assert len(told.out.splitlines()) == 1
    assert "pair 1" in told.err


def test_a_prompt_that_is_too_long_to_measure_says_what_to_do(shell: Shell, live: dict[str, Any]) -> None:
    done = shell.run("cache-check", NAME, "--tokens", "9000")
    assert done.status == 11
    assert "--tokens" in done.err


def test_an_image_for_a_model_without_eyes_is_a_clear_refusal(shell: Shell, live: dict[str, Any], files: Path) -> None:
    done = shell.run("query", "--id", NAME, "What is it?", "--image", "point.png")
    assert (done.status, done.out) == (11, "")
    assert "takes no images" in done.err
