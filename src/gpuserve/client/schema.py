"""JSON schemas: read and checked before anything is asked, and what a reply is checked against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

_HINT = "give a file, JSON text, or pydantic:module.Class"
_PYDANTIC = "pydantic:"


class Schema:
    """A schema to be sent (``document``), and the check of what comes back.

    Raises:
        UsageError: it is no JSON schema, or refers to what isn't in it.
    """

    def __init__(self, document: Mapping[str, Any], where: str, model: type[BaseModel] | None = None) -> None:
        self.document = document
        self._model = model
        self._validator = _validator(document, where)
        for reference in _references(document):
            _check_reference(document, reference, where)

    def faults(self, text: str) -> str:
        """What is wrong with ``text`` as JSON of this schema, in a few words; "" if nothing is."""
        from referencing.exceptions import Unresolvable

        try:
            value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)
        except RecursionError:
            return "it is nested too deeply"
        except ValueError as error:
            return f"it is no JSON: {error}"
        try:
            found = sorted(self._validator.iter_errors(value), key=lambda one: list(map(str, one.path)))
        except RecursionError:
            return "it is nested too deeply"
        except Unresolvable as error:
            return f"it can't be checked: the schema refers to {error.ref}, which isn't in it"
        if found:
            return f"{found[0].json_path}: {_short(found[0].message)}"
        return self._model_faults(text)

    def _model_faults(self, text: str) -> str:
        if self._model is None:
            return ""
        from pydantic import ValidationError

        try:
            self._model.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            return f"{self._model.__name__}{'.' + place if place else ''}: {_short(first['msg'])}"
        return ""


def read(given: str) -> Schema:
    """The schema that ``given`` means: JSON text (it begins with a brace), ``pydantic:module.Class``, or a file.

    Raises:
        UsageError: there is none, or it is none.
    """
    if given.startswith(_PYDANTIC):
        return _from_pydantic(given.removeprefix(_PYDANTIC))
    if given.lstrip()[:1] in ("{", "["):
        return Schema(_decode(given, "the schema"), "the schema")
    path = Path(given).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the schema {given} is not UTF-8 text", hint=_HINT) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the schema {given} can't be read: {why}", hint=_HINT) from error
    return Schema(_decode(text, given), given)


def _decode(text: str, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise UsageError(f"{where} is nested too deeply", hint=_HINT) from error
    except ValueError as error:
        raise UsageError(f"{where} is no JSON: {error}", hint=_HINT) from error
    if not isinstance(document, dict):
        raise UsageError(f"{where} is JSON, but no schema: a schema is an object", hint=_HINT)
    return document


def _from_pydantic(name: str) -> Schema:
    """The schema of a pydantic model. Its module is the user's own code, found from the current directory first."""
    import importlib
    import sys

    module_name, _, class_name = name.replace(":", ".").rpartition(".")
    if not module_name or not class_name:
        raise UsageError(f"{name!r} names no class", hint="write --schema pydantic:module.Class")
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module can fail in any way
        raise UsageError(f"{module_name} can't be imported: {type(error).__name__}: {error}", hint=_HINT) from error
    finally:
        sys.path.remove("")
    from pydantic import BaseModel, PydanticUserError

    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise UsageError(f"{class_name} in {module_name} is no pydantic model", hint="it must be a class on BaseModel")
    try:
        return Schema(found.model_json_schema(), class_name, found)
    except PydanticUserError as error:
        raise UsageError(f"{class_name} has no JSON schema: {_short(error.message)}", hint=_HINT) from error


def _validator(document: Mapping[str, Any], where: str) -> Any:
    try:
        from jsonschema import Draft202012Validator, SchemaError, validators
        from referencing.jsonschema import EMPTY_REGISTRY
    except ImportError as error:
        raise UsageError("--schema needs the package jsonschema", hint="pip install jsonschema") from error
    kind = validators.validator_for(document, default=Draft202012Validator)
    try:
        kind.check_schema(dict(document))
    except SchemaError as error:
        place = error.json_path.removeprefix("$").lstrip(".")
        raise UsageError(
            f"{where} is no JSON schema: {place + ': ' if place else ''}{_short(error.message)}", hint=_HINT
        ) from error
    except RecursionError as error:
        raise UsageError(f"{where} is nested too deeply", hint=_HINT) from error
    return kind(document, registry=EMPTY_REGISTRY)  # an empty one: nothing is fetched from the network


def _references(node: object) -> Iterator[str]:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("$ref"), str):
                yield one["$ref"]
            waiting += [value for key, value in one.items() if key not in ("const", "enum", "default", "examples")]
        elif isinstance(one, list):
            waiting += one


def _check_reference(document: Mapping[str, Any], reference: str, where: str) -> None:
    if not reference.startswith("#"):
        raise UsageError(f"{where} refers to {_short(reference)}, outside itself", hint="put it under $defs")
    if reference != "#" and not reference.startswith("#/"):
        return  # by an anchor: the validator's to find
    node: object = document
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list):
            node = node[int(key)] if key.isdecimal() and int(key) < len(node) else None
        else:
            node = node.get(key) if isinstance(node, Mapping) else None
        if node is None:
            raise UsageError(f"{where} refers to {_short(reference)}, which isn't in it", hint="put it under $defs")


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _short(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit] + " …"
