"""``gpuserve chat``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.answer import read_images, reply_dict
from gpuserve.cli.command import Id, Run, command
from gpuserve.cli.output import plain
from gpuserve.cli.typed import Message, Order, entries, reader
from gpuserve.errors import GpuserveError, Interrupted, UsageError

if TYPE_CHECKING:
    from gpuserve.cli.markdown import MarkdownView
    from gpuserve.client.chat import ChatRequest
    from gpuserve.client.conversation import History
    from gpuserve.client.reply import ChatEvent, ChatReply
    from gpuserve.records import Deployment
    from gpuserve.serving.line import Line

EPILOG = (
    "Examples: gpuserve chat · gpuserve chat gpt-oss-20b-7f3c --system 'Answer in rhymes.' · "
    "printf 'My name is Ada.\\nWhat is my name?\\n' | gpuserve chat. "
    'A line that ends in \\ goes on in the next; """ begins and ends a message of several lines; /help lists the '
    "commands. Through a pipe every line is a message, in the same way; the first that fails ends it. "
    "With --json: a line {reply: …} for each answer, then {data: {turns, messages}}."
)
HELP = """\
/system TEXT   set the system prompt; without TEXT, show it; /system none drops it
/image FILE    send an image, by its file or address, with the next message
/stats         times and tokens of the last answer
/save FILE     write the conversation: JSON where FILE ends in .json, Markdown otherwise
/clear         forget the conversation, but not the system prompt
/help          this list
/exit          leave, as Ctrl-D does; Ctrl-C stops an answer
A line that ends in \\ goes on in the next. A message of several lines stands between \"\"\" and \"\"\".
A message that begins with / is typed with two: //etc is a directory."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="chat", epilog=EPILOG)(chat)


def chat(
    run: Run,
    which: Id = None,
    system: Annotated[str, typer.Option("--system", "-s", help="System prompt.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Sampling temperature.")] = None,
    reasoning_effort: Annotated[str | None, typer.Option(help="none, low, medium or high.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="File or address of an image for the first message; may be repeated.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown/--plain", help="Draw answers as markdown, on a terminal.")
    ] = True,
) -> None:
    """Hold a conversation with a model.

    Answers go to stdout, everything else to stderr. Ctrl-C stops an answer, Ctrl-D ends the conversation.
    """
    from gpuserve.client.chat import ChatRequest
    from gpuserve.client.conversation import History
    from gpuserve.serving.ask import check_vision
    from gpuserve.serving.line import Line
    from gpuserve.serving.reasoning import effort_for, opens_thinking

    images = read_images(image)

    def build(deployment: Deployment, messages: tuple[object, ...]) -> ChatRequest:
        effort = effort_for(deployment.engine, deployment.model, reasoning_effort)
        return ChatRequest(
            messages=messages,  # type: ignore[arg-type]  # those of ``History``
            max_tokens=max_tokens,
            temperature=temperature,
            thinks=opens_thinking(deployment.model),
            extra=effort.body,
        )

    person = sys.stdin is not None and sys.stdin.isatty() and not run.output.as_json
    line = Line(run.context, which)
    if images:
        check_vision(line.deployment.model)
    talk = Talk(run, line, History(system), build, person=person, markdown=markdown, images=list(images))
    if person:
        run.output.say("chat", f"{line.deployment.served_model} on {line.deployment.name}; /help, Ctrl-D to leave")
    talk.go_on()
    run.output.data({"turns": talk.turns, "messages": [dict(one) for one in talk.history.messages()]})


@dataclass
class Talk:
    """One conversation at the command line. ``turns`` counts the answers; ``images`` go with the next message."""

    run: Run
    line: Line
    history: History
    build: Callable[[Deployment, tuple[object, ...]], ChatRequest]
    person: bool
    markdown: bool
    turns: int = 0
    last: ChatReply | None = None
    saved: set[Path] = field(default_factory=set)
    images: list[str] = field(default_factory=list)

    def go_on(self) -> None:
        """Takes messages and commands until there are no more.

        Raises:
            GpuserveError: an answer failed, and no person is there to try another.
        """
        for entry in entries(reader(prompt=self.person)):
            try:
                if isinstance(entry, Message):
                    self.say(self._with_images(entry.text))
                elif not self.obey(entry):
                    return
            except GpuserveError as error:
                if not self.person:
                    raise
                self._tell("error", error.message + (f" ({error.hint})" if error.hint else ""))
        if self.person:
            self.run.output.raw("\n")

    def _with_images(self, text: str) -> object:
        from gpuserve.client.chat import content_of

        images, self.images = self.images, []
        return content_of(text, images)

    def say(self, content: object) -> None:
        """Asks, shows the answer, and keeps both. An answer that is stopped is kept as far as it came.

        ``content`` is text, or parts as the OpenAI API writes them, such as a picture and what is asked of it.
        """
        messages = self.history.asked(content)
        answer = Answer(self.run, drawn=self.markdown)
        try:
            self.last = self.line.ask(lambda deployment: self.build(deployment, messages), emit=answer.draw)
        except KeyboardInterrupt:
            answer.close()
            if not self.person:
                raise Interrupted("interrupted") from None
            self._tell("stopped", "the answer is kept as far as it came" if answer.text else "nothing was answered")
            if answer.text:
                self.history.answered(content, answer.text)
            return
        finally:
            answer.close()
        self.history.answered(content, self.last.content)
        self.turns += 1
        if self.run.output.as_json:
            self.run.output.line({"reply": reply_dict(self.last)})
        if self.last.truncated_by_reasoning:
            self.run.output.warn("the model used up --max-tokens on reasoning and gave no answer")

    def obey(self, order: Order) -> bool:
        """Carries out a command. False if it ends the conversation.

        Raises:
            UsageError: there is no such command, or it can't be done.
        """
        if order.name in ("exit", "quit", "bye"):
            return False
        doing = {"system": self._system, "stats": self._stats, "save": self._save, "clear": self._clear}
        doing["image"] = self._image
        if order.name in ("help", "?", ""):
            self._tell("help", HELP)
        elif order.name in doing:
            doing[order.name](order.rest)
        else:
            raise UsageError(f"no command /{order.name}", hint="/help lists them; a message that begins with /: //")
        return True

    def _system(self, text: str) -> None:
        if text:
            self.history.system = "" if text == "none" else text
        self._tell("system", self.history.system or "none")

    def _image(self, name: str) -> None:
        from gpuserve.serving.ask import check_vision

        if not name:
            raise UsageError("no image named", hint="/image photo.png")
        check_vision(self.line.deployment.model)
        self.images += read_images([name])
        self._tell("image", f"{len(self.images)} to send with the next message")

    def _stats(self, _: str) -> None:
        from gpuserve.client.stats import stats_line

        self._tell("stats", stats_line(self.last) if self.last else "nothing was answered yet")

    def _clear(self, _: str) -> None:
        self.history.clear()
        self._tell("cleared", "the model knows nothing of what was said")

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("no file named", hint="/save talk.md")
        path = Path(name).expanduser()
        if path.exists() and path.resolve() not in self.saved:
            raise UsageError(f"{path} exists", hint="choose another name")
        self.history.save(path)
        self.saved.add(path.resolve())
        self._tell("saved", str(path))

    def _tell(self, label: str, text: str) -> None:
        """A remark that was asked for: said even with ``--quiet``."""
        self.run.output.remark(label, text)


class Answer:
    """Shows one answer as it comes: reasoning dimmed on stderr, content on stdout. ``text`` is the content so far."""

    def __init__(self, run: Run, *, drawn: bool) -> None:
        self._output = run.output
        self._terminal = sys.stdout.isatty()
        self._dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self._view = self._make_view() if drawn and self._may_draw() else None
        self._thinking = False
        self._pieces: list[str] = []
        self._open = True

    def _may_draw(self) -> bool:
        return self._terminal and not self._output.as_json and os.environ.get("TERM", "dumb") != "dumb"

    def _make_view(self) -> MarkdownView:
        from gpuserve.cli.markdown import MarkdownView

        return MarkdownView(self._output.console(to_stdout=True))

    @property
    def text(self) -> str:
        """What was answered so far."""
        return "".join(self._pieces)

    def draw(self, event: ChatEvent) -> None:
        """Shows one piece."""
        from gpuserve.client.reply import ContentDelta, ReasoningDelta

        if isinstance(event, ReasoningDelta):
            self._think(plain(event.text))
        elif isinstance(event, ContentDelta):
            self._end_thinking()
            self._pieces.append(event.text)
            self._show(event.text)

    def _show(self, text: str) -> None:
        if self._output.as_json:
            return
        if self._view:
            self._view.add(text)
        else:
            self._output.write(plain(text) if self._terminal else text)

    def _think(self, text: str) -> None:
        if self._output.as_json or self._output.quiet:
            return
        if self._view and self._pieces:
            self._view.close()
        self._thinking = True
        self._output.raw(f"\x1b[2m{text}\x1b[0m" if self._dim else text)

    def _end_thinking(self) -> None:
        if self._thinking:
            self._output.raw("\n")
            self._thinking = False

    def close(self) -> None:
        """Ends the last line."""
        if not self._open:
            return
        self._open = False
        self._end_thinking()
        if self._view:
            self._view.close()
        elif self._pieces and not self._output.as_json:
            self._output.write("\n")
