"""Which ports a sandbox's preview may reach.

On the platform every sandbox has a network of its own. Here all share the machine's, so a preview of one sandbox could
open another one's port, or a service of the user's that has nothing to do with any sandbox. Therefore a preview
reaches a port only if a process of that very sandbox listens on it. Where the system does not say who listens (another
user's process, a container's port, a system without that information), the port is allowed: the check is there
against mistakes and curious pages, and is no wall.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from gpuserve.host.processes import members

KNOWN_FOR = 5.0
"""Seconds for which a good answer is not asked again: finding the listener means reading the whole process table."""
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"


class Ports:
    """Remembers good answers for a few seconds; bad ones are asked anew, since a server may come up at any moment.

    Requests that come while the answer is being found wait for that one: hundreds at once, as ``batch`` sends them,
    would otherwise each read the process table, and hold the host up for seconds.
    """

    def __init__(self) -> None:
        self._good: dict[tuple[str, int], float] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[bool]] = {}

    async def allowed(self, sandbox_id: str, root: Path, port: int) -> bool:
        """Whether the preview of a sandbox may reach ``port`` now. False also when nothing listens there."""
        key = (sandbox_id, port)
        if self._good.get(key, 0.0) > time.monotonic():
            return True
        asking = self._asking.get(key)
        if asking is None:
            if not something_listens(port):
                return False
            asking = self._asking[key] = asyncio.create_task(self._ask(key, root))
        return await asyncio.shield(asking)  # whoever asked first may go away; the others still wait

    async def _ask(self, key: tuple[str, int], root: Path) -> bool:
        try:
            found = await asyncio.to_thread(_belongs, key[0], root, key[1])
            if found:
                self._good[key] = time.monotonic() + KNOWN_FOR
            return found
        finally:
            self._asking.pop(key, None)

    def forget(self, sandbox_id: str, port: int) -> None:
        """Ask again the next time: the server could not be reached."""
        self._good.pop((sandbox_id, port), None)


def something_listens(port: int) -> bool:
    """Whether any socket of the machine listens on ``port``; True where that cannot be told."""
    ending = f":{port:04X}"
    tables = [table for table in _TABLES if table.exists()]
    for table in tables:
        for line in table.read_text().splitlines()[1:]:
            parts = line.split()
            if len(parts) > 3 and parts[3] == _LISTEN and parts[1].endswith(ending):
                return True
    return not tables


def _belongs(sandbox_id: str, root: Path, port: int) -> bool:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return True  # the system does not tell
    owners = {one.pid for one in connections if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr[1] == port}
    if None in owners or not owners:
        return True
    return bool(owners & members(sandbox_id, root).keys())
