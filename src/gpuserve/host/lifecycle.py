"""The life of a sandbox: built, started, stopped, destroyed, and reaped when its time is up.

States move as on the platform: ``pending_build`` -> ``building_snapshot`` -> ``creating`` -> ``started``, or
``build_failed`` or ``error`` with a reason; ``stopping`` -> ``stopped`` -> ``starting``; ``destroying`` ->
``destroyed``. Each move is saved and published.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from gpuserve.host import faults
from gpuserve.host.config import Config
from gpuserve.host.images import BuildError, Images
from gpuserve.host.paths import private_directory
from gpuserve.host.processes import kill_all
from gpuserve.host.store import CHANGING, ENDED, GONE, Sandbox, Store, random_token
from gpuserve.host.wire import ApiError, now_iso

_log = logging.getLogger(__name__)
Moved = Callable[[Sandbox, str], None]
"""Called with the sandbox and the state it left."""
Work = Callable[[Sandbox], Coroutine[Any, Any, None]]

TICK = 0.25
"""Seconds between two looks at the deadlines."""
SAVE_EVERY = 2.0
"""Seconds between two savings of mere activity; everything else is saved at once."""
REMEMBERED = 86_400.0
"""Seconds that a sandbox destroyed by TTL, queue timeout or eviction can still be read, as on the platform."""
_BUSY = "Sandbox state change in progress"


class Lifecycle:
    """Moves sandboxes from state to state. All methods are for the event loop's thread."""

    def __init__(self, config: Config, store: Store, images: Images, moved: Moved) -> None:
        self._config = config
        self._store = store
        self._images = images
        self._moved = moved
        self._work: dict[str, asyncio.Task[None]] = {}
        self._placed: dict[str, asyncio.Event] = {}
        self._saved_at = 0.0

    def launch(self, sandbox: Sandbox) -> None:
        """Bring a new sandbox up, in the background. A GPU that is free is taken at once."""
        private_directory(self._store.root(sandbox.id))
        if not sandbox.gpu_ids and (sandbox.gpu or "no-capacity" in faults.faults(sandbox.labels)):
            self._placed[sandbox.id] = asyncio.Event()
            self._place_waiting()
        self._spawn(sandbox, self._bring_up)

    def stop(self, sandbox: Sandbox) -> None:
        """Begin to stop a started sandbox; an ephemeral one is destroyed.

        Raises:
            ApiError: 409 while another change is under way, 400 when it is not started.
        """
        self._refuse_while_changing(sandbox)
        if not sandbox.started:
            raise ApiError(400, "Sandbox is not in a stoppable state")
        if sandbox.ephemeral:
            self.destroy(sandbox)
            return
        self._move(sandbox, "stopping")
        self._spawn(sandbox, self._take_down)

    def start(self, sandbox: Sandbox) -> None:
        """Begin to start a stopped sandbox, with a new preview token; one that is started stays as it is.

        Raises:
            ApiError: 409 while another change is under way, 400 when it cannot be started.
        """
        if sandbox.started:
            return
        self._refuse_while_changing(sandbox)
        if sandbox.state in ENDED:
            raise ApiError(400, "Sandbox is in an errored state")
        if sandbox.state != "stopped":
            raise ApiError(409, _BUSY)
        sandbox.token = random_token(32)
        self._move(sandbox, "starting")
        self._spawn(sandbox, self._come_up)

    def delete(self, sandbox: Sandbox) -> None:
        """Begin to destroy a sandbox at a user's wish. A build may be broken off; other changes may not.

        Raises:
            ApiError: 409 while a change other than a build or a deletion is under way.
        """
        if sandbox.state in CHANGING - {"building_snapshot", "destroying"}:
            raise ApiError(409, _BUSY)
        self.destroy(sandbox)

    def destroy(self, sandbox: Sandbox, *, remember: bool = False) -> None:
        """Begin to destroy a sandbox, whatever it is doing; ``remember`` keeps the record readable for a day."""
        if sandbox.state in GONE:
            return
        sandbox.destroyed_at = time.time() if remember else None
        self._placed.pop(sandbox.id, None)
        self._move(sandbox, "destroying")
        self._spawn(sandbox, self._tear_down)

    def resume(self) -> None:
        """Pick up, after a restart of the host, what it was doing when it ended."""
        for sandbox in list(self._store.sandboxes.values()):
            if sandbox.state in {"pending_build", "building_snapshot", "creating"}:
                self.launch(sandbox)
            elif sandbox.state == "destroying":
                self._spawn(sandbox, self._tear_down)
            elif sandbox.state == "stopping":
                self._spawn(sandbox, self._take_down)
            elif sandbox.state == "starting":
                self._spawn(sandbox, self._come_up)

    async def run(self) -> None:
        """Watch the deadlines until cancelled."""
        while True:
            try:
                self._tick(time.time())
            except Exception:  # noqa: BLE001 - a full disk now must not end the deadlines for ever
                _log.exception("watching the deadlines")
            await asyncio.sleep(TICK)

    def _tick(self, now: float) -> None:
        for sandbox in list(self._store.sandboxes.values()):
            self._reap(sandbox, now)
        self._place_waiting()
        self._store.drop_expired()
        if self._store.dirty and now >= self._saved_at + SAVE_EVERY:
            self._saved_at = now
            self._store.save()

    async def close(self) -> None:
        """End every process of every sandbox. Ephemeral sandboxes are gone afterwards, others are stopped."""
        for task in list(self._work.values()):
            task.cancel()
        await asyncio.gather(*self._work.values(), return_exceptions=True)
        ends = [shut_down(self._store, one) for one in list(self._store.sandboxes.values())]
        for failure in await asyncio.gather(*ends, return_exceptions=True):
            if failure is not None:
                _log.error("ending a sandbox: %s", failure)
        self._store.save()

    def _refuse_while_changing(self, sandbox: Sandbox) -> None:
        if sandbox.state in CHANGING or sandbox.state == "pending_build":
            raise ApiError(409, _BUSY)

    def _move(self, sandbox: Sandbox, state: str, reason: str | None = None) -> None:
        before, now = sandbox.state, time.time()
        sandbox.state, sandbox.error_reason, sandbox.updated_at = state, reason, now
        sandbox.last_activity_at = now  # a change of state counts as activity on the platform
        if state == "started":
            sandbox.started_at, sandbox.stopped_at = now, None
        if state == "stopped":
            sandbox.stopped_at = now
        if state in ENDED:
            sandbox.gpu_ids = []
        self._store.save()
        _log.info("sandbox %s: %s -> %s%s", sandbox.id, before, state, f" ({reason})" if reason else "")
        self._moved(sandbox, before)

    def _spawn(self, sandbox: Sandbox, work: Work) -> None:
        former = self._work.get(sandbox.id)
        if former is not None:
            former.cancel()
        task = asyncio.get_running_loop().create_task(self._guarded(sandbox, work))
        self._work[sandbox.id] = task
        task.add_done_callback(lambda done: self._finished(sandbox.id, done))

    def _finished(self, sandbox_id: str, task: asyncio.Task[None]) -> None:
        if self._work.get(sandbox_id) is task:
            del self._work[sandbox_id]

    async def _guarded(self, sandbox: Sandbox, work: Work) -> None:
        try:
            await work(sandbox)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sandbox must show it
            _log.exception("sandbox %s", sandbox.id)
            self._move(sandbox, "error", f"{type(error).__name__}: {error}")

    async def _bring_up(self, sandbox: Sandbox) -> None:
        await self._wait_for_place(sandbox)
        try:
            await self._build(sandbox)
        except BuildError as error:
            self._report(sandbox, f"failed: {error}")
            self._move(sandbox, "build_failed", str(error))
            return
        self._move(sandbox, "creating")
        await asyncio.sleep(faults.seconds(sandbox.labels, "slow-boot") or 0.0)
        if "error" in faults.faults(sandbox.labels):
            self._move(sandbox, "error", "injected fault: error")
            return
        await self._come_up(sandbox)

    async def _wait_for_place(self, sandbox: Sandbox) -> None:
        event = self._placed.get(sandbox.id)
        try:
            if event is not None:
                await event.wait()
        finally:
            self._placed.pop(sandbox.id, None)

    def _place_waiting(self) -> None:
        """Give free GPUs to those that wait, the oldest first."""
        for sandbox in self._store.living():
            event = self._placed.get(sandbox.id)
            if event is None or event.is_set() or "no-capacity" in faults.faults(sandbox.labels):
                continue
            held = {gpu for one in self._store.sandboxes.values() for gpu in one.gpu_ids}
            chosen = self._config.pool.choose(sandbox.gpu_types, sandbox.gpu, held)
            if chosen or sandbox.gpu == 0:
                sandbox.gpu_ids = [gpu.id for gpu in chosen]
                sandbox.gpu_type = chosen[0].type if chosen else None
                event.set()

    async def _build(self, sandbox: Sandbox) -> None:
        if sandbox.dockerfile is None:
            return
        built = self._images.cached(sandbox.dockerfile)
        failing = "build-failed" in faults.faults(sandbox.labels)
        if built is None or failing:
            self._move(sandbox, "building_snapshot")
            if failing:
                raise BuildError("injected fault: build-failed")
            built = await self._images.build(sandbox.dockerfile, lambda line: self._report(sandbox, line))
        else:
            self._report(sandbox, "using the image built before")
        sandbox.image_path, sandbox.image_env = list(built.path), dict(built.env)

    async def _come_up(self, sandbox: Sandbox) -> None:
        root = self._store.root(sandbox.id)
        private_directory(root / "home")
        drop_temporary(sandbox)
        # Outside the sandbox's own directory, for a short path: vLLM makes Unix sockets here, and names them by a UUID.
        sandbox.temporary = tempfile.mkdtemp(prefix="gpuserve-")
        await asyncio.sleep(0)
        self._move(sandbox, "started")

    async def _take_down(self, sandbox: Sandbox) -> None:
        await kill_all(sandbox.id, self._store.root(sandbox.id))
        await asyncio.to_thread(drop_temporary, sandbox)
        self._move(sandbox, "stopped")

    async def _tear_down(self, sandbox: Sandbox) -> None:
        root = self._store.root(sandbox.id)
        await kill_all(sandbox.id, root)
        await asyncio.to_thread(drop_temporary, sandbox)
        await asyncio.to_thread(remove_tree, root)
        self._store.drop_signed(sandbox.id)
        if sandbox.destroyed_at is None:
            self._store.forget(sandbox.id)
        self._move(sandbox, "destroyed")
        self._place_waiting()

    def _report(self, sandbox: Sandbox, line: str) -> None:
        """Add a line to the build log. Called from the build's thread, too."""
        root = self._store.root(sandbox.id)
        if root.is_dir():
            with (root / "build.log").open("a", encoding="utf-8") as log:
                log.write(f"{now_iso()} {line}\n")

    def _reap(self, sandbox: Sandbox, now: float) -> None:
        minute = self._config.minute
        if sandbox.state in GONE:
            if sandbox.destroyed_at is not None and now > sandbox.destroyed_at + REMEMBERED:
                self._store.forget(sandbox.id)
            return
        evict_after = faults.seconds(sandbox.labels, "evict")
        if sandbox.auto_destroy_at is not None and now >= sandbox.auto_destroy_at:
            self.destroy(sandbox, remember=True)
        elif _queued_too_long(sandbox, now, minute):
            sandbox.queue_timed_out_at = now
            self.destroy(sandbox, remember=True)
        elif evict_after is not None and sandbox.started_at and now >= sandbox.started_at + evict_after:
            sandbox.spot_evicted_at = now
            self.destroy(sandbox, remember=True)
        elif sandbox.started and 0 < sandbox.auto_stop * minute <= now - sandbox.last_activity_at:
            self.stop(sandbox)
        elif sandbox.stopped_at and 0 <= sandbox.auto_delete * minute <= now - sandbox.stopped_at:
            self.destroy(sandbox)


