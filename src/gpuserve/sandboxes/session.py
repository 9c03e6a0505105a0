"""An engine's process in a sandbox: started once, watched until it ends."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

from gpuserve.errors import Conflict, NotFound, TimedOut
from gpuserve.redaction import secret_values
from gpuserve.sandboxes import keyfile, labels
from gpuserve.sandboxes.script import as_command
from gpuserve.sandboxes.stream import Connect, Inbox, LogStream
from gpuserve.sandboxes.translate import CALL_TIMEOUT, translated

if TYPE_CHECKING:
    from daytona import Sandbox

_STDOUT, _STDERR = "\x01\x01\x01", "\x02\x02\x02"

# The session's shell leads a process group, which its commands stay in. The first line below, run in that shell, notes
# the group; the script, run beside it, says whether anything but zombies is left in it. Names and environments would
# not do: engines give their processes other titles, which overwrites both. Fields as in proc(5).
_NOTE = 'cat /proc/self/stat >"${HOME:-/tmp}"/%s 2>/dev/null\n'
_EACH = r"""
read -r stat 2>/dev/null <"${HOME:-/tmp}"/%%s || stat=
set -- ${stat##*) }
[ -n "$4" ] || { echo unknown; exit 0; }
group=$3 session=$4
for file in /proc/[0-9]*/stat; do
  { read -r stat <"$file"; } 2>/dev/null || continue
  set -- ${stat##*) }
  case "$1" in Z|X) continue;; esac
  if [ "$3" = "$group" ] || [ "$4" = "$session" ]; then %s; fi
done
echo dead
"""
_LOOK = _EACH % "echo alive; exit 0"
_KILL = _EACH % 'id=${file#/proc/}; kill -KILL "${id%%/stat}" 2>/dev/null'
#: Seconds within which an engine that is ended must be gone.
END_TIMEOUT = 30.0


def strip_markers(raw: str) -> str:
    """The log without the three bytes that tell, at the start of each line, which stream it came from."""
    return raw.replace(_STDOUT, "").replace(_STDERR, "")


class EngineSession:
    """The shell session that an engine runs in.

    Commands are plain: never a top-level ``exit`` or ``exec``, which end the session's shell so that no exit
    code is ever reported.
    """

    def __init__(self, sandbox: Sandbox, name: str, command_id: str = "", *, connect: Connect | None = None) -> None:
        self._sandbox = sandbox
        self._connect = connect
        self._process = sandbox.process
        self._name = name
        self.command_id = command_id

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets of the engine's environment and its own key, which an engine may well print into its log."""
        key = self.key()
        return (*secret_values(self._sandbox.env or {}), *((key,) if key else ()))

    def key(self) -> str:
        """The key that the engine checks; "" if it checks none."""
        return keyfile.read(self._sandbox) if self._sandbox.labels.get(labels.KEY) == "yes" else ""

    def launch(self, command: str, *, key: str = "") -> bool:
        """Starts ``command`` unless the session already runs one. Says whether it started it.

        ``key`` is the engine's own, put where the command finds it, unless one is there already ("" for none).
        Two callers at once start it once: the session's name is taken by the first.
        """
        try:
            with translated("creating the engine's session"):
                self._process.create_session(self._name, request_timeout=CALL_TIMEOUT)
        except Conflict:
            if self.attach(patience=5.0):
                return False
        if key:
            keyfile.keep(self._sandbox, key)
        self._execute(_NOTE % self._note + command)
        return True

    def _execute(self, text: str) -> None:
        from daytona import SessionExecuteRequest

        with translated("starting the engine"):
            answer = self._process.execute_session_command(
                self._name, SessionExecuteRequest(command=text, run_async=True), timeout=CALL_TIMEOUT
            )
        self.command_id = answer.cmd_id

    def restart(self, *, key: str) -> None:
        """Ends the engine and starts the same command anew, with ``key`` for its own.

        Raises:
            NotFound: no engine was ever started here.
            TimedOut: the engine's processes don't end. Nothing was started then.
        """
        with translated("looking for the engine's command"):
            commands = self._process.get_session(self._name, request_timeout=CALL_TIMEOUT).commands
        if not commands:
            raise NotFound("no engine was started in this sandbox", hint="gpuserve status")
        keyfile.replace(self._sandbox, key)
        with translated("ending the engine"):
            self._process.delete_session(self._name, request_timeout=CALL_TIMEOUT)
        self._end_all()
        with translated("creating the engine's session"):
            self._process.create_session(self._name, request_timeout=CALL_TIMEOUT)
        self._execute(commands[-1].command)

    def _end_all(self) -> None:
        """Until nothing of the engine is left; what outlives its session is killed."""
        deadline = time.monotonic() + END_TIMEOUT
        while self.alive():
            if time.monotonic() > deadline:
                raise TimedOut("the engine's processes don't end", hint="gpuserve status; gpuserve down deletes it all")
            with translated("ending the engine's processes"):
                self._process.exec(as_command(_KILL % self._note), timeout=CALL_TIMEOUT)
            time.sleep(0.2)

    @property
    def _note(self) -> str:
        return shlex.quote(f".{self._name}.stat")

    def attach(self, *, patience: float = 0.0) -> bool:
        """Finds the command that the session runs; False if there is none within ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while True:
            if self._find_command():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)

    def _find_command(self) -> bool:
        try:
            with translated("looking for the engine's session"):
                commands = self._process.get_session(self._name, request_timeout=CALL_TIMEOUT).commands
        except NotFound:
            return False
        if commands:
            self.command_id = commands[-1].id
        return bool(commands)

    def log(self) -> str:
        """The whole log so far, markers stripped. The platform has no offsets: each call reads it all."""
        return self.sized_log()[0]

    def sized_log(self) -> tuple[str, int]:
        """``log()``, and the bytes of text that the answer held: the log comes marked and, again, stream by stream."""
        with translated("reading the engine's log"):
            logs = self._process.get_session_command_logs(self._name, self.command_id, request_timeout=CALL_TIMEOUT)
        parts = (logs.output or "", logs.stdout or "", logs.stderr or "")
        return strip_markers(parts[0]), sum(len(part.encode("utf-8", "replace")) for part in parts)

    def stream(self, inbox: Inbox) -> LogStream | None:
        """Begins to put the log into ``inbox`` as it is written; None where no client for that was given."""
        if self._connect is None:
            return None
        return LogStream(self._connect, self._sandbox.id, self._name, self.command_id, inbox)

    def alive(self) -> bool | None:
        """Whether any process of the engine or of its shell is left; None where that can't be told.

        False while there is no exit code means that none will ever come: the session's shell died with the engine.
        """
        with translated("looking for the engine's processes"):
            answer = self._process.exec(as_command(_LOOK % self._note), timeout=CALL_TIMEOUT)
        return {"alive": True, "dead": False}.get((answer.result or "").strip())

    def exit_code(self) -> int | None:
        """The engine's exit code; None while it runs, or if its shell died before it could say.

        Raises:
            NotFound: the session is gone, and so is the engine.
        """
        with translated("asking whether the engine still runs"):
            command = self._process.get_session_command(self._name, self.command_id, request_timeout=CALL_TIMEOUT)
        return None if command.exit_code is None else int(command.exit_code)
