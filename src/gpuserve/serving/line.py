"""A line to one deployment: for every question the endpoint that answers now."""

from __future__ import annotations

from collections.abc import Callable

from gpuserve.client.chat import ChatRequest, ask
from gpuserve.client.reply import ChatEvent, ChatReply
from gpuserve.errors import EngineError, NetworkError, NotAuthenticated, NotFound
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.reach import reach, reach_fresh

Build = Callable[[Deployment], ChatRequest]


class Line:
    """The deployment that ``wanted`` means, and its endpoint.

    A remembered endpoint that doesn't answer is looked up again, once, as long as nothing was answered yet; so is one
    that answered before and is refused now, since a link may expire in the middle of a long conversation.

    Raises:
        NotFound, Conflict: no deployment, or several.
    """

    def __init__(self, context: Context, wanted: str | None) -> None:
        self._context = context
        self._wanted = wanted
        self.deployment, self._endpoint, self._unproven = reach(context, wanted)

    def ask(self, build: Build, *, emit: Callable[[ChatEvent], None]) -> ChatReply:
        """Asks. ``build`` makes the request once it is known whom it is for.

        Raises:
            EngineError, NetworkError, NotAuthenticated, NotFound, TimedOut: as ``client.chat.ask``.
        """
        answered = False

        def watch(event: ChatEvent) -> None:
            nonlocal answered
            answered = True
            emit(event)

        try:
            reply = ask(self._endpoint, build(self.deployment), emit=watch)
        except (NetworkError, NotAuthenticated, NotFound, EngineError) as error:
            if answered or not (self._unproven or isinstance(error, NotAuthenticated)) or not self._renew():
                raise
        else:
            self._unproven = False
            return reply
        return ask(self._endpoint, build(self.deployment), emit=emit)

    def _renew(self) -> bool:
        """Asks the platform for the endpoint. Says whether it is another one than before."""
        fresh, endpoint = reach_fresh(self._context, self._wanted or self.deployment.sandbox_id)
        changed = endpoint != self._endpoint
        self.deployment, self._endpoint, self._unproven = fresh, endpoint, False
        return changed
