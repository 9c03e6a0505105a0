"""Short shell scripts, run in a sandbox by its toolbox."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from gpuserve.errors import PlatformError
from gpuserve.sandboxes.translate import CALL_TIMEOUT, repeated, translated

if TYPE_CHECKING:
    from daytona import Sandbox


def as_command(script: str) -> str:
    """``script`` as a command that the toolbox runs: a script for ``sh``, whatever shell the sandbox has."""
    return "sh -c " + shlex.quote(script)


def printed(sandbox: Sandbox, script: str, *, where: str, patience: float, hint: str = "") -> str:
    """What a short script prints. It may be run twice, for ``patience`` seconds; ``where`` names the sandbox.

    Raises:
        PlatformError: it failed, with ``hint``.
    """

    def once() -> str:
        with translated(f"running a command in {where}"):
            answer = sandbox.process.exec(as_command(script), timeout=CALL_TIMEOUT)
        if answer.exit_code != 0:
            raise PlatformError(f"a command in {where} failed: {answer.result}", hint=hint)
        return (answer.result or "").strip()

    return repeated(once, patience=patience)
