"""``query``: one question to one deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuserve import engines
from gpuserve.client.chat import ChatRequest, ask
from gpuserve.client.reply import ChatEvent, ChatReply
from gpuserve.engines.base import Reasons
from gpuserve.errors import EngineError, NetworkError, NotAuthenticated, NotFound, UsageError
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.reach import reach, reach_fresh

#: What ``--reasoning-effort`` takes.
EFFORTS = ("none", "low", "medium", "high")

Build = Callable[[Deployment], ChatRequest]


def question(context: Context, wanted: str | None, build: Build, *, emit: Callable[[ChatEvent], None]) -> ChatReply:
    """Asks the deployment that ``wanted`` means. ``build`` makes the request once it is known whom it is for.

    A remembered endpoint that no longer answers is looked up again, once, as long as nothing was answered yet.

    Raises:
        NotFound, Conflict: no deployment, or several.
        EngineError, NetworkError, NotAuthenticated, TimedOut: as ``client.chat.ask``.
    """
    deployment, endpoint, from_cache = reach(context, wanted)
    answered = False

    def watch(event: ChatEvent) -> None:
        nonlocal answered
        answered = True
        emit(event)

    try:
        return ask(endpoint, build(deployment), emit=watch)
    except (NetworkError, NotAuthenticated, NotFound, EngineError):
        if not from_cache or answered:
            raise
        fresh, endpoint_now = reach_fresh(context, wanted or deployment.sandbox_id)
        if endpoint_now == endpoint:
            raise
    return ask(endpoint_now, build(fresh), emit=emit)


def reasoning_body(engine_name: str, effort: str | None) -> Mapping[str, object]:
    """What a request to this engine needs so that the model reasons with ``effort``; nothing for None.

    Raises:
        UsageError: an unknown effort, or an engine that can't be told.
    """
    if effort is None:
        return {}
    if effort not in EFFORTS:
        raise UsageError(f"unknown reasoning effort {effort!r}", hint="one of " + ", ".join(EFFORTS))
    engine = engines.load(engine_name)
    if not isinstance(engine, Reasons):
        raise UsageError(f"{engine_name} can't be told how much to reason", hint="leave --reasoning-effort out")
    return engine.reasoning_body(effort)
