"""The one place where errors become exit statuses."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from typer.exceptions import Abort, TyperException

from gpuserve.cli.app import app
from gpuserve.cli.output import report_error
from gpuserve.errors import GpuserveError, Interrupted, UsageError


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its status, whatever other threads still do.

    A thread that waits for a slow platform, the SDK's or ours, may outlive the command. Taking the interpreter down
    under it can abort the process (SIGABRT in place of our status), or wait for it without end: so where there is
    one, the process ends at once, after what is due at exit.
    """
    status = run(list(sys.argv[1:] if argv is None else argv))
    if threading.active_count() > 1:
        atexit._run_exitfuncs()  # noqa: SLF001  # the interpreter's own call at exit, which os._exit leaves out
        with contextlib.suppress(OSError):
            _flush()
        os._exit(status)
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Runs one command; returns its exit status, having said what went wrong, if anything did."""
    ours = argv[: argv.index("--")] if "--" in argv else argv
    as_json, debug = "--json" in ours, "--debug" in ours
    try:
        status = app(args=argv, prog_name="gpuserve", standalone_mode=False)
        _flush()
    except GpuserveError as error:
        return _fail(error, as_json=as_json, debug=debug)
    except TyperException as error:
        return _usage(error, as_json=as_json)
    except (KeyboardInterrupt, Abort):
        return _fail(Interrupted("interrupted"), as_json=as_json, debug=False)
    except BrokenPipeError:
        return _silence()
    except Exception as error:  # noqa: BLE001  # the last boundary: a defect of ours, told as such
        return _fail(_defect(error), as_json=as_json, debug=debug)
    else:
        return status if isinstance(status, int) else 0


def _fail(error: GpuserveError, *, as_json: bool, debug: bool) -> int:
    if debug:
        import traceback

        from gpuserve.redaction import Redactor

        sys.stderr.write(Redactor()("".join(traceback.format_exception(error))))
    report_error(error.as_dict(), as_json=as_json)
    return error.exit_status


def _usage(error: TyperException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "gpuserve"
    return _fail(UsageError(error.format_message(), hint=f"{path} --help"), as_json=as_json, debug=False)


def _defect(error: Exception) -> GpuserveError:
    told = GpuserveError(
        f"gpuserve failed in a way it should not: {type(error).__name__}: {error}",
        hint="run it again with --debug and report what it prints",
    )
    told.__cause__ = error
    return told


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _silence() -> int:
    """The reader of stdout has gone (``| head``): nothing more to say, nor to complain about."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
