"""The daemon: ``python -m gpuserve.host``. Started by ``gpuserve.host.daemon.start``; can be run by hand as well."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gpuserve.host.paths import HOST_FILE, LIFE_LOCK, private_directory, read_json, state_directory, write_private

if TYPE_CHECKING:
    from gpuserve.host.house import House

_log = logging.getLogger("gpuserve.host")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CLOSING_SECONDS = 0.25
"""How long open requests may go on once the host ends."""
MOST_HEADER = 2**16
"""Bytes in one line of a request's head: the query or a header of a preview request may be long."""


class Refusal(Exception):
    """The daemon cannot start; the text says why."""


def main() -> int:
    """Serve until told to stop; the exit status is 0 after that and 1 when it could not start."""
    options = _options()
    os.umask(0o077)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    state = private_directory((options.state or state_directory()).absolute())
    os.chdir(state)  # so as not to hold the directory of whoever started it
    try:
        with _life_lock(state):
            asyncio.run(_serve(state, options))
    except ImportError as error:
        _log.error("%s; run: pip install 'gpuserve[local]'", error)
        return 1
    except (Refusal, ValueError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gpuserve.host", description=__doc__)
    parser.add_argument("--state", type=Path, help="state directory")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes the last one if it is free")
    parser.add_argument("--gpus", default="", help="GPU types to declare, such as H100:2,RTX-PRO-6000")
    return parser.parse_args()


def _life_lock(state: Path) -> IO[str]:
    """Take the lock that is held for as long as the daemon lives, with its process number inside."""
    lock = (state / LIFE_LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Refusal("another host runs with this state directory") from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


async def _serve(state: Path, options: argparse.Namespace) -> None:
    from aiohttp import web

    from gpuserve.host.app import make_app
    from gpuserve.host.config import Config, minute_length, pool_for
    from gpuserve.host.house import House
    from gpuserve.host.store import Store

    former = read_json(state / HOST_FILE)
    key = str(former.get("key") or f"local_{secrets.token_hex(32)}")
    config = Config(state=state, key=key, pool=pool_for(options.gpus), minute=minute_length())
    house = House(config, Store.load(state))
    await _settle(house)
    listener = _listen(options.port, _last_port(former))
    house.port = listener.getsockname()[1]
    runner = web.AppRunner(
        make_app(house),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=CLOSING_SECONDS,
        max_line_size=MOST_HEADER,
        max_field_size=MOST_HEADER,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        _announce(house, os.getpid())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, house.stopping.set)
        _log.info("listening on %s with GPUs %s", house.origin, ", ".join(config.pool.types) or "none")
        await house.stopping.wait()
        _log.info("ending every sandbox")
    finally:
        await runner.cleanup()
    _announce(house, 0)
    _log.info("ended")


def _announce(house: House, pid: int) -> None:
    content = {"url": f"{house.origin}/api", "key": house.config.key, "pid": pid}
    write_private(house.config.state / HOST_FILE, json.dumps(content))


def _last_port(former: dict[str, object]) -> int:
    """The port used before, so that addresses handed out stay good; 0 when there was none."""
    from urllib.parse import urlsplit

    try:
        return urlsplit(str(former.get("url", ""))).port or 0
    except ValueError:
        return 0


def _listen(wanted: int, last: int) -> socket.socket:
    for port in (wanted,) if wanted else (last, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            listener.close()
            _log.info("port %d on 127.0.0.1: %s", port, error.strerror)
        else:
            return listener
    raise Refusal(f"port {wanted} on 127.0.0.1 is in use")


async def _settle(house: House) -> None:
    """Bring the records in line with the machine: after a reboot nothing runs; directories nobody knows are removed."""
    from gpuserve.host.lifecycle import remove_tree, shut_down
    from gpuserve.host.processes import kill_all

    store, boot = house.store, _boot()
    if store.boot != boot:
        for sandbox in list(store.sandboxes.values()):
            await shut_down(store, sandbox)
        store.boot = boot
    folder = store.root("x").parent
    for directory in folder.iterdir() if folder.is_dir() else ():
        if directory.name not in store.sandboxes:
            await kill_all(directory.name, directory)
            remove_tree(directory)
    store.save()


def _boot() -> str:
    """What tells one boot of the machine from another."""
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip()
    import psutil

    return str(round(psutil.boot_time() / 60))  # to the minute: the figure drifts with the clock


if __name__ == "__main__":
    sys.exit(main())
