"""What the engines' launch commands have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from gpuserve.engines.base import ChecksKey, Engine
from gpuserve.errors import UsageError
from gpuserve.records import LaunchPlan, ModelFacts, ServeRequest

#: Where every engine listens. The platform's proxy reaches it there (SGLang listens there by default, and
#: its guide relies on that); on a developer's own machine it keeps the engine off the network.
LOOPBACK = "127.0.0.1"

_FLAG = re.compile(r"--?[A-Za-z]")
_NOT_IN_A_NAME = re.compile(r"[^\w./@+-]+", re.ASCII)


class Flags:
    """The flags of a launch command: gpuserve's own, then the user's, which win.

    ``abbreviates`` says that the engine takes an unambiguous beginning of a long flag for the whole,
    as Python's argparse does; then such a beginning counts as the user's choice too.
    """

    def __init__(self, user: Sequence[str], *, abbreviates: bool) -> None:
        self.notes: list[str] = []
        self._user = tuple(user)
        self._given = {_spelling(argument) for argument in user if _FLAG.match(argument)}
        self._abbreviates = abbreviates
        self._own: list[str] = []

    def given(self, *spellings: str) -> bool:
        """Whether the user's arguments hold one of these flags, alone or as ``--flag=value``."""
        return any(self._matches(given, spelling) for given in self._given for spelling in spellings)

    def add(self, flag: str, *values: str, also: tuple[str, ...] = ()) -> None:
        """Adds ``flag`` unless the user gave it, or one of ``also`` (its other spellings and its opposite)."""
        if self.given(flag, *also):
            self.notes.append(
                f"{flag} is left to your engine arguments; gpuserve would have set {_shown(flag, values)}."
            )
        else:
            self._own += [flag, *values]

    def add_each(self, flags: Sequence[str]) -> None:
        """Adds flags that come with their values, one after the other, as the catalogue writes them."""
        for flag, *values in _groups(flags):
            self.add(flag, *values)

    def refuse(self, *spellings: str, why: str, hint: str) -> None:
        """Raises ``UsageError`` if the user's arguments set what the plan depends on."""
        if self.given(*spellings):
            raise UsageError(f"{spellings[0]} can't be set through the engine's arguments: {why}", hint=hint)

    def argv(self) -> tuple[str, ...]:
        """All flags, the user's last and untouched."""
        return (*self._own, *self._user)

    def _matches(self, given: str, spelling: str) -> bool:
        return given == spelling or (self._abbreviates and len(given) >= 4 and spelling.startswith(given))


def _spelling(argument: str) -> str:
    """The flag in ``argument`` as the engines compare it: without its value, hyphens for underscores."""
    flag = argument.split("=", 1)[0]
    return flag.replace("_", "-") if flag.startswith("--") else flag


def _shown(flag: str, values: tuple[str, ...]) -> str:
    return " ".join((flag, *values))


def _groups(flags: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for part in flags:
        if _FLAG.match(part) and group:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def refuse_fixed(flags: Flags, *, served: tuple[str, ...], model: tuple[str, ...]) -> None:
    """Raises ``UsageError`` if the user's arguments set the address, the served name or the model.

    The health check, the endpoint's address and the labels all follow from those, so they have flags of their own.
    """
    flags.refuse("--port", why="the endpoint's address follows from it", hint="use gpuserve's own --port")
    flags.refuse(
        "--host",
        why=f"the engine listens on {LOOPBACK}, where the platform's proxy reaches it and the network doesn't",
        hint="leave it out; gpuserve share and --public open the endpoint, and --port sets the port",
    )
    flags.refuse(*served, why="clients and labels follow from it", hint="use gpuserve's own --served-as")
    flags.refuse(*model, why="the plan is made for one model", hint="use gpuserve's own --model")


def served_name(request: ServeRequest) -> str:
    """What clients pass as ``model``: ``--served-as``, or the last part of the model's ID.

    The default is in small letters, without a quantisation (``:Q4_K_M``), a file's ``.gguf`` or a
    repository's ``-GGUF``: ``openai/gpt-oss-20b`` is served as ``gpt-oss-20b``.
    """
    if request.served_as:
        return request.served_as
    last = request.model.rstrip("/").rpartition("/")[2].lower()
    if not request.model.startswith("/"):
        last = last.partition(":")[0]
    last = last.removesuffix(".gguf").removesuffix("-gguf")
    return _NOT_IN_A_NAME.sub("-", last).strip("-.") or "model"


def add_parsers(flags: Flags, engine: Engine, request: ServeRequest, facts: ModelFacts) -> None:
    """Adds the parsers that the catalogue knows, and notes which it doesn't."""
    missing = []
    for flag, parser, what in (
        ("--tool-call-parser", facts.tool_parser, "tool calls"),
        ("--reasoning-parser", facts.reasoning_parser, "reasoning"),
    ):
        if parser:
            flags.add(flag, parser)
        elif not flags.given(flag):
            missing.append((flag, what))
    if missing and not facts.family:
        flags.notes.append(_unknown_model(request.model, missing))
    elif ("--tool-call-parser", "tool calls") in missing:
        flags.notes.append(f"{engine.title} has no tool-call parser for {facts.family}: tool calls stay in the text.")


def _unknown_model(model: str, missing: list[tuple[str, str]]) -> str:
    stays = " and ".join(what for _, what in missing)
    verb = "stay" if missing[0][1] == "tool calls" else "stays"
    ways = " or ".join(f"--engine-arg={flag}=…" for flag, _ in missing)
    return f"no parser is known for {model}: {stays} {verb} in the text; name one with {ways}."


def finish(
    engine: Engine,
    request: ServeRequest,
    facts: ModelFacts,
    *,
    program: tuple[str, ...],
    flags: Flags,
    health_path: str,
    path: tuple[str, ...] = (),
    env: Mapping[str, str] = MappingProxyType({}),
) -> LaunchPlan:
    """The plan around a finished list of flags. Variables that the user set win over the catalogue's, those over
    ``env``."""
    key = engine.key_check.how if request.api_key and isinstance(engine, ChecksKey) else None
    if key is not None:
        why = "gpuserve gives the engine its key by a file, so that no list of processes shows it"
        flags.refuse("--api-key", why=why, hint="name the key in GPUSERVE_API_KEY, and use --access key")
    return LaunchPlan(
        engine=engine.name,
        model=request.model,
        served_model=served_name(request),
        image=request.image or engine.default_image,
        argv=(*program, *flags.argv()),
        port=request.port,
        session=engine.name,
        health_path=health_path,
        path=path,
        key=key,
        env=MappingProxyType({**env, **facts.env, **request.env}),
        notes=tuple(flags.notes),
    )
