"""``logs``: an engine's log from the platform, or the copy that was saved here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from gpuserve.errors import NotFound, UsageError
from gpuserve.records import Deployment
from gpuserve.redaction import Redactor
from gpuserve.sandboxes.session import EngineSession
from gpuserve.sandboxes.translate import repeated
from gpuserve.serving.context import Context
from gpuserve.serving.enginelog import LogFile, Tail
from gpuserve.serving.find import find

#: Seconds between two questions whether a followed engine still runs, and between two looks at what it wrote.
LOOK_EVERY, SHOW_EVERY = 2.0, 0.1

# vLLM stamps "INFO 11-22 04:05:06 [file.py:1]", SGLang "[2026-11-22 04:05:06]".
_STAMP = re.compile(
    r"^(?:\([^)]*\)\s+)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) |\[)"
    r"(?:(?P<year>\d{4})-)?(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d)"
)


def saved_log(context: Context, name: str) -> Path | None:
    """The copy of ``name``'s log on this machine, if there is one."""
    path = context.log_path(Path(name).name)
    return path if path.is_file() else None


def read(context: Context, wanted: str | None) -> tuple[str, str]:
    """The whole log so far, secrets taken out, and where it comes from: "" (the platform) or the saved file.

    Raises:
        NotFound: no such deployment, and no saved log either.
    """
    try:
        deployment = find(context, wanted)
    except NotFound:
        path = saved_log(context, wanted) if wanted else None
        if path is None:
            raise
        return path.read_text(encoding="utf-8", errors="replace"), str(path)
    session, redact, patience = _attached(context, deployment)
    return redact(repeated(session.log, patience=patience)), ""


def follow(
    context: Context, wanted: str | None, write: Callable[[str], None], *, skip: Callable[[str], str]
) -> int | None:
    """Writes the log as it grows until the engine ends; ``skip`` chooses what of the log so far is shown.

    Returns the engine's exit code, None if it or its sandbox vanished without one.
    """
    session, redact, _ = _attached(context, find(context, wanted))
    tail = Tail(session, LogFile(None, redact), look_every=LOOK_EVERY)
    write(skip(redact(tail.feed.snapshot())))
    with tail:
        while not tail.ended.wait(SHOW_EVERY):
            write("".join(tail.drain()))
        write("".join(tail.drain()))
    if tail.error is not None:
        raise tail.error
    return tail.exit_code


def _attached(context: Context, deployment: Deployment) -> tuple[EngineSession, Redactor, float]:
    """The deployment's running session, what takes the secrets out of its log, and how long to bear with failures."""
    sandboxes = context.sandboxes(deployment.place)
    session = sandboxes.session(deployment)
    if not repeated(session.attach, patience=sandboxes.patience):
        raise NotFound(f"{deployment.name} has started no engine yet", hint="gpuserve status")
    return session, Redactor((*context.settings.secrets, *session.secrets)), sandboxes.patience


def last_lines(text: str, count: int | None) -> str:
    """The last ``count`` lines of ``text``; all of them for None."""
    if count is None:
        return text
    return "".join(text.splitlines(keepends=True)[-count:]) if count else ""


def since(text: str, seconds: int, *, now: datetime | None = None, zone: tzinfo | None = UTC) -> str:
    """The lines written within the last ``seconds``, by the engine's own time stamps.

    A line without one belongs to the stamped line before it. ``zone`` is the sandbox's; None means this machine's.

    Raises:
        UsageError: the log carries no time stamps.
    """
    moment = now or datetime.now(UTC)
    earliest = moment - timedelta(seconds=seconds)
    lines = text.splitlines(keepends=True)
    stamps = [_stamp(line, moment, zone) for line in lines]
    if lines and not any(stamps):
        raise UsageError("this engine's log carries no times", hint="use --tail N instead of --since")
    return "".join(lines[_first_since(stamps, earliest) :])


def _first_since(stamps: Sequence[datetime | None], earliest: datetime) -> int:
    for index, stamp in enumerate(stamps):
        if stamp is not None and stamp >= earliest:
            return index
    return len(stamps)


def _stamp(line: str, now: datetime, zone: tzinfo | None) -> datetime | None:
    found = _STAMP.match(line)
    if not found:
        return None
    year = found["year"] or str(now.year)
    try:
        naive = datetime.fromisoformat(f"{year}-{found['month']}-{found['day']} {found['clock']}")
    except ValueError:
        return None
    stamp = naive.astimezone() if zone is None else naive.replace(tzinfo=zone)
    if not found["year"] and stamp > now + timedelta(days=1):  # last year's December, read in January
        stamp = stamp.replace(year=stamp.year - 1)
    return stamp
