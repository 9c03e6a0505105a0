"""The runner inside a sandbox: ``python gpuserve-batch.pyz JOB.json``, beside whose file it tells how far it is.

Beside ``JOB.json`` it keeps ``progress.json`` (the last event) and leaves ``result.json``: ``{"data": summary}`` or
``{"error": …}``. Each is replaced whole. Its own output is locked, so a second runner ends without touching anything.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from gpuserve.bulk.events import BatchEvent
from gpuserve.bulk.job import from_dict
from gpuserve.bulk.run import run
from gpuserve.errors import GpuserveError


def main() -> int:
    """Runs one job; returns its exit status."""
    folder = Path(sys.argv[1]).resolve().parent
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for name in ("source", "output"):
        content[name] = str(folder / content[name])

    def emit(event: BatchEvent) -> None:
        told = {"kind": type(event).__name__, "at": time.time(), **asdict(event)}
        _replace(folder / "progress.json", told)

    status = 0
    try:
        result: dict[str, object] = {"data": run(from_dict(content), emit=emit)}
    except GpuserveError as error:
        result, status = {"error": error.as_dict()}, error.exit_status
    except Exception as error:  # noqa: BLE001  # the last boundary: whoever follows this job must hear of it
        result, status = {"error": {"code": "error", "message": f"{type(error).__name__}: {error}", "hint": ""}}, 1
    _replace(folder / "result.json", result)
    return status


def _replace(path: Path, content: object) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
