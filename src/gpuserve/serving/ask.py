"""``query``: one question to one deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from gpuserve import engines
from gpuserve.catalog.shapes import family_of, shape_of, shapes
from gpuserve.client.reply import ChatEvent, ChatReply
from gpuserve.engines.base import Constrains, Continues, Wanted
from gpuserve.errors import UsageError
from gpuserve.serving.context import Context
from gpuserve.serving.line import Build, Line


def question(context: Context, wanted: str | None, build: Build, *, emit: Callable[[ChatEvent], None]) -> ChatReply:
    """Asks the deployment that ``wanted`` means. ``build`` makes the request once it is known whom it is for.

    A remembered endpoint that no longer answers is looked up again, once, as long as nothing was answered yet.

    Raises:
        NotFound, Conflict: no deployment, or several.
        EngineError, NetworkError, NotAuthenticated, TimedOut: as ``client.chat.ask``.
    """
    return Line(context, wanted).ask(build, emit=emit)


def constraint_body(engine_name: str, wanted: Wanted | None) -> Mapping[str, object]:
    """What a request to this engine needs so that the answer is as ``wanted``; nothing for None.

    Raises:
        UsageError: the engine takes no such constraint.
    """
    if wanted is None:
        return {}
    engine = engines.load(engine_name)
    if not isinstance(engine, Constrains):
        raise UsageError(
            f"{engine_name} can't be held to a form of answer", hint="leave --schema, --regex and their like out"
        )
    return engine.constraint_body(wanted)


def text_request(
    engine_name: str, wanted: Wanted | None
) -> tuple[Literal["completions", "generate"], Mapping[str, object]]:
    """The route on which this engine continues bare text, and what to add so that the text is as ``wanted``.

    Raises:
        UsageError: the engine has no such route, or takes no such constraint.
    """
    engine = engines.load(engine_name)
    if not isinstance(engine, Continues):
        raise UsageError(f"{engine_name} doesn't continue bare text", hint="leave --raw out")
    route: Literal["completions", "generate"] = "generate" if engine.text_route == "generate" else "completions"
    return route, {} if wanted is None else engine.text_body(wanted)


def check_vision(model: str) -> None:
    """Raises ``UsageError`` if the catalogue knows that ``model`` takes no images; what it doesn't know may.

    A model that has no row of its own is judged by those of its family, if all of them are for text.
    """
    family = family_of(model)
    own = shape_of(model)
    known = [own] if own else [one for one in shapes() if family is not None and one.family == family.id]
    if known and not any(one.multimodal for one in known):
        raise UsageError(f"{model} takes no images, only text", hint="serve a model with vision, or leave --image out")
