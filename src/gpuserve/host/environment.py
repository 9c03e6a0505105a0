"""The environment of a sandbox's processes: the control plane's, then what ``POST /env`` changed, then the request's.

``POST /env`` changes only what is started afterwards, as on the platform.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from gpuserve.host.bodies import json_body, optional_text, texts, variables
from gpuserve.host.processes import MARKER
from gpuserve.host.wire import SandboxView

_FILE = "env.json"


def ensure(view: SandboxView) -> None:
    """Make the sandbox's home, and its directory for temporary files if that lies inside the sandbox."""
    view.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = Path(view.env.get("TMPDIR", view.home))
    if temporary.is_relative_to(view.root):
        temporary.mkdir(mode=0o700, parents=True, exist_ok=True)


def environment(view: SandboxView, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The complete environment for a new process; the mark that says whose it is cannot be overridden."""
    ensure(view)
    return _changed(view) | dict(extra or {}) | {MARKER: view.id}


async def update_env(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /env``: unset, drop by value's prefix, set; in that order."""
    body = await json_body(request)
    new = variables(body, "set")
    prefix = optional_text(body, "unsetValuePrefix")
    gone = set(texts(body, "unset"))
    if prefix:
        gone |= {name for name, value in _changed(view).items() if value.startswith(prefix) and name not in new}
    saved = _saved(view)
    saved = {name: value for name, value in saved.items() if name not in gone} | dict.fromkeys(gone) | new
    _save(view, saved)
    return web.json_response({"message": "Environment updated"})


def _changed(view: SandboxView) -> dict[str, str]:
    merged: dict[str, str | None] = {**view.env, **_saved(view)}
    return {name: value for name, value in merged.items() if value is not None}


def _saved(view: SandboxView) -> dict[str, str | None]:
    try:
        saved: dict[str, str | None] = json.loads((view.root / _FILE).read_text())
    except FileNotFoundError:
        return {}
    return saved


def _save(view: SandboxView, saved: Mapping[str, str | None]) -> None:
    draft = view.root / f"{_FILE}.draft"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(dict(saved), file)
    draft.replace(view.root / _FILE)
