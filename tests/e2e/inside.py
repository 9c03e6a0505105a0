"""The command line run in the test's own process: the SDK, whose import takes a second, is imported once for all."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from unittest.mock import patch

from e2e.usershell import Done, Shell


@dataclass
class Inside(Shell):
    """A user's shell as ``Shell``, for tests of what is said and done; ``start`` still starts a process."""

    def run(self, *argv: str, stdin: str = "", env: dict[str, str] | None = None, timeout: float = 0) -> Done:  # noqa: ARG002
        from gpuserve.cli.main import run

        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, {**self.env, **(env or {})}, clear=True),
            contextlib.chdir(self.home),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            patch.object(sys, "stdin", io.StringIO(stdin)),
        ):
            status = run(list(argv))
        return Done(status, out.getvalue(), err.getvalue())


def inside(shell: Shell) -> Inside:
    """The same user at the same host, without a process for each command."""
    return Inside(shell.home, shell.env, shell.started)
