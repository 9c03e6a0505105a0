"""Functions as tools: the schema, what the model gets back, and what can't be one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from gpuserve.client.functions import FunctionTool, FunctionTools, Toolboxes, load
from gpuserve.client.tools import ToolError
from gpuserve.errors import UsageError


class Unit(Enum):
    C = "celsius"
    F = "fahrenheit"


@dataclass
class Spot:
    lat: float
    lon: float


def forecast(
    city: str,
    days: Annotated[int, Field(ge=1, le=14)] = 3,
    unit: Unit = Unit.C,
    when: date | None = None,
    kind: Literal["short", "long"] = "short",
) -> dict[str, object]:
    """Forecasts the weather.

    Works for every city.

    Args:
        city: Where; the name
            in English.
        days (int): How many.

    Returns:
        Days.
    """
    return {"city": city, "days": days, "unit": unit, "when": when, "kind": kind}


def by_spot(spot: Spot, tags: list[str]) -> int:
    """Finds it.

    :param spot: Where.
    :param tags: What for.
    """
    return int(spot.lat) + len(tags)


async def later(text: str) -> str:
    """Says it later."""
    return text.upper()


def test_the_schema_is_that_of_the_signature() -> None:
    function: Any = FunctionTool(forecast).spec["function"]
    assert function["name"] == "forecast"
    assert function["description"] == "Forecasts the weather.\n\nWorks for every city."
    schema = function["parameters"]
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["city"], False)
    assert schema["properties"]["city"] == {"type": "string", "description": "Where; the name in English."}
    assert schema["properties"]["days"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 14,
        "default": 3,
        "description": "How many.",
    }
    assert schema["properties"]["kind"]["enum"] == ["short", "long"]
    assert schema["$defs"]["Unit"]["enum"] == ["celsius", "fahrenheit"]


def test_sphinx_docstrings_and_nested_types() -> None:
    function: Any = FunctionTool(by_spot).spec["function"]
    assert function["description"] == "Finds it."
    assert function["parameters"]["properties"]["tags"]["description"] == "What for."
    assert FunctionTool(by_spot).call({"spot": {"lat": 40, "lon": "2"}, "tags": ["a"]}, 5) == "41"


def test_only_a_tool_whose_arguments_are_all_required_is_strict() -> None:
    """As the OpenAI API has it; vLLM 0.32.0 lets the model write any arguments for one that isn't."""
    strict: Any = FunctionTool(later).spec["function"]
    loose: Any = FunctionTool(forecast).spec["function"]
    assert strict["strict"] is True
    assert "strict" not in loose


def test_arguments_become_what_the_hints_say_and_results_become_text() -> None:
    answer = FunctionTool(forecast).call({"city": "Oslo", "days": "2", "unit": "fahrenheit", "when": "2026-01-02"}, 5)
    assert answer == '{"city":"Oslo","days":2,"unit":"fahrenheit","when":"2026-01-02","kind":"short"}'
    assert FunctionTool(later).call({"text": "hé"}, 5) == "HÉ"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"city": "x", "days": 99}, "days: Input should be less than"), ({"city": "x", "unit": "k"}, "unit: ")],
)
def test_wrong_arguments_are_told_without_a_traceback(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ToolError, match="wrong arguments") as caught:
        FunctionTool(forecast).call(arguments, 5)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def positional(a: int, /) -> int:
    return a


def several(*a: int) -> int:
    return len(a)


def unknown(a: NotThere) -> int:  # type: ignore[name-defined]  # noqa: F821  # the point
    return 1


def schemaless(a: Callable[[], int]) -> int:
    return a()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (positional, "parameter a can't be given by name"),
        (several, "parameter a can't be given by name"),
        (unknown, "no schema can be made of unknown's signature"),
        (schemaless, "no schema can be made of schemaless's signature"),
        (lambda a: a, "can't be a tool's name"),
    ],
)
def test_what_can_be_no_tool(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        FunctionTool(function)


def test_a_function_of_the_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "toolmodule_a.py").write_text(
        "class Box:\n    @staticmethod\n    def f(x: int) -> int:\n        return x + 1\n"
    )
    before = list(sys.path)
    assert load("toolmodule_a:Box.f", tmp_path).call({"x": 2}, 5) == "3"
    assert sys.path == before


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("weather", "names no tool"),
        (":f", "names no tool"),
        ("no_such_module_here:f", "there is no module no_such_module_here"),
        ("toolmodule_b:nope", "nope isn't there in the module toolmodule_b"),
        ("toolmodule_b:NUMBER", "NUMBER is no function"),
        ("toolmodule_c:f", "can't be imported: ZeroDivisionError"),
        ("toolmodule_d:f", "needs no_such_dependency, which isn't installed"),
        ("toolmodule_e:f", "can't be imported: SyntaxError"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, reference: str, words: str) -> None:
    (tmp_path / "toolmodule_b.py").write_text("NUMBER = 1\n")
    (tmp_path / "toolmodule_c.py").write_text("1 / 0\n")
    (tmp_path / "toolmodule_d.py").write_text("import no_such_dependency\n")
    (tmp_path / "toolmodule_e.py").write_text("def f(:\n")
    with pytest.raises(UsageError, match=words):
        load(reference, tmp_path)


def test_names_are_unique_over_boxes() -> None:
    one, other = FunctionTools([FunctionTool(later)]), FunctionTools([FunctionTool(by_spot)])
    both = Toolboxes(one, other)
    assert [spec["function"]["name"] for spec in both.specs] == ["later", "by_spot"]  # type: ignore[index]
    assert both.call("later", {"text": "a"}, 5) == "A"
    with pytest.raises(UsageError, match="two tools are called later"):
        Toolboxes(one, one)
    with pytest.raises(UsageError, match="same name"):
        FunctionTools([FunctionTool(later)] * 2)
