"""What the toolbox gets to see of a sandbox, above all the environment of its processes.

The environment is built from nothing, so that the host's own secrets stay out of it.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from gpuserve.host.gpus import Pool
from gpuserve.host.images import SYSTEM_PATH, own_programs
from gpuserve.host.store import Sandbox
from gpuserve.host.wire import SandboxView

_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
_MACHINE = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


def user_name() -> str:
    """The name of the user who runs the host, and so everything in its sandboxes."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def view(sandbox: Sandbox, root: Path, pool: Pool) -> SandboxView:
    """The sandbox as the toolbox sees it, with its complete environment."""
    path = tuple(dict.fromkeys([*sandbox.image_path, own_programs(), *SYSTEM_PATH]))
    env = {"LANG": "C.UTF-8"} | _inherited()
    env |= {
        "PATH": os.pathsep.join(path),
        "HOME": str(root / "home"),
        "TMPDIR": sandbox.temporary or str(root / "tmp"),
        "USER": user_name(),
        "LOGNAME": user_name(),
        "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh",
        "DAYTONA_SANDBOX_ID": sandbox.id,
        "DAYTONA_SANDBOX_USER": sandbox.user,
        "DAYTONA_SANDBOX_SNAPSHOT": sandbox.snapshot or sandbox.build_ref or "",
    }
    devices = pool.indices(sandbox.gpu_ids)
    if devices is not None:
        env |= {"CUDA_VISIBLE_DEVICES": devices, "NVIDIA_VISIBLE_DEVICES": devices}
    env |= sandbox.image_env | sandbox.env
    env["DAYTONA_SANDBOX_ID"] = sandbox.id  # the mark by which its processes are found and ended
    return SandboxView(sandbox.id, root, root / "home", env, path, sandbox.started)


def _inherited() -> dict[str, str]:
    names = [*_NETWORK, *(name.lower() for name in _NETWORK), *_CERTIFICATES, *_MACHINE]
    return {name: os.environ[name] for name in names if name in os.environ}
