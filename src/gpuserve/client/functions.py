"""Python functions as tools: the schema comes from the signature, the type hints and the docstring."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from gpuserve.client.tools import Toolbox, ToolError
from gpuserve.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_GOOGLE = re.compile(r"^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_SPHINX = re.compile(r"^\s*:param\s+(?:[^:]*\s)?(\w+)\s*:\s*(.*)$")
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?)\s*:\s*$")


class FunctionTool:
    """One function, sync or async.

    Raises:
        UsageError: it can't be called with named arguments, or a type of its signature has no JSON schema.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        self._function = function
        self.name = getattr(function, "__name__", "")
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name or function!r} can't be a tool's name", hint="use a named function")
        _check_signature(function, self.name)
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", function))
            schema = self._adapter.json_schema()
        except (PydanticUserError, NameError, TypeError) as error:
            why = str(error).splitlines()[0]
            raise UsageError(
                f"no schema can be made of {self.name}'s signature: {why}", hint="use types that JSON has"
            ) from error
        self.spec = _spec(self.name, schema, inspect.getdoc(function) or "")

    def call(self, arguments: Mapping[str, object], timeout: float) -> str:
        """What the function returns, as text: a string as it is, anything else as JSON.

        The arguments are checked and converted by its type hints. An async function is cancelled when time is up.
        """
        from pydantic import ValidationError

        try:
            result = self._adapter.validate_json(json.dumps(arguments))
            if inspect.isawaitable(result):
                result = asyncio.run(_within(result, timeout))
        except ValidationError as error:
            raise ToolError(_told(error)) from error
        except TimeoutError as error:
            raise ToolError(str(error) or f"{self.name} timed out") from error
        return as_text(result)


