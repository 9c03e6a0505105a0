"""Commands in a deployment's sandbox, and files in and out of it.

A command's stdout and stderr are kept apart and come as they are written, byte for byte: the platform's own ways merge
them, or decode them, or end with a connection. So a small script there writes them to files, which are read on from
where the last look ended; a look may therefore be repeated.
"""

from __future__ import annotations

import base64
import binascii
import shlex
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from gpuserve.errors import GpuserveError, NotFound, PlatformError, UsageError
from gpuserve.sandboxes.script import as_command
from gpuserve.sandboxes.translate import CALL_TIMEOUT, repeated, translated

if TYPE_CHECKING:
    from io import IOBase
    from typing import BinaryIO

    from daytona import Sandbox

#: Most bytes of one stream that a look brings.
CHUNK = 256 << 10
#: Seconds within which a whole file must have passed.
COPY_TIMEOUT = 24 * 3600

# Kept as text in the session's command. "$@" runs in a subshell, so that a command called `exit` can't end the script
# before it has written the code; `note` finds the process group, by which the command and its children are ended.
_RUN = r"""
d=$1 w=$2; shift 2
note() { read -r stat </proc/self/stat && set -- ${stat##*) } && echo "$3" >"$d/group"; }
note 2>/dev/null; echo $$ >"$d/pid"
OPENAI_API_KEY=${OPENAI_API_KEY:-${VLLM_API_KEY:-${LLAMA_API_KEY:-EMPTY}}}; export OPENAI_API_KEY
if [ -z "$w" ] || cd -- "$w" 2>"$d/err"; then ( "$@" ) >"$d/out" 2>"$d/err" <"$d/in"
else false; fi
echo $? >"$d/code.new" && mv "$d/code.new" "$d/code"
"""
# Waits up to 2 s for something new. The code is read before the streams: what was written before it is then all there.
_LOOK = r"""
d=%(at)s; i=0
size() { wc -c <"$d/$1" 2>/dev/null || echo 0; }
alive() { p=$(cat "$d/pid" 2>/dev/null) || return 0; kill -0 "$p" 2>/dev/null; }
while [ $i -lt 20 ] && [ ! -f "$d/code" ] && [ "$(size out)" -le %(out)d ] && [ "$(size err)" -le %(err)d ]; do
  [ -d "$d" ] && alive || break
  sleep 0.1 2>/dev/null || sleep 1; i=$((i+1))
done
c=$(cat "$d/code" 2>/dev/null); a=dead
[ -d "$d" ] && alive && a=alive
echo "$a:$c"
tail -c +$((%(out)d+1)) "$d/out" 2>/dev/null | head -c %(chunk)d | base64 | tr -d '\n'; echo
tail -c +$((%(err)d+1)) "$d/err" 2>/dev/null | head -c %(chunk)d | base64 | tr -d '\n'; echo
"""
_END = r"""
d=%(at)s
if [ ! -f "$d/code" ] && g=$(cat "$d/group" 2>/dev/null); then
  kill -TERM -- "-$g" 2>/dev/null; i=0
  while [ $i -lt 20 ] && kill -0 -- "-$g" 2>/dev/null; do sleep 0.1 2>/dev/null || sleep 1; i=$((i+1)); done
  kill -KILL -- "-$g" 2>/dev/null
fi
rm -rf -- "$d"
"""
_KIND = r"""
p=%s
if [ -d "$p" ]; then echo dir; elif [ -e "$p" ]; then echo file; elif [ -d "$(dirname -- "$p")" ]; then echo new
else echo nowhere; fi
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a command has written since the last look; ``code`` is its exit code, None while it runs."""

    out: bytes
    err: bytes
    code: int | None = None


