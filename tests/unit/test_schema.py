"""Schemas: read from anywhere, refused before anything is asked, and answers checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gpuserve.client.schema import read
from gpuserve.errors import UsageError

CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "twin": {"$ref": "#"}, "size": {"$ref": "#/$defs/size"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"size": {"enum": ["small", "big"]}},
}


def test_from_json_and_from_a_file(tmp_path: Path) -> None:
    text = json.dumps(CITY)
    (tmp_path / "city.json").write_text(text)
    assert read(text).document == read("city.json").document == CITY


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('{"name": "Bonn", "size": "big", "twin": {"name": "Oxford"}}', ""),
        ('{"name": "Bonn"', "it is no JSON"),
        ("I'm sorry, I can't", "it is no JSON"),
        ('{"name": "Bonn"} and more', "it is no JSON"),
        ('{"name": NaN}', "NaN is no JSON"),
        ('{"name": "a", "name": "b"}', "stands twice"),
        ("{}", "$: 'name' is a required property"),
        ('{"name": "Bonn", "size": "huge"}', "$.size: 'huge' is not one of"),
        ('{"name": "Bonn", "twin": {"name": 7}}', "$.twin.name: 7 is not of type 'string'"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_an_answer_is_checked(answer: str, words: str) -> None:
    faults = read(json.dumps(CITY)).faults(answer)
    assert words in faults
    assert bool(words) == bool(faults)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("missing.json", "can't be read: No such file"),
        ("{", "is no JSON"),
        ("[1]", "no schema"),
        ('{"type": "strin"}', "is no JSON schema: type"),
        ('{"properties": {"a": {"minLength": "x"}}}', "properties.a.minLength"),
        ('{"$ref": "#/$defs/nope"}', "refers to #/$defs/nope, which isn't in it"),
        ('{"items": {"$ref": "http://127.0.0.1:9/x.json"}}', "outside itself"),
        ("pydantic:nowhere.Thing", "can't be imported: ModuleNotFoundError"),
        ("pydantic:Thing", "names no class"),
        ("pydantic:json.JSONDecoder", "is no pydantic model"),
        ("pydantic:broken_models.Thing", "RuntimeError: boom"),
    ],
)
def test_a_bad_schema_is_named(given: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "broken_models.py").write_text("raise RuntimeError('boom')\n")
    with pytest.raises(UsageError) as caught:
        read(given)
    assert words in caught.value.message


def test_what_looks_like_a_reference_inside_data_is_none() -> None:
    assert read('{"enum": [{"$ref": "elsewhere"}]}').faults('{"$ref": "elsewhere"}') == ""


def test_a_pydantic_model_brings_its_own_checks(tmp_path: Path) -> None:
    (tmp_path / "city_models.py").write_text(
        "from pydantic import BaseModel, field_validator\n"
        "class City(BaseModel):\n"
        "    name: str\n"
        "    @field_validator('name')\n"
        "    @classmethod\n"
        "    def known(cls, value: str) -> str:\n"
        "        assert value != 'Atlantis', 'there is no such city'\n"
        "        return value\n"
    )
    before = list(sys.path)
    try:
        schema = read("pydantic:city_models.City")
        assert schema.document["properties"]["name"]["type"] == "string"
        assert schema.faults('{"name": "Bonn"}') == ""
        assert "City.name: Assertion failed, there is no such city" in schema.faults('{"name": "Atlantis"}')
        assert sys.path == before
    finally:
        sys.modules.pop("city_models", None)
