"""Results as they come: one JSON line each, on the disk before the next step begins."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"


class Record:
    """``RESULTS`` in ``folder``, to which every run appends. ``seconds`` is how long this run may take."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self._began = time.monotonic()
        self._seconds = seconds
        folder.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._seconds - (time.monotonic() - self._began)

    def write(self, kind: str, **fields: Any) -> None:
        """Appends one result, and prints it."""
        line = json.dumps({"kind": kind, "at": round(time.monotonic() - self._began, 2), **fields})
        with (self.folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line if len(line) < 700 else f"{line[:700]}…", flush=True)

    def attempt(self, name: str, step: Callable[[], None], *, needs: float = 0.0) -> bool:
        """Runs ``step`` if ``needs`` seconds are left. What goes wrong is a result; the next step goes on."""
        if self.left() < needs:
            self.write("skipped", step=name, left=round(self.left()), needs=needs)
            return False
        try:
            step()
        except Exception as error:  # noqa: BLE001  # a benchmark that costs money tells it and measures the rest
            self.write(
                "failed", step=name, error=f"{type(error).__name__}: {error}", where=traceback.format_exc()[-1500:]
            )
            return False
        return True


def read(folder: Path) -> list[dict[str, Any]]:
    """All results of ``folder``, in the order in which they came."""
    file = folder / RESULTS
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
