"""Starts, finds, asks and ends the process that keeps a fleet's gateway."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpuserve.errors import Conflict, GpuserveError, NetworkError, TimedOut
from gpuserve.redaction import SECRET_NAME
from gpuserve.serving.fleet.away.remote import Remote
from gpuserve.serving.fleet.gateway import MANIFEST, check_installed
from gpuserve.serving.fleet.record import Record, directory, write_private
from gpuserve.serving.fleet.supervisor import LIFE
from gpuserve.settings import Settings

LOG = "fleet.log"
_STEP = 0.05
_KEPT_LOG = 5 * 2**20
#: The settings that the keeper is told, by the names of the environment.
_TOLD = {"DAYTONA_API_KEY": "api_key", "DAYTONA_API_URL": "api_url", "DAYTONA_TARGET": "region", "HF_TOKEN": "hf_token"}


def runs(name: str) -> bool:
    """Whether the fleet's supervisor lives on this machine."""
    try:
        with (directory(name) / LIFE).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def start(record: Record, settings: Settings, *, timeout: float = 60.0) -> None:
    """Makes sure that the fleet's gateway runs and answers; nothing changes if it does. ``record`` has been saved.

    Raises:
        UsageError: the gateway isn't installed.
        Conflict: a port is taken by another program.
        TimedOut: it doesn't answer.
    """
    check_installed()
    place = directory(record.name)
    if not runs(record.name):
        for port in (record.port, record.injector_port, record.metrics_port):
            _check_free(port)
        write_private(place / MANIFEST, '{"version":1,"workers":[]}')
        _spawn(record.name, place, settings)
    deadline = time.monotonic() + timeout
    while True:
        with suppress(GpuserveError):
            if answers(record) and ask(record, "status"):
                return
        if time.monotonic() > deadline:
            raise TimedOut(f"the gateway of {record.name} doesn't answer", hint=f"its log is {place / LOG}")
        time.sleep(0.1)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Conflict(
                f"port {port} of this machine can't be had: {error.strerror}", hint="choose another: --gateway-port"
            ) from error


def _spawn(name: str, place: Path, settings: Settings) -> None:
    """Starts it in a session of its own, its output in the log, with no secret in its environment or arguments."""
    log = place / LOG
    if log.exists() and log.stat().st_size > _KEPT_LOG:
        log.replace(log.with_suffix(".log.1"))
    clean = {key: value for key, value in os.environ.items() if not SECRET_NAME.search(key)}
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gpuserve.serving.fleet.supervisor", name],
            env=clean,
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(json.dumps(_told(settings)).encode())
    process.returncode = 0  # it outlives this process: there is nothing to wait for


def _told(settings: Settings) -> dict[str, str]:
    values = {name: getattr(settings, field) for name, field in _TOLD.items()}
    shown = {name: one if isinstance(one, str) else one.get_secret_value() for name, one in values.items()}
    return {name: value for name, value in shown.items() if value}


def answers(record: Record) -> bool:
    """Whether the gateway listens."""
    import httpx

    try:
        return httpx.get(f"{record.url}/liveness", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def ask(record: Record, order: str, **fields: Any) -> dict[str, Any]:
    """Has the keeper do something; what it answers.

    Raises:
        NetworkError: it doesn't answer: it doesn't run, or is just being started again.
        Conflict: it can't do that; its words.
    """
    import httpx

    if isinstance(record, Remote):
        return record.ask(order, **fields)
    hint = f"gpuserve fleet start {record.name}"
    if not runs(record.name):
        raise NetworkError(f"the gateway of {record.name} doesn't run on this machine", hint=hint)
    headers = {"Authorization": f"Bearer {record.control_key}"}
    url = f"http://127.0.0.1:{record.injector_port}/control/{order}"
    try:
        response = httpx.post(url, headers=headers, json=fields, timeout=10, trust_env=False)
        content: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise NetworkError(f"the keeper of {record.name} doesn't answer", hint=hint) from error
    if response.status_code != 200:
        raise Conflict(f"the keeper of {record.name}: {content.get('error', {}).get('message', 'refused')}")
    return content


def stop(name: str, *, timeout: float = 30.0) -> bool:
    """Ends the fleet's processes on this machine; the workers live on. False if none ran.

    Raises:
        TimedOut: they don't end.
    """
    if not runs(name):
        return False
    text = (directory(name) / LIFE).read_text(encoding="utf-8").strip()
    deadline = time.monotonic() + timeout
    if text.isdigit():
        with suppress(ProcessLookupError):
            os.kill(int(text), signal.SIGTERM)
    while runs(name):
        if time.monotonic() > deadline:
            raise TimedOut(f"the gateway of {name} (process {text}) doesn't end")
        time.sleep(_STEP)
    return True
