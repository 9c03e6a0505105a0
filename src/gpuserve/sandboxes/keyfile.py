"""The engine's own key in its sandbox: a file that only its owner reads.

There rather than in the sandbox's environment, which the platform shows to every API key and can't change later; and
not in the command, which it keeps. Whoever holds the preview token can read the file, as all else in the sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuserve.errors import PlatformError
from gpuserve.records import KEY_FILE
from gpuserve.sandboxes.script import as_command
from gpuserve.sandboxes.translate import CALL_TIMEOUT, translated

if TYPE_CHECKING:
    from daytona import Sandbox

_VARIABLE = "GPUSERVE_NEW_KEY"
_READ = f"cat {KEY_FILE} 2>/dev/null || true"
# Linked into place: of two callers at once one key wins, whole, and both read that one.
_KEEP = f"""umask 077; file={KEY_FILE}
if [ ! -s "$file" ]; then
  printf %s "${_VARIABLE}" >"$file.$$"; ln "$file.$$" "$file" 2>/dev/null; rm -f "$file.$$"
fi
cat "$file"
"""
_REPLACE = f"""umask 077; file={KEY_FILE}
printf %s "${_VARIABLE}" >"$file.$$" && mv "$file.$$" "$file" && cat "$file"
"""


def read(sandbox: Sandbox) -> str:
    """The key; "" if there is none yet."""
    with translated("reading the engine's key"):
        return (sandbox.process.exec(as_command(_READ), timeout=CALL_TIMEOUT).result or "").strip()


def keep(sandbox: Sandbox, key: str) -> str:
    """Puts ``key`` there unless one is there already; the one that is there then."""
    return _write(sandbox, _KEEP, key)


def replace(sandbox: Sandbox, key: str) -> None:
    """Puts ``key`` in the place of the one that is there. The engine goes on with the old one until it starts anew."""
    if _write(sandbox, _REPLACE, key) != key:
        raise PlatformError("the engine's new key can't be written", hint="try again")


def _write(sandbox: Sandbox, script: str, key: str) -> str:
    """The key goes into the request's body as a variable: no list of processes shows it."""
    with translated("writing the engine's key"):
        done = sandbox.process.exec(as_command(script), env={_VARIABLE: key}, timeout=CALL_TIMEOUT)
    found = (done.result or "").strip()
    if done.exit_code != 0 or not found:
        raise PlatformError("the engine's key can't be written into the sandbox", hint="gpuserve status")
    return found