class FunctionTools:
    """Several functions as a toolbox.

    Raises:
        UsageError: two of one name.
    """

    def __init__(self, tools: Sequence[FunctionTool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            raise UsageError("two tools have the same name", hint="rename one of the functions")

    @property
    def specs(self) -> Sequence[Mapping[str, object]]:
        """The tools as the OpenAI API describes them."""
        return [tool.spec for tool in self._tools.values()]

    def prepare(self, names: Sequence[str]) -> None:
        """Nothing is to be made."""

    def call(self, name: str, arguments: Mapping[str, object], timeout: float) -> str:
        """Runs one call. ``timeout`` (seconds) ends an async function; a sync one can't be ended."""
        return self._tools[name].call(arguments, timeout)

    def close(self) -> None:
        """Nothing is held."""


class Toolboxes:
    """Several toolboxes as one.

    Raises:
        UsageError: two tools of one name.
    """

    def __init__(self, *boxes: Toolbox) -> None:
        self._boxes = boxes
        self._owner: dict[str, Toolbox] = {}
        for box in boxes:
            for spec in box.specs:
                name = _name_of(spec)
                if name in self._owner:
                    raise UsageError(f"two tools are called {name}", hint="rename the function")
                self._owner[name] = box

    @property
    def specs(self) -> Sequence[Mapping[str, object]]:
        """The tools of all, in order."""
        return [spec for box in self._boxes for spec in box.specs]

    def prepare(self, names: Sequence[str]) -> None:
        """Lets each box prepare for the calls that are its own."""
        for box in self._boxes:
            own = [name for name in names if self._owner.get(name) is box]
            if own:
                box.prepare(own)

    def call(self, name: str, arguments: Mapping[str, object], timeout: float) -> str:
        """Runs one call, in the box whose tool it is."""
        return self._owner[name].call(name, arguments, timeout)

    def close(self) -> None:
        """Closes all, whatever one of them raises; the first error is raised at the end."""
        errors = []
        for box in self._boxes:
            try:
                box.close()
            except Exception as error:  # noqa: BLE001  # raised below, once all are closed
                errors.append(error)
        if errors:
            raise errors[0]


def load(reference: str, directory: Path) -> FunctionTool:
    """The function that ``module:function`` means; modules of ``directory`` are found first.

    Importing a module runs it. ``function`` may be dotted: ``module:Class.method``.

    Raises:
        UsageError: there is no such module or function, its import fails, or it can't be a tool.
    """
    module_name, colon, path = reference.partition(":")
    if not (colon and module_name and path):
        raise UsageError(f"{reference!r} names no tool", hint="write module:function, as in --tool weather:get_weather")
    found: object = _module(module_name, directory)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        what = "is no function" if found is not None else "isn't there"
        raise UsageError(f"{path} {what} in the module {module_name}", hint="write module:function")
    return FunctionTool(found)


def as_text(result: object) -> str:
    """What a tool returned as the model reads it."""
    if isinstance(result, str):
        return result
    from pydantic_core import to_json

    return to_json(result, fallback=str, inf_nan_mode="constants").decode()


def _module(name: str, directory: Path) -> object:
    here = str(directory)
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.split(".")[0] != error.name.split(".")[0] and error.name not in name:
            raise UsageError(f"the module {name} needs {error.name}, which isn't installed here") from error
        raise UsageError(
            f"there is no module {name} in this directory or among the installed", hint="run it where NAME.py lies"
        ) from error
    except Exception as error:
        raise UsageError(f"the module {name} can't be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)


def _check_signature(function: Callable[..., Any], name: str) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name} has no signature that can be read", hint="wrap it in a function") from error
    for one in parameters:
        if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL):
            raise UsageError(f"{name}'s parameter {one.name} can't be given by name", hint="models name every argument")


def _spec(name: str, schema: dict[str, Any], doc: str) -> Mapping[str, object]:
    described = _parameter_docs(doc)
    for parameter, one in schema.get("properties", {}).items():
        one.pop("title", None)  # the parameter's own name again
        if parameter in described and "description" not in one and "$ref" not in one:
            one["description"] = described[parameter]
    summary = re.split(r"\n\s*(?=:param)|\n(?=\w+\s*:\s*\n)", doc)[0].strip()
    return tool_spec(name, summary, schema)


def tool_spec(name: str, description: str, schema: Mapping[str, Any]) -> Mapping[str, object]:
    """A tool as the OpenAI API describes it; ``strict`` where the schema is as that asks for.

    vLLM 0.32.0 holds a call's arguments to the schema of a strict tool only; of others it merely frames the call.
    """
    told: dict[str, object] = {"name": name, "description": description, "parameters": schema}
    closed = schema.get("additionalProperties") is False
    if closed and set(schema.get("required", ())) == set(schema.get("properties", {})):
        told["strict"] = True
    return {"type": "function", "function": told}


def _parameter_docs(doc: str) -> dict[str, str]:
    """What a docstring says of each parameter, in Google's or Sphinx's way."""
    found: dict[str, str] = {}
    inside, last = False, ""
    for line in doc.splitlines():
        if match := _SPHINX.match(line):
            last = match[1]
            found[last] = match[2].strip()
        elif section := _SECTION.match(line):
            inside, last = section[1] in ("Args", "Arguments", "Parameters"), ""
        elif inside and line[:1].isspace() and (match := _GOOGLE.match(line)) and not line.startswith("        "):
            last = match[1]
            found[last] = match[2].strip()
        elif last and line[:1].isspace() and line.strip():
            found[last] = f"{found[last]} {line.strip()}".strip()
        else:
            last = ""
    return {name: text for name, text in found.items() if text}


def _told(error: Any) -> str:
    """A validation error as one line: which argument, what is wrong."""
    parts = [f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors()]
    return "wrong arguments: " + "; ".join(parts)


async def _within(awaitable: Any, seconds: float) -> object:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await awaitable
    except TimeoutError as error:
        raise TimeoutError(f"timed out after {seconds:g} s" if limit.expired() else str(error)) from error


def _name_of(spec: Mapping[str, object]) -> str:
    function = spec["function"]
    assert isinstance(function, Mapping)
    return str(function["name"])
