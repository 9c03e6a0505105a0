"""The gateway's program as one file that Python runs: the injector of ``proxy``, and what it needs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import gpuserve.proxy

#: What the sandbox's Python must have beside it; smg has what was measured from 1.13 on.
REQUIREMENTS = ("aiohttp>=3.11,<4", "httpx>=0.28,<1", "smg>=1.13,<2")
_MODULES = (
    *("errors", "records", "redaction", "durations"),
    *("client.faults", "client.health", "client.transport"),
    "sandboxes.labels",
    *("serving.fleet.children", "serving.fleet.door", "serving.fleet.files", "serving.fleet.gateway"),
    *("serving.fleet.member", "serving.fleet.watch"),
    *("serving.fleet.away.gate", "serving.fleet.away.roster"),
)
_PACKAGES = ("", "client", "proxy", "sandboxes", "serving", "serving/fleet", "serving/fleet/away")
_MAIN = "from gpuserve.serving.fleet.away.gate import main\n\nmain()\n"


def program() -> bytes:
    """The file."""
    root = Path(gpuserve.proxy.__file__).parent.parent
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _MAIN)
        for name in _PACKAGES:
            archive.writestr(f"gpuserve/{name}/__init__.py".replace("//", "/"), "")
        modules = [root / f"{name.replace('.', '/')}.py" for name in _MODULES]
        for path in (*modules, *sorted((root / "proxy").glob("[a-z]*.py"))):
            archive.write(path, f"gpuserve/{path.relative_to(root).as_posix()}")
    return packed.getvalue()
