"""Tools that run what a model writes in a sandbox of the conversation's own, and conversations with tools."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from gpuserve.client.chat import ChatRequest
from gpuserve.client.functions import tool_spec
from gpuserve.client.reply import ChatEvent, ChatReply
from gpuserve.client.tools import Conversation, Limits, Loop, Message, Toolbox, ToolError, ToolEvent, ignore
from gpuserve.errors import GpuserveError, NetworkError, PlatformError, TimedOut, UsageError
from gpuserve.records import Deployment
from gpuserve.sandboxes.create import Creation
from gpuserve.sandboxes.workroom import Network, Ran, Room, Workroom
from gpuserve.serving.context import Context
from gpuserve.serving.line import Build, Line

#: Seconds after which the platform deletes a conversation's sandbox, whatever happens.
DEFAULT_TTL = 3600
#: Seconds within which it must run.
CREATE_TIMEOUT = 120.0
#: How often in one conversation a sandbox that was lost is replaced.
REPLACEMENTS = 1

_STRING = {"type": "string"}


def _spec(name: str, description: str, parameter: str, meaning: str) -> Mapping[str, object]:
    schema = {
        "type": "object",
        "properties": {parameter: {**_STRING, "description": meaning}},
        "required": [parameter],
        "additionalProperties": False,
    }
    return tool_spec(name, description, schema)


RUN_PYTHON = _spec(
    "run_python",
    "Runs Python 3 code in a sandbox and returns what it prints. Each call starts a fresh interpreter; files stay.",
    "code",
    "The whole program. Print what you want to see.",
)
RUN_SHELL = _spec(
    "run_shell",
    "Runs a shell command in a sandbox and returns its output and exit code. Files stay from call to call.",
    "command",
    "The command line.",
)
_PARAMETERS = {"run_python": "code", "run_shell": "command"}


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """A conversation's sandbox: ``what`` is "created", "lost" or "deleted"."""

    what: str
    sandbox_id: str
    place: str


class SandboxTools:
    """``run_python`` and ``run_shell`` in a CPU sandbox, made at the first call, on the deployment's own platform.

    One that is lost is replaced once; the model is told that its files are gone. ``close`` deletes it.
    """

    def __init__(
        self,
        context: Context,
        deployment: Deployment,
        *,
        network: Network | None = None,
        ttl: int = DEFAULT_TTL,
        emit: Callable[[RoomEvent], None] = lambda _: None,
    ) -> None:
        self._sandboxes = context.sandboxes(deployment.place)
        self._owner = deployment.name
        self._network = Network() if network is None else network
        self._ttl = ttl
        self._emit = emit
        self._room: Workroom | None = None
        self._made = 0
        self._lock = threading.Lock()
        self._abandoned: list[str] = []

    @property
    def specs(self) -> Sequence[Mapping[str, object]]:
        """The two tools."""
        return (RUN_PYTHON, RUN_SHELL)

    def prepare(self, names: Sequence[str]) -> None:
        """Makes the sandbox if there is none.

        Raises:
            GpuserveError: it can't be made; nothing is left behind.
        """
        if self._room is None and self._made <= REPLACEMENTS and set(names) & set(_PARAMETERS):
            self._room = self._create()
            self._made += 1
            self._emit(RoomEvent("created", self._room.id, self._sandboxes.place.name))

    def _create(self) -> Workroom:
        room = Room(
            name=f"tools-{self._owner[:40]}-{secrets.token_hex(4)}",
            run_id=secrets.token_hex(6),
            owner=self._owner,
            ttl=self._ttl,
            network=self._network,
        )
        creation = self._sandboxes.start_room(room, timeout=CREATE_TIMEOUT)
        try:
            return Workroom(creation.wait(lambda _: None))
        except BaseException:
            self._undo(creation)
            raise

    def _undo(self, creation: Creation) -> None:
        made = creation.settle()
        if made is not None:
            self._sandboxes.delete(made.id)

    def call(self, name: str, arguments: Mapping[str, object], timeout: float) -> str:
        """Runs one call; see ``client.tools.Toolbox``.

        Raises:
            ToolError: the arguments are wrong, or the sandbox was lost.
            GpuserveError: as the platform says.
        """
        text = _argument(name, arguments)
        room = self._room
        if room is None:
            raise ToolError("the sandbox was lost and can't be replaced again; answer without it")
        try:
            ran = room.run_code(text, timeout) if name == "run_python" else room.run_shell(text, timeout)
        except TimedOut:
            raise
        except GpuserveError as error:
            if not self._lost(room):
                raise
            raise ToolError(self._loss()) from error
        return shown(ran)

    def _lost(self, room: Workroom) -> bool:
        """Whether the sandbox no longer runs. If so it isn't used again."""
        if self._sandboxes.state(room.id) in ("started", "unknown"):
            return False
        with self._lock:
            if self._room is room:
                self._room = None
                self._abandoned.append(room.id)
                self._emit(RoomEvent("lost", room.id, self._sandboxes.place.name))
        return True

    def _loss(self) -> str:
        if self._made > REPLACEMENTS:
            return "the sandbox was lost again, with all its files; there won't be another: answer without it"
        return "the sandbox was lost, with all its files; the next call runs in a new, empty one"

    def close(self) -> None:
        """Deletes the sandbox, and makes sure of it.

        Raises:
            GpuserveError: it may still exist; the platform deletes it at the end of its time to live.
        """
        room, self._room = self._room, None
        left = [*self._abandoned, *([room.id] if room else [])]
        self._abandoned = []
        for one in left:
            self._sandboxes.delete(one)
        if room:
            self._emit(RoomEvent("deleted", room.id, self._sandboxes.place.name))


