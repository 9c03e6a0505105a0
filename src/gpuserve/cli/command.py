"""How a command is made: every one gets the same flags, from one place, and a ``Run`` to work with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from gpuserve.cli.output import Output

if TYPE_CHECKING:
    from gpuserve.serving.context import Context

_PANEL = "Everywhere"

Json = Annotated[bool, typer.Option("--json", help='Print JSON: {"data": …} or {"error": …}.', rich_help_panel=_PANEL)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and warnings only.", rich_help_panel=_PANEL)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more about progress.", rich_help_panel=_PANEL)]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.", rich_help_panel=_PANEL)]
Local = Annotated[
    bool, typer.Option("--local", help="Use this machine: no account, no GPU needed.", rich_help_panel=_PANEL)
]
EnvFile = Annotated[
    Path | None, typer.Option("--env-file", help="Read settings from this file, not .env.", rich_help_panel=_PANEL)
]
#: The argument by which most commands name a deployment.
Id = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID]",
        help="Name, sandbox ID or a unique prefix; may be left out if only one deployment is live. A fleet is meant by "
        "its whole name; FLEET/MODEL asks for one of its models.",
    ),
]


@dataclass
class Run:
    """One run of one command: how it prints, and what it can reach."""

    output: Output
    local: bool = False
    env_file: Path | None = None

    @cached_property
    def context(self) -> Context:
        """Settings, cache and places. Building it imports pydantic-settings, so a command asks for it late."""
        from gpuserve.serving.context import Context
        from gpuserve.settings import load
        from gpuserve.state import Cache

        cache = Cache()
        context = Context(load(self.env_file), cache, self.local)
        if cache.warning:
            self.output.warn(cache.warning)
        return context


def command(app: typer.Typer, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function whose first parameter is a ``Run`` as a command of ``app``.

    A parameter whose type is a dataclass stands for a group of options: its fields, declared as parameters would be.
    ``--json``, ``--quiet``, ``--verbose``, ``--debug``, ``--local`` and ``--env-file`` are added to its own options.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def call(
            *,
            json: bool,
            quiet: bool,
            verbose: bool,
            debug: bool,  # noqa: ARG001  # read by ``main``, which reports errors
            local: bool,
            env_file: Path | None,
            **own: Any,
        ) -> None:
            run = Run(Output(as_json=json, quiet=quiet, verbose=verbose), local, env_file)
            for name, (kind, names) in groups.items():
                own[name] = kind(**{one: own.pop(one) for one in names})
            function(run, **own)

        own_parameters, groups = _parameters(function)
        parameters = own_parameters + _shared()
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        call.__doc__, call.__name__ = function.__doc__, function.__name__
        app.command(**options)(call)
        return function

    return register


def _default(one: Field[Any]) -> Any:
    return inspect.Parameter.empty if one.default is MISSING else one.default


#: Dataclass and names of its fields, by the parameter that takes it.
Groups = dict[str, tuple[type, list[str]]]


def _parameters(function: Callable[..., None]) -> tuple[list[inspect.Parameter], Groups]:
    """The function's parameters after the ``Run``, a dataclass among them replaced by its fields."""
    hints = get_type_hints(function, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    found: list[inspect.Parameter] = []
    groups: Groups = {}
    for one in list(inspect.signature(function).parameters.values())[1:]:
        hint = hints[one.name]
        if not is_dataclass(hint):
            found.append(one.replace(annotation=hint, kind=keyword))
            continue
        assert isinstance(hint, type)
        kinds = get_type_hints(hint, include_extras=True)
        groups[one.name] = (hint, [inner.name for inner in fields(hint)])
        found += [
            inspect.Parameter(inner.name, keyword, default=_default(inner), annotation=kinds[inner.name])
            for inner in fields(hint)
        ]
    return found, groups


def _shared() -> list[inspect.Parameter]:
    kinds: tuple[tuple[str, Any, Any], ...] = (
        ("json", Json, False),
        ("quiet", Quiet, False),
        ("verbose", Verbose, False),
        ("debug", Debug, False),
        ("local", Local, False),
        ("env_file", EnvFile, None),
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, keyword, default=default, annotation=kind) for name, kind, default in kinds]
