"""What the control plane says about itself: configuration, key, regions, usage, capacity, and the host's own routes."""

from __future__ import annotations

import hashlib
import hmac
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from gpuserve.host.admission import used
from gpuserve.host.config import DEFAULT_REGION, REGIONS
from gpuserve.host.guard import request_log
from gpuserve.host.house import House, house_of
from gpuserve.host.views import user_name
from gpuserve.host.wire import ApiError, now_iso

PROOF_HEADER = "X-Gpuserve-Proof"
"""Answers ``/api/config?challenge=TEXT`` with a keyed hash of TEXT: whoever knows the key can tell the real host."""


def routes() -> list[web.RouteDef]:
    """Every route that is not about one sandbox."""
    organization = "/api/organizations/{organization}"
    return [
        web.get("/api/config", configuration),
        web.get("/api/health", health),
        web.get("/api/api-keys/current", current_key),
        web.get("/api/regions", regions),
        web.get("/api/shared-regions", regions),
        web.get(organization + "/usage", usage),
        web.get(organization + "/gpu-capacity", gpu_capacity),
        web.get("/api/_host/requests", requests),
        web.post("/api/_host/stop", stop),
    ]


def package_version() -> str:
    """The version of this package."""
    try:
        return version("gpuserve")
    except PackageNotFoundError:
        return "0"


def proof(key: str, challenge: str) -> str:
    """The keyed hash of a challenge, in hexadecimal."""
    return hmac.new(key.encode(), challenge.encode(), hashlib.sha256).hexdigest()


async def configuration(request: web.Request) -> web.Response:
    """``GET /config``, without a key."""
    house = house_of(request)
    answer = {
        "version": f"gpuserve-{package_version()}",
        "oidc": {"issuer": "", "clientId": "", "audience": "", "provider": "none"},
        "linkedAccountsEnabled": False,
        "announcements": {},
        "proxyTemplateUrl": f"{house.origin}/preview/{{{{PORT}}}}-{{{{sandboxId}}}}",
        "proxyToolboxUrl": house.toolbox_url,
        "defaultSnapshot": "none",
        "dashboardUrl": house.origin,
        "maxAutoArchiveInterval": 43_200,
        "maintananceMode": False,
        "environment": "local",
    }
    response = web.json_response(answer)
    challenge = request.query.get("challenge")
    if challenge:
        response.headers[PROOF_HEADER] = proof(house.config.key, challenge)
    return response


async def health(_request: web.Request) -> web.Response:
    """``GET /health``."""
    return web.json_response({"status": "ok"})


async def current_key(request: web.Request) -> web.Response:
    """``GET /api-keys/current``: the key that asks, masked."""
    house = house_of(request)
    answer = {
        "name": "local",
        "value": house.config.key[:3] + "*" * 8,
        "createdAt": now_iso(),
        "permissions": ["write:sandboxes", "delete:sandboxes"],
        "lastUsedAt": None,
        "expiresAt": None,
        "userId": user_name(),
        "organizationId": house.store.organization_id,
    }
    return web.json_response(answer)


async def regions(request: web.Request) -> web.Response:
    """``GET /regions`` and ``/shared-regions``."""
    house = house_of(request)
    names = [
        {"id": name, "name": name, "regionType": "shared", "createdAt": now_iso(), "updatedAt": now_iso()}
        for name in REGIONS
    ]
    return web.json_response([region | {"proxyUrl": house.origin} for region in names])


def _own_organization(request: web.Request) -> House:
    house = house_of(request)
    if request.match_info["organization"] != house.store.organization_id:
        raise ApiError(404, f"Organization with ID {request.match_info['organization']} not found")
    return house


async def usage(request: web.Request) -> web.Response:
    """``GET /organizations/{id}/usage``: totals and what is in use."""
    house = _own_organization(request)
    quota = house.config.quota
    region: dict[str, object] = {"regionId": DEFAULT_REGION, "sandboxClass": "container"}
    for name in ("cpu", "memory", "disk", "gpu"):
        region[f"total{name.title()}Quota"] = getattr(quota, f"total_{name}")
        region[f"current{name.title()}Usage"] = used(house.store, name)
    for name in ("cpu", "memory", "disk"):
        region[f"max{name.title()}PerSandbox"] = region[f"max{name.title()}PerGpu"] = getattr(quota, name)
    region |= {"maxDiskPerNonEphemeralSandbox": quota.disk, "allowedGpuTypes": list(house.config.pool.types)}
    totals = ("totalSnapshotQuota", "currentSnapshotUsage", "totalVolumeQuota", "currentVolumeUsage")
    return web.json_response({"regionUsage": [region]} | dict.fromkeys(totals, 0))


async def gpu_capacity(request: web.Request) -> web.Response:
    """``GET /organizations/{id}/gpu-capacity``: free GPUs by type."""
    house = _own_organization(request)
    held = {gpu for one in house.store.sandboxes.values() for gpu in one.gpu_ids}
    pool = house.config.pool
    capacity = [
        {"gpuType": kind, "availableOnDemand": pool.count(kind, held), "availableSpot": pool.count(kind, held)}
        for kind in pool.types
    ]
    return web.json_response({"observedAt": now_iso(), "capacity": capacity})


async def requests(request: web.Request) -> web.Response:
    """``GET /_host/requests``: the latest requests, oldest first, without queries and with signed tokens masked."""
    return web.json_response(list(request_log(request)))


async def stop(request: web.Request) -> web.Response:
    """``POST /_host/stop``: end the host and every process of its sandboxes."""
    house_of(request).stopping.set()
    return web.Response(status=202)
