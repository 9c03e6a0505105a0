"""A CPU sandbox in which the gateway of a fleet runs: what is asked of the platform, and the gateway's files in it.

It carries a deployment's mark, with its fleet beside it: so ``status``, ``down --all`` and ``reap`` see it,
on any machine.
"""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuserve.errors import PlatformError
from gpuserve.records import GATEWAY_LABEL, KEY_FILE, LaunchPlan
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.script import printed
from gpuserve.sandboxes.translate import repeated, translated

if TYPE_CHECKING:
    from daytona import CreateSandboxFromImageParams, Sandbox

#: Seconds within which a file must be carried.
CARRY_TIMEOUT = 120
#: Cores, and GiB of memory and disk. The gateway takes 163 MiB (two workers, November 2026), the injector one core at
#: 12,000 to 20,000 tokens a second.
CPU, MEMORY, DISK = 2, 2, 4
_FOLDER = '"${HOME:-/tmp}"/.gpuserve-gateway'
_KEY = KEY_FILE.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What a gateway's sandbox is to be. Its name is the fleet's; ``ttl`` is in seconds, None for no limit.

    ``launch`` holds what its labels say, ``packages`` are Python's, for its image, ``labels`` the user's own.
    """

    fleet: str
    run_id: str
    launch: LaunchPlan
    packages: Sequence[str]
    access: str
    public: bool
    ttl: int | None
    target: str
    labels: Mapping[str, str]


def parameters(house: House) -> CreateSandboxFromImageParams:
    """The SDK's parameters: as for a deployment, without a GPU, and never ended for want of use."""
    from daytona import CreateSandboxFromImageParams, Image, Resources

    return CreateSandboxFromImageParams(
        name=house.fleet,
        image=Image.base(house.launch.image).pip_install(*house.packages),
        resources=Resources(cpu=CPU, memory=MEMORY, disk=DISK),
        labels={
            **labels.encode(house.launch, house.run_id, house.labels),
            **labels.limits(house.ttl, None),
            labels.ACCESS: house.access,
            GATEWAY_LABEL: house.fleet,
        },
        public=house.public,
        ephemeral=True,
        auto_stop_interval=0,
        ttl_minutes=None if house.ttl is None else -(-house.ttl // 60),
        target=house.target or None,
    )


class Gatehouse:
    """The gateway's folder in its sandbox, which only its owner enters."""

    def __init__(self, sandbox: Sandbox, *, patience: float) -> None:
        self._sandbox, self._patience = sandbox, patience
        self.folder, self._home = self._shell(
            f'mkdir -p {_FOLDER} && chmod 700 {_FOLDER} && cd {_FOLDER} && pwd -P && cd "${{HOME:-/tmp}}" && pwd -P'
        ).split("\n")[:2]

    def _shell(self, script: str) -> str:
        return printed(self._sandbox, script, where="the gateway's sandbox", patience=self._patience)

    def put(self, content: bytes, name: str) -> None:
        """Replaces a file of the folder at one stroke; only its owner may read it."""
        self._put(content, f"{self.folder}/{name}")

    def keep_key(self, key: str) -> None:
        """Puts the gateway's key where an engine's own would lie."""
        self._put(key.encode(), f"{self._home}/{_KEY}")

    def _put(self, content: bytes, path: str) -> None:
        # Written inside the folder that only its owner enters, whatever the upload's own mode is.
        part = f"{self.folder}/{uuid.uuid4().hex[:8]}.part"

        def once() -> None:
            with translated("uploading a file of the gateway's"):
                self._sandbox.fs.upload_file(content, part, timeout=CARRY_TIMEOUT)

        repeated(once, patience=self._patience)
        draft = shlex.quote(part)
        self._shell(f"if [ -f {draft} ]; then chmod 600 {draft} && mv -f {draft} {shlex.quote(path)}; fi")

    def content(self, name: str) -> tuple[Any, float]:
        """A JSON file of the folder, None where there is none, and the sandbox's clock, in seconds since the epoch.

        Raises:
            PlatformError: what is there can't be read.
        """
        text = self._shell(f"date +%s; cat {shlex.quote(f'{self.folder}/{name}')} 2>/dev/null || true")
        clock, _, content = text.partition("\n")
        try:
            return json.loads(content) if content else None, float(clock)
        except ValueError as error:
            raise PlatformError(f"{name} in the gateway's sandbox can't be read") from error