class Inside:
    """One sandbox, seen from within. What may be repeated is, for ``patience`` seconds."""

    def __init__(self, sandbox: Sandbox, *, patience: float) -> None:
        self._sandbox = sandbox
        self._patience = patience

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str = "", files: _Files = ()) -> Command:
        """Starts ``argv``, which isn't read by a shell; "" for ``cwd`` is where the sandbox's commands start.

        ``files`` are names and contents put beside it; ``in`` is its stdin, ``{}`` in ``argv`` their directory.

        Raises:
            GpuserveError: the sandbox can't be asked.
        """
        at = self._shell('d=$(mktemp -d "${HOME:-/tmp}/.gpuserve-XXXXXXXX") && : >"$d/in" && echo "$d"').strip()
        if not at.startswith("/"):
            raise PlatformError("no directory can be made in the sandbox", hint="is its disk full?")
        command = Command(self._sandbox, at, self._patience)
        try:
            for name, content in files:
                with translated("sending the input"):
                    self._sandbox.fs.upload_file(content, f"{at}/{name}", timeout=COPY_TIMEOUT)
            pairs = [f"{name}={value}" for name, value in env.items()]
            given = [word.replace("{}", at) for word in argv] if files else argv
            command.launch(shlex.join(["env", *pairs, "sh", "-c", _RUN, "gpuserve", at, cwd, *given]))
        except BaseException:
            command.end()
            raise
        return command

    def kind(self, path: str) -> str:
        """What ``path`` is there: "dir", "file", "new" (its directory exists) or "nowhere"."""
        return self._shell(_KIND % shlex.quote(path)).strip()

    def size(self, path: str) -> int:
        """Bytes of a file.

        Raises:
            NotFound: there is none.
        """
        with translated(f"looking at {path}"):
            return int(self._sandbox.fs.get_file_info(path, request_timeout=CALL_TIMEOUT).size)

    def upload(self, source: BinaryIO, path: str, mode: int, progress: Callable[[int], None]) -> None:
        """Copies ``source`` to the file ``path``: whole, or not at all. ``progress`` gets the bytes sent so far.

        Raises:
            GpuserveError: it could not be copied; an older file is as it was.
        """
        part = f"{path}.{uuid.uuid4().hex[:8]}.part"
        try:
            with translated(f"copying to {path}"), _over_http(f"copying to {path}"):
                self._sandbox.fs.upload_file_stream(
                    cast("IOBase", source),
                    part,
                    timeout=COPY_TIMEOUT,
                    on_progress=lambda done: progress(done.bytes_sent),
                )
            old, new = shlex.quote(part), shlex.quote(path)
            self._shell(f"chmod {mode:o} {old} && mv -f -- {old} {new}", must=f"{path} can't be written")
        except BaseException:
            self._forget(part)
            raise

    def download(self, path: str, progress: Callable[[int], None]) -> Iterator[bytes]:
        """The bytes of the file ``path`` as they come; ``progress`` gets how many came so far."""
        with translated(f"copying {path}"), _over_http(f"copying {path}"):
            yield from self._sandbox.fs.download_file_stream(
                path, timeout=COPY_TIMEOUT, on_progress=lambda done: progress(done.bytes_received)
            )

    def _forget(self, path: str) -> None:
        with suppress(GpuserveError):  # an unfinished file, in a sandbox that can't be asked: what failed is told
            self._shell(f"rm -f -- {shlex.quote(path)}")

    def _shell(self, script: str, *, must: str = "") -> str:
        with translated("running a command in the sandbox"):
            answer = self._sandbox.process.exec(as_command(script), timeout=CALL_TIMEOUT)
        if must and answer.exit_code:
            raise UsageError(f"{must}: {(answer.result or '').strip() or 'no reason given'}")
        return answer.result or ""


class Command:
    """A command that runs in the sandbox."""

    def __init__(self, sandbox: Sandbox, at: str, patience: float) -> None:
        self._sandbox = sandbox
        self._at = at
        self._patience = patience
        self._session = at.rsplit("/", 1)[-1].lstrip(".")
        self._read = [0, 0]
        self._dead = 0

    def launch(self, line: str) -> None:
        """Starts the line in a session of its own."""
        from daytona import SessionExecuteRequest

        with translated("starting the command"):
            self._sandbox.process.create_session(self._session, request_timeout=CALL_TIMEOUT)
            request = SessionExecuteRequest(command=line, run_async=True)
            self._sandbox.process.execute_session_command(self._session, request, timeout=CALL_TIMEOUT)

    def pieces(self) -> Iterator[Piece]:
        """What it writes, as it writes it, up to its exit code.

        Raises:
            NotFound: the sandbox is gone.
            PlatformError: it was ended from outside and has no exit code.
        """
        while True:
            piece = repeated(self._look, patience=self._patience)
            yield piece
            if piece.code is not None:
                return

    def _look(self) -> Piece:
        known = {"at": shlex.quote(self._at), "out": self._read[0], "err": self._read[1], "chunk": CHUNK}
        with translated("reading the command's output"):
            answer = self._sandbox.process.exec(as_command(_LOOK % known), timeout=CALL_TIMEOUT)
        head, out, err = _parse(answer.result or "")
        self._read[0] += len(out)
        self._read[1] += len(err)
        state, _, code = head.partition(":")
        if code:  # a full piece may have more behind it
            whole = max(len(out), len(err)) < CHUNK
            return Piece(out, err, int(code) if whole else None)
        self._dead = self._dead + 1 if state == "dead" and not (out or err) else 0
        if self._dead > 1:
            raise _Lost("the command was ended from outside: it has no exit code")
        return Piece(out, err)

    def end(self) -> None:
        """Ends whatever of it still runs, and clears up. It never raises: the sandbox may be gone."""
        from daytona.common.errors import DaytonaError

        for call in (
            lambda: self._sandbox.process.exec(as_command(_END % {"at": shlex.quote(self._at)}), timeout=CALL_TIMEOUT),
            lambda: self._sandbox.process.delete_session(self._session, request_timeout=CALL_TIMEOUT),
        ):
            try:
                call()
            except DaytonaError:
                continue


class _Lost(NotFound):
    """The command is gone without a word; asking again would tell nothing new."""


def _parse(text: str) -> tuple[str, bytes, bytes]:
    lines = text.splitlines()
    try:
        head, out, err = (*lines, "", "")[:3] if lines else ("", "", "")
        return head, base64.b64decode(out, validate=True), base64.b64decode(err, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PlatformError("the sandbox's answer can't be read", hint="does its image have sh and base64?") from error


class _over_http:  # noqa: N801  # used like a function
    """The SDK's file streams speak httpx themselves and let its errors through."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import httpx

        from gpuserve.errors import NetworkError

        if isinstance(error, httpx.HTTPError):
            raise NetworkError(f"the connection broke (while {self._doing}): {error}", hint="try again") from error


_Files = Sequence[tuple[str, bytes]]
