"""A CPU sandbox of a conversation's own, in which what a model writes is run.

It is no deployment: it lacks the label that those carry, so that ``status``, ``down --all`` and ``reap`` leave it
alone. What ends it when nobody does are its time to live and its idle limit, both in the create request.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuserve.errors import TimedOut, UsageError
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.translate import translated

if TYPE_CHECKING:
    from daytona import CreateSandboxFromSnapshotParams, Sandbox
    from daytona.common.process import ExecuteResponse

#: What a conversation's sandbox carries instead of a deployment's mark, and whose conversation it is.
MARK, FOR = "gpuserve/tools", "gpuserve/for"
#: Minutes without a call after which the platform deletes it.
IDLE_MINUTES = 15

_DOMAIN = re.compile(r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Network:
    """What the sandbox may reach: nothing, everything, or these domains and networks (CIDR)."""

    block: bool = True
    domains: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def __str__(self) -> str:
        listed = ", ".join((*self.domains, *self.networks))
        return listed or ("no network" if self.block else "the whole network")


def network(text: str) -> Network:
    """Reads ``none``, ``all``, or domains and CIDR networks separated by commas.

    Raises:
        UsageError: it is none of these.
    """
    if text in ("none", "all"):
        return Network(block=text == "none")
    domains, networks = [], []
    for part in filter(None, (one.strip() for one in text.split(","))):
        if _DOMAIN.fullmatch(part):
            domains.append(part)
            continue
        try:
            networks.append(str(ipaddress.ip_network(part)))
        except ValueError as error:
            raise UsageError(
                f"{part!r} is neither a domain nor a network", hint="none, all, or such as pypi.org,10.0.0.0/8"
            ) from error
    if not domains and not networks:
        raise UsageError("no network named", hint="none, all, or such as pypi.org,10.0.0.0/8")
    return Network(block=False, domains=tuple(domains), networks=tuple(networks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a conversation's sandbox is to be. ``ttl`` is in seconds; ``owner`` is the deployment's name."""

    name: str
    run_id: str
    owner: str
    ttl: int
    network: Network


def parameters(room: Room) -> CreateSandboxFromSnapshotParams:
    """The SDK's parameters: the platform's default image, no GPU, everything that limits it in the request itself."""
    from daytona import CreateSandboxFromSnapshotParams

    net = room.network
    return CreateSandboxFromSnapshotParams(
        name=room.name,
        language="python",
        labels={MARK: "1", FOR: room.owner, "gpuserve/run": room.run_id, labels.TTL: str(room.ttl)},
        ephemeral=True,
        auto_stop_interval=IDLE_MINUTES,
        ttl_minutes=-(-room.ttl // 60),
        network_block_all=True if net.block else None,
        network_allow_list=",".join(net.networks) or None,
        domain_allow_list=",".join(net.domains) or None,
    )


@dataclass(frozen=True, slots=True)
class Ran:
    """What was run gave: stdout and stderr as one, and the exit code."""

    output: str
    exit_code: int


class Workroom:
    """A started sandbox in which code and commands are run."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.id: str = sandbox.id

    def run_code(self, code: str, timeout: float) -> Ran:
        """Runs Python code in an interpreter of its own. ``timeout`` is in seconds.

        Raises:
            TimedOut: it was not done in time, and was ended.
            GpuserveError: the sandbox can't be asked.
        """
        return self._run("code", lambda seconds: self._sandbox.process.code_run(code, timeout=seconds), timeout)

    def run_shell(self, command: str, timeout: float) -> Ran:
        """Runs a command by the sandbox's shell; as ``run_code``."""
        return self._run("command", lambda seconds: self._sandbox.process.exec(command, timeout=seconds), timeout)

    def _run(self, what: str, call: _Call, timeout: float) -> Ran:
        from daytona.common.errors import DaytonaProcessExecutionTimeoutError

        with translated(f"running the model's {what}"):
            try:
                answer = call(max(1, math.ceil(timeout)))
            except DaytonaProcessExecutionTimeoutError as error:
                raise TimedOut(f"the {what} was not done after {timeout:g} s, and was ended") from error
        return Ran(answer.result or "", int(answer.exit_code or 0))


if TYPE_CHECKING:
    from collections.abc import Callable

    _Call = Callable[[int], ExecuteResponse]
