"""A folder in a sandbox with a program of ours in it: files go in and out, and it runs on when this machine goes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpuserve.errors import Conflict, NotFound
from gpuserve.sandboxes.script import printed
from gpuserve.sandboxes.translate import CALL_TIMEOUT, repeated, translated

if TYPE_CHECKING:
    from daytona import Sandbox

#: Seconds within which a file must be carried.
CARRY_TIMEOUT = 1800
_FOLDER = "gpuserve/batch"


class Workshop:
    """The folder ``name`` in a sandbox's home, and the session of that name that the program runs in."""

    def __init__(self, sandbox: Sandbox, name: str, *, patience: float) -> None:
        self._sandbox, self._name, self._patience = sandbox, name, patience
        self.folder = self._shell(f'mkdir -p "$HOME"/{_FOLDER}/{name} && cd "$HOME"/{_FOLDER}/{name} && pwd -P')

    def _shell(self, script: str) -> str:
        return printed(self._sandbox, script, where="the sandbox", patience=self._patience, hint="gpuserve status")

    def python(self, candidates: tuple[str, ...], test: str) -> str:
        """The first of ``candidates`` that runs the Python program ``test`` without failing; "" if none does."""
        tries = " ".join(shlex.quote(one) for one in candidates)
        script = (
            f'for one in {tries}; do "$one" -c {shlex.quote(test)} >/dev/null 2>&1 && echo "$one" && break; done; true'
        )
        return self._shell(script)

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where there is none."""
        return int(self._shell(f"[ -f {self._path(name)} ] && wc -c < {self._path(name)} || echo 0"))

    def text(self, name: str) -> str:
        """A small file; "" where there is none."""
        return self._shell(f"cat {self._path(name)} 2>/dev/null || true")

    def _path(self, name: str) -> str:
        return shlex.quote(f"{self.folder}/{name}")

    def put(self, source: str | bytes, name: str) -> None:
        """Carries a file (its path here, or its bytes) into the folder."""

        def once() -> None:
            with translated(f"uploading {name}"):
                self._sandbox.fs.upload_file(source, f"{self.folder}/{name}", timeout=CARRY_TIMEOUT)

        repeated(once, patience=self._patience)

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file of the folder, piece by piece."""
        with translated(f"downloading {name}"):
            yield from self._sandbox.fs.download_file_stream(f"{self.folder}/{name}", timeout=CARRY_TIMEOUT)

    def running(self) -> bool:
        """Whether the program that was started last hasn't ended."""

        def once() -> bool:
            with translated("looking for the session of the batch"):
                session = self._sandbox.process.get_session(self._name, request_timeout=CALL_TIMEOUT)
            return bool(session.commands) and session.commands[-1].exit_code is None

        try:
            return repeated(once, patience=self._patience)
        except NotFound:
            return False

    def start(self, command: str) -> None:
        """Starts ``command`` in the folder; it belongs to the sandbox from then on."""
        from daytona import SessionExecuteRequest

        try:
            with translated("creating the session of the batch"):
                self._sandbox.process.create_session(self._name, request_timeout=CALL_TIMEOUT)
        except Conflict:
            pass  # an earlier run made it, and its program has ended
        with translated("starting the batch"):
            request = SessionExecuteRequest(command=f"cd {shlex.quote(self.folder)} && {command}", run_async=True)
            self._sandbox.process.execute_session_command(self._name, request, timeout=CALL_TIMEOUT)

    def output(self) -> str:
        """The end of what the program printed, which it does only where something is wrong."""
        with translated("reading what the batch printed"):
            session = self._sandbox.process.get_session(self._name, request_timeout=CALL_TIMEOUT)
            logs = self._sandbox.process.get_session_command_logs(
                self._name, session.commands[-1].id, request_timeout=CALL_TIMEOUT
            )
        return (logs.stderr or logs.stdout or "").strip()[-500:]

    def clear(self) -> None:
        """Deletes the folder and the session."""
        self._shell(f"rm -rf {shlex.quote(self.folder)}")
        try:
            with translated("deleting the session of the batch"):
                self._sandbox.process.delete_session(self._name, request_timeout=CALL_TIMEOUT)
        except NotFound:
            pass
