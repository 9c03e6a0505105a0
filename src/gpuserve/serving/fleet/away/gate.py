"""The program in a gateway's sandbox: keeps the injector and smg alive there, and takes its workers from a file.

    python3 gpuserve-gateway.pyz --port PORT

started in the folder that holds the file (``roster``). It is packed into one file (``pack``) and knows nothing of the
platform. The gateway's key lies where an engine's own would; both children get it by their standard input. What only
the two of them use listens on a loopback address that the platform's preview proxy doesn't ask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpuserve.client.transport import open_client
from gpuserve.errors import UsageError
from gpuserve.proxy.injector import Injector
from gpuserve.proxy.server import listen
from gpuserve.proxy.upstream import Upstream
from gpuserve.serving.fleet import gateway
from gpuserve.serving.fleet.away.roster import ROSTER, STATUS, Roster, read
from gpuserve.serving.fleet.children import Child, mind_signals, tend
from gpuserve.serving.fleet.files import write_private
from gpuserve.serving.fleet.watch import Watch

#: Seconds between two looks at the file, and between two tellings of how things are.
READ_EVERY, TELL_EVERY = 0.25, 0.5
#: The preview proxy leads to 127.0.0.1: what listens here can't be reached from outside, even if all ports are public.
INNER = ("127.0.0.2", "127.0.0.1")


class Gate(Watch):
    """The injector, fed by a file. ``run`` goes on until SIGTERM."""

    def __init__(self, folder: Path, listener: socket.socket, *, key: str, port: int) -> None:
        host, inner = listener.getsockname()
        injector = Injector(listener=listener, key=key, control_key=secrets.token_urlsafe(32), control=_no_orders)
        super().__init__(injector, folder / gateway.MANIFEST, f"http://{host}:{inner}")
        self._folder = folder
        self._key = key
        self._smg = f"http://127.0.0.1:{port}"
        self._client = open_client(self._smg, silence=5.0)
        self._stamp = ""
        self._seen: object = None

    async def run(self) -> None:
        """Serves until SIGTERM, or until the process that started this one is gone."""
        self.take_roster(presumed=_well_before(self._folder))
        await self.serve(self._read_loop(), self._tell_loop())

    async def _read_loop(self) -> None:
        while True:
            self.take_roster()
            await asyncio.sleep(READ_EVERY)

    def take_roster(self, *, presumed: frozenset[str] = frozenset()) -> None:
        """Goes by the file, if it has changed; ``presumed`` names those that were well before this process began."""
        path = self._folder / ROSTER
        try:
            about = path.stat()
        except FileNotFoundError:
            return
        seen = (about.st_ino, about.st_mtime_ns, about.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            roster = read(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # nothing of the text is told: it is a secret
            self.say(f"the list of workers can't be read, the last one stays: {type(error).__name__}")
            return
        self._settle(roster, presumed)

    def _settle(self, roster: Roster, presumed: frozenset[str]) -> None:
        listed = {one.deployment.name: one for one in roster.entries}
        for name, member in list(self.members.items()):
            entry = listed.get(name)
            if entry is None or entry.deployment.sandbox_id != member.deployment.sandbox_id:
                self.leave(name, "it was taken out" if entry is None else "another sandbox has its name")
        for name, entry in listed.items():
            if name in self.members:
                self.members[name].way.use(Upstream(entry.endpoint))
            else:
                self.join(entry.deployment, Upstream(entry.endpoint), presumed=name in presumed)
        self.draining = {name for name, one in listed.items() if one.draining}
        self._stamp = roster.stamp
        self.publish()

    async def _tell_loop(self) -> None:
        while True:
            states = await self.thread(self._states)
            write_private(self._folder / STATUS, json.dumps(self.status(states)))
            await asyncio.sleep(TELL_EVERY)

    def status(self, states: Mapping[str, str] | None) -> dict[str, Any]:
        """How things are; no secret. ``states`` is smg's own word on each worker, None if it doesn't answer."""
        rows = [one.as_dict(draining=name in self.draining) for name, one in self.members.items()]
        told = [{**row, "gateway": (states or {}).get(str(row["name"]), "")} for row in rows]
        return {"stamp": self._stamp, "at": time.time(), "answers": states is not None, "workers": told}

    def _states(self) -> dict[str, str] | None:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"}
        with suppress(httpx.HTTPError, ValueError, KeyError, AttributeError, TypeError):
            told = self._client.get(f"{self._smg}/workers", headers=headers).json()
            return {one["url"].rsplit("/", 1)[-1]: str(one.get("status", "")) for one in told["workers"]}
        return None


async def _no_orders(name: str, _: Mapping[str, object]) -> Mapping[str, object]:
    raise UsageError(f"no order {name!r}: this injector goes by its file")


def _well_before(folder: Path) -> frozenset[str]:
    """Those that were in rotation when an injector told of them last: one that was killed serves again at once."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((folder / STATUS).read_text(encoding="utf-8"))
        return frozenset(row["name"] for row in told["workers"] if row["in_rotation"] or row["state"] == "draining")
    return frozenset()


# -- the processes -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Keeps the two alive until SIGTERM. Its log is its output."""
    os.umask(0o077)
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", default="gate", choices=("gate", "injector", "smg"))
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    if asked.role == "smg":
        gateway.main()
    elif asked.role == "injector":
        _serve(json.load(sys.stdin))
    else:
        _keep(asked.port)


def _keep(port: int) -> None:
    folder, key = Path.cwd(), _key()
    mind_signals()
    # Held here, as a fleet's supervisor does: what comes while a child starts again waits.
    with listen(port) as outside, _listener() as inside, _listener() as spare:
        host, metrics_port = spare.getsockname()
        spare.close()
        told = {"folder": str(folder), "listener": inside.fileno(), "key": key, "port": port}
        wanted = gateway.flags(metrics_port, folder, metrics_host=host)
        served = {"flags": wanted, "key": key, "listener": outside.fileno(), "inner": host}
        if not (folder / gateway.MANIFEST).exists():
            write_private(folder / gateway.MANIFEST, '{"version":1,"workers":[]}')
        program = [sys.executable, sys.argv[0]]
        tend(
            [
                Child("injector", [*program, "injector"], told, (inside.fileno(),)),
                Child("smg", [*program, "smg"], served, (outside.fileno(),)),
            ]
        )


def _key() -> str:
    """The gateway's key, from where ``records.KEY_FILE`` says."""
    return (Path(os.environ.get("HOME") or "/tmp") / ".gpuserve-key").read_text(encoding="utf-8").strip()  # noqa: S108


def _listener() -> socket.socket:
    for host in INNER:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.bind((host, 0))
        except OSError:  # not every system has more than one loopback address
            listener.close()
        else:
            listener.listen(1024)
            return listener
    raise SystemExit("no loopback address to listen on")


def _serve(told: Mapping[str, Any]) -> None:
    listener = socket.socket(fileno=int(told["listener"]))
    gate = Gate(Path(told["folder"]), listener, key=str(told["key"]), port=int(told["port"]))
    asyncio.run(gate.run())
    sys.stdout.flush()
    os._exit(0)  # a look at a worker that hangs must not hold up the end


if __name__ == "__main__":
    main()
