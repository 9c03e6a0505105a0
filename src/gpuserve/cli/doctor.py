"""``gpuserve doctor``."""

from __future__ import annotations

import typer

from gpuserve.cli.command import Run, command
from gpuserve.errors import PlatformError

EPILOG = "Examples: gpuserve doctor · gpuserve doctor --local. With --json: {data: [{name, state, detail, mend}]}."
_MARKS = {"ok": "ok", "warning": "!", "failed": "FAILED"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="doctor", epilog=EPILOG)(doctor)


def doctor(run: Run) -> None:
    """Look at key, platform, clock, quota, Hugging Face token and engines; say how to mend what is wrong."""
    from gpuserve.serving.doctor import examine

    findings = examine(run.context)
    run.output.data([finding.as_dict() for finding in findings])
    if not run.output.as_json:
        for finding in findings:
            mend = f"   ({finding.mend})" if finding.mend else ""
            run.output.result(f"{_MARKS[finding.state]:<8}{finding.name:<17}{finding.detail}{mend}")
    failed = [finding.name for finding in findings if finding.state == "failed"]
    if failed:
        raise PlatformError(f"not in order: {', '.join(failed)}", hint="see above")