def _queued_too_long(sandbox: Sandbox, now: float, minute: float) -> bool:
    if sandbox.state != "pending_build" or sandbox.queue_timeout is None:
        return False
    return now >= sandbox.created_at + sandbox.queue_timeout * minute


async def shut_down(store: Store, sandbox: Sandbox) -> None:
    """End a sandbox's processes with the host: an ephemeral one is forgotten with its directory, others are stopped.

    The caller saves the store. One that was still being created is created anew at the next start.
    """
    if sandbox.state == "destroyed":
        return
    root = store.root(sandbox.id)
    await kill_all(sandbox.id, root)
    await asyncio.to_thread(drop_temporary, sandbox)
    if sandbox.ephemeral or sandbox.state == "destroying":
        await asyncio.to_thread(remove_tree, root)
        store.forget(sandbox.id)
    elif sandbox.state in {"started", "starting", "stopping"}:
        sandbox.state, sandbox.stopped_at, sandbox.updated_at = "stopped", time.time(), time.time()


def drop_temporary(sandbox: Sandbox) -> None:
    """Delete the directory of a sandbox's temporary files; its next start makes another."""
    if sandbox.temporary:
        remove_tree(Path(sandbox.temporary))
        sandbox.temporary = ""


def remove_tree(path: Path) -> None:
    """Delete a directory with everything in it, also what a program in it made read-only."""
    if not path.exists():
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        for directory, _, _ in os.walk(path):
            Path(directory).chmod(0o700)
        shutil.rmtree(path)
