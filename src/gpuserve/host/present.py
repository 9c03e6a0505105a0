"""Sandboxes as the API shows them. Field names and types follow the models of Daytona's client 0.226.1."""

from __future__ import annotations

from typing import Any

from gpuserve.host.store import GONE, Sandbox
from gpuserve.host.wire import iso_from

Json = dict[str, Any]
RUNNER_ID = "local"
_NOT_IN_LISTS = frozenset({"env", "kvm", "volumes", "buildInfo"})
"""Fields that a list does not carry on the platform."""


def sandbox_json(sandbox: Sandbox, organization_id: str, toolbox_url: str) -> Json:
    """One sandbox in full. Fields without a value are left out."""
    fields: Json = {
        "id": sandbox.id,
        "organizationId": organization_id,
        "name": sandbox.name,
        "snapshot": sandbox.snapshot,
        "user": sandbox.user,
        "env": sandbox.env,
        "labels": sandbox.labels,
        "public": sandbox.public,
        "networkBlockAll": bool(sandbox.network.get("networkBlockAll", False)),
        "networkAllowList": sandbox.network.get("networkAllowList"),
        "domainAllowList": sandbox.network.get("domainAllowList"),
        "kvm": False,
        "target": sandbox.target,
        "volumes": [],
        "runnerId": RUNNER_ID,
        "sandboxClass": "container",
        "backupState": "None",
        "toolboxProxyUrl": toolbox_url,
    }
    fields |= _resources(sandbox) | _state(sandbox) | _times(sandbox)
    if sandbox.dockerfile is not None:
        fields["buildInfo"] = _build_info(sandbox)
    return {name: value for name, value in fields.items() if value is not None}


def list_item(full: Json) -> Json:
    """The same sandbox as a list shows it."""
    return {name: value for name, value in full.items() if name not in _NOT_IN_LISTS}


def _resources(sandbox: Sandbox) -> Json:
    return {
        "cpu": sandbox.cpu,
        "memory": sandbox.memory,
        "disk": sandbox.disk,
        "gpu": sandbox.gpu,
        "gpuType": sandbox.gpu_type,
        "spot": sandbox.spot,
    }


def _state(sandbox: Sandbox) -> Json:
    desired = "started"
    if sandbox.state in GONE:
        desired = "destroyed"
    elif sandbox.state in {"stopping", "stopped"}:
        desired = "stopped"
    return {
        "state": sandbox.state,
        "desiredState": desired,
        "errorReason": sandbox.error_reason,
        "recoverable": False,
        "autoStopInterval": sandbox.auto_stop,
        "autoPauseInterval": sandbox.auto_pause,
        "autoArchiveInterval": sandbox.auto_archive,
        "autoDeleteInterval": sandbox.auto_delete,
        "queueTimeout": sandbox.queue_timeout,
    }


def _times(sandbox: Sandbox) -> Json:
    moments = {
        "createdAt": sandbox.created_at,
        "updatedAt": sandbox.updated_at,
        "lastActivityAt": sandbox.last_activity_at,
        "autoDestroyAt": sandbox.auto_destroy_at,
        "spotEvictedAt": sandbox.spot_evicted_at,
        "queueTimedOutAt": sandbox.queue_timed_out_at,
    }
    return {name: None if moment is None else iso_from(moment) for name, moment in moments.items()}


def _build_info(sandbox: Sandbox) -> Json:
    created = iso_from(sandbox.created_at)
    return {
        "dockerfileContent": sandbox.dockerfile,
        "contextHashes": sandbox.context_hashes,
        "createdAt": created,
        "updatedAt": created,
        "snapshotRef": sandbox.build_ref or "",
    }
