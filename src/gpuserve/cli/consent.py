"""Asking before something that can't be taken back: a question on a terminal, ``--yes`` off it."""

from __future__ import annotations

import sys

from gpuserve.errors import Interrupted, UsageError

#: What opening a deployment to everybody means.
OPEN = "this lets anybody who has the URL use the model and every other port of the sandbox, with no credential"


def agreed(what: str, *, yes: bool) -> None:
    """Returns if ``yes`` or the user at the terminal agrees to ``what``, a sentence without its full stop.

    Raises:
        UsageError: there is nobody to ask.
        Interrupted: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(what, hint="say so with --yes")
    sys.stderr.write(f"{what[0].upper()}{what[1:]}. Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Interrupted("nothing was changed")
