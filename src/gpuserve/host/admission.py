"""What a create request must satisfy, with the platform's words when it does not, and the record made from it."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from gpuserve.host import faults
from gpuserve.host.config import DEFAULT_REGION, REGIONS, Config, Quota
from gpuserve.host.store import EPHEMERAL, Sandbox, Store, random_token
from gpuserve.host.views import user_name
from gpuserve.host.wire import ApiError

Body = Mapping[str, Any]
_SIZES = ("cpu", "gpu", "memory", "disk")
_INTERVALS = ("autoStopInterval", "autoPauseInterval", "autoArchiveInterval", "autoDeleteInterval")
_INTEGERS = (*_SIZES, *_INTERVALS, "ttlMinutes", "queueTimeout")
_ABSENT = {"volumes": "Volumes", "secrets": "Secrets", "linkedSandbox": "Linked sandboxes", "kvm": "KVM"}
_BAD_NAME = re.compile(r"[\x00-\x1f\x7f<>]|://")


def admit(body: Any, store: Store, config: Config) -> Sandbox:
    """The sandbox that ``body`` asks for, in ``pending_build``, not yet in the store.

    Raises:
        ApiError: 400 for what is malformed, over quota or not to be had here, 404 for the region, 409 for the name.
    """
    if not isinstance(body, Mapping):
        raise ApiError(400, "the body must be a JSON object")
    _check_types(body)
    _refuse_absent(body)
    labels = dict(body.get("labels") or {})
    _injected(labels, config.quota)
    target = body.get("target") or DEFAULT_REGION
    if target not in REGIONS:
        raise ApiError(404, "Region not found")
    sandbox_id = str(uuid.uuid4())
    sandbox = Sandbox(
        id=sandbox_id,
        name=_name(body, store) or sandbox_id,
        token=random_token(32),
        target=str(target),
        labels=labels,
        env=dict(body.get("env") or {}),
        public=bool(body.get("public", False)),
        user=body.get("user") or user_name(),
        spot=bool(body.get("spot", False)),
        network={key: body[key] for key in ("networkBlockAll", "networkAllowList", "domainAllowList") if key in body},
    )
    _set_resources(sandbox, body)
    _set_intervals(sandbox, body, config.minute)
    _set_image(sandbox, body)
    _check_gpu(sandbox, config)
    _check_quota(sandbox, store, config.quota)
    return sandbox


def text_map(value: Any, name: str) -> dict[str, str]:
    """``value`` as a mapping of strings to strings.

    Raises:
        ApiError: 400 when it is none.
    """
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ApiError(400, f"{name} must be an object of strings")
    return dict(value)


def _check_types(body: Body) -> None:
    for name in _INTEGERS:
        value = body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ApiError(400, f"{name} must be an integer number")
    for name in ("env", "labels"):
        if body.get(name) is not None:
            text_map(body[name], name)
    for name in ("name", "snapshot", "user", "target"):
        if body.get(name) is not None and not isinstance(body[name], str):
            raise ApiError(400, f"{name} must be a string")
    for name in ("public", "spot", "networkBlockAll", "kvm"):
        if body.get(name) is not None and not isinstance(body[name], bool):
            raise ApiError(400, f"{name} must be a boolean value")


def _refuse_absent(body: Body) -> None:
    for name, words in _ABSENT.items():
        if body.get(name):
            raise ApiError(400, f"{words} are not available on this host ({name})")


def _injected(labels: Mapping[str, str], quota: Quota) -> None:
    asked = faults.faults(labels)
    if "quota" in asked:
        raise ApiError(400, f"Total GPU limit exceeded. Maximum allowed: {quota.total_gpu}.")
    if "create" in asked:
        raise ApiError(int(float(asked["create"])), "injected fault: create")


def _name(body: Body, store: Store) -> str | None:
    name = body.get("name")
    if not name:
        return None
    if _BAD_NAME.search(name) or len(name) > 255:
        raise ApiError(400, "name must be plain text without markup, addresses or control characters")
    if store.find(name) is not None:
        raise ApiError(409, f"Sandbox with name {name} already exists")
    return str(name)


def _set_resources(sandbox: Sandbox, body: Body) -> None:
    for name, least in (("cpu", 1), ("memory", 1), ("disk", 1), ("gpu", 0)):
        value = body.get(name)
        if value is None:
            continue
        if value < least:
            raise ApiError(400, f"{name} must not be less than {least}")
        setattr(sandbox, name, value)
    kinds = body.get("gpuType") or []
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ApiError(400, "gpuType must be a GPU type or a list of them")
    sandbox.gpu_types = list(dict.fromkeys(kinds))


def _set_intervals(sandbox: Sandbox, body: Body, minute: float) -> None:
    pairs = {"autoStopInterval": "auto_stop", "autoPauseInterval": "auto_pause", "autoArchiveInterval": "auto_archive"}
    for name, attribute in pairs.items():
        value = body.get(name)
        if value is None:
            continue
        if value < 0:
            raise ApiError(400, f"{name} must be a non-negative integer")
        setattr(sandbox, attribute, value)
    if body.get("autoDeleteInterval") is not None:
        sandbox.auto_delete = body["autoDeleteInterval"]
    set_ttl(sandbox, body.get("ttlMinutes") or 0, minute)
    if body.get("queueTimeout") is not None:
        if body["queueTimeout"] < 1:
            raise ApiError(400, "queueTimeout must be a positive integer")
        sandbox.queue_timeout = body["queueTimeout"]


def set_ttl(sandbox: Sandbox, minutes: int, minute: float) -> None:
    """Destroy the sandbox ``minutes`` from now; 0 means never.

    Raises:
        ApiError: 400 for a negative number.
    """
    if minutes < 0:
        raise ApiError(400, "ttlMinutes must be a non-negative integer")
    sandbox.auto_destroy_at = time.time() + minutes * minute if minutes else None


def _set_image(sandbox: Sandbox, body: Body) -> None:
    sandbox.snapshot = body.get("snapshot")
    build = body.get("buildInfo")
    if build is None:
        return
    if not isinstance(build, Mapping) or not isinstance(build.get("dockerfileContent"), str):
        raise ApiError(400, "buildInfo.dockerfileContent must be a string")
    if build.get("contextHashes"):
        raise ApiError(400, "Build contexts are not available on this host (buildInfo.contextHashes)")
    sandbox.dockerfile = build["dockerfileContent"]
    sandbox.build_ref = f"daytona-{hashlib.sha256(sandbox.dockerfile.encode()).hexdigest()}:daytona"


def _check_gpu(sandbox: Sandbox, config: Config) -> None:
    if sandbox.gpu == 0:
        if sandbox.spot:
            raise ApiError(400, "Spot is only available for GPU sandboxes")
        return
    if sandbox.auto_delete != EPHEMERAL:
        raise ApiError(400, "GPU sandboxes must be ephemeral - set autoDeleteInterval to 0")
    allowed = config.pool.types
    if not allowed:
        raise ApiError(400, "No GPU types are allowed in this region.")
    wanted = sandbox.gpu_types
    sandbox.gpu_types = [kind for kind in wanted if kind in allowed]
    if wanted and not sandbox.gpu_types:
        named = f"Requested GPU type(s) {', '.join(wanted)} not permitted in this region."
        raise ApiError(400, f"{named} Allowed: {', '.join(allowed)}.")
    largest = max(config.pool.count(kind) for kind in sandbox.gpu_types or allowed)
    if sandbox.gpu > largest:
        raise ApiError(400, f"GPU request {sandbox.gpu} exceeds maximum allowed per sandbox ({largest}).")


def _check_quota(sandbox: Sandbox, store: Store, quota: Quota) -> None:
    units = max(1, sandbox.gpu)
    for name, words in (("cpu", "CPU"), ("memory", "Memory"), ("disk", "Disk")):
        asked, most = getattr(sandbox, name), getattr(quota, name) * units
        if asked > most:
            raise ApiError(
                400,
                f"{words} request {asked} exceeds maximum allowed per sandbox ({most}).\n"
                "Need higher resource limits per-sandbox? This host's limits are fixed.",
            )
    for name, words in (("cpu", "CPU"), ("memory", "memory"), ("disk", "disk"), ("gpu", "GPU")):
        most = getattr(quota, f"total_{name}")
        if used(store, name) + getattr(sandbox, name) > most:
            raise ApiError(400, f"Total {words} limit exceeded. Maximum allowed: {most}.")


def used(store: Store, name: str) -> int:
    """How much of a resource the existing sandboxes take: stopped and failed ones take disk only."""
    idle = {"stopped", "error", "build_failed"}
    return sum(int(getattr(one, name)) for one in store.living() if name == "disk" or one.state not in idle)