def _argument(name: str, arguments: Mapping[str, object]) -> str:
    parameter = _PARAMETERS[name]
    text = arguments.get(parameter)
    if set(arguments) != {parameter} or not isinstance(text, str):
        raise ToolError(f"{name} takes one argument, {parameter}, which is text")
    return text


def shown(ran: Ran) -> str:
    """What the model is told of a run."""
    output = ran.output.rstrip("\n") or "(no output)"
    return output if ran.exit_code == 0 else f"{output}\n[exit code {ran.exit_code}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Who listens: to the pieces of answers, and to the calls. ``around`` wraps each round of calls."""

    chat: Callable[[ChatEvent], None]
    tools: Callable[[ToolEvent], None] = ignore
    around: Callable[[], AbstractContextManager[object]] = nullcontext


def converse(
    line: Line, build: Build, toolbox: Toolbox, *, hooks: Hooks, limits: Limits | None = None, choice: str = "auto"
) -> Conversation:
    """Asks over ``line`` and lets the model call tools until it answers. The toolbox is closed in any case.

    Where both the conversation and the closing fail, the first is raised, with the second's words as its hint.

    Raises:
        UsageError: ``choice`` names no tool.
        EngineError, NetworkError, NotAuthenticated, NotFound, TimedOut: as ``client.chat.ask``.
        GpuserveError: the tools can't be prepared, or not be closed.
    """

    def chat(messages: tuple[Message, ...], more: Mapping[str, object]) -> ChatReply:
        def request(deployment: Deployment) -> ChatRequest:
            first = build(deployment)
            return replace(first, prompt="", system="", messages=messages, extra={**first.extra, **more})

        return line.ask(request, emit=hooks.chat)

    loop = Loop(chat, toolbox, limits or Limits(), choice, hooks.tools, hooks.around)
    try:
        conversation = loop.run(build(line.deployment).conversation())
    except BaseException as error:
        _close_after(toolbox, error)
        raise
    toolbox.close()
    return conversation


def _close_after(toolbox: Toolbox, error: BaseException) -> None:
    try:
        toolbox.close()
    except (NetworkError, PlatformError, TimedOut, UsageError) as second:
        error.add_note(f"the tools' sandbox may still exist: {second.message}")
        if isinstance(error, GpuserveError):
            error.hint = f"{error.hint}; the tools' sandbox may still exist until its time is up: {second.message}"
