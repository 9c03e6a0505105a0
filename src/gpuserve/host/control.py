"""The control plane: sandboxes, their intervals, labels, previews and build logs, under ``/api``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from gpuserve.host import faults, listing, present
from gpuserve.host.admission import admit, set_ttl, text_map
from gpuserve.host.house import House, house_of
from gpuserve.host.store import Sandbox
from gpuserve.host.wire import ApiError

SHORTEST_SIGNED, LONGEST_SIGNED = 1, 86_400
_BUILDING = frozenset({"pending_build", "building_snapshot"})
_LOG_STEP = 0.1
"""Seconds between two looks at a build log that is being followed."""


def routes() -> list[web.RouteDef]:
    """Every route about sandboxes. The API key is checked before any of them is reached."""
    one = "/api/sandbox/{sandbox}"
    return [
        web.post("/api/sandbox", create),
        web.get("/api/sandbox", list_sandboxes),
        web.get(one, get),
        web.delete(one, delete),
        web.post(one + "/stop", stop),
        web.post(one + "/start", start),
        web.put(one + "/labels", put_labels),
        web.post(one + "/autostop/{number}", set_auto_stop),
        web.post(one + "/autodelete/{number}", set_auto_delete),
        web.post(one + "/ttl/{number}", set_time_to_live),
        web.post(one + "/public/{public}", set_public),
        web.post(one + "/last-activity", refresh_activity),
        web.get(one + "/toolbox-proxy-url", toolbox_proxy_url),
        web.get(one + "/build-logs-url", build_logs_url),
        web.get(one + "/build-logs", build_logs),
        web.get(one + "/ports/{port}/preview-url", preview_url),
        web.get(one + "/ports/{port}/signed-preview-url", sign_preview_url),
        web.post(one + "/ports/{port}/signed-preview-url/{token}/expire", expire_preview_url),
    ]


def _target(request: web.Request) -> tuple[House, Sandbox]:
    house = house_of(request)
    return house, house.sandbox(request.match_info["sandbox"])


def _answer(house: House, sandbox: Sandbox) -> web.Response:
    return web.json_response(house.shown(sandbox))


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise ApiError(400, "the body must be JSON") from error


async def create(request: web.Request) -> web.StreamResponse:
    """``POST /sandbox``: the sandbox in the state it has at once; the client waits for ``started`` by itself."""
    house = house_of(request)
    sandbox = admit(await _json(request), house.store, house.config)
    house.store.sandboxes[sandbox.id] = sandbox
    house.store.save()
    house.lifecycle.launch(sandbox)
    house.events.publish("sandbox.created", house.shown(sandbox))
    answer = _answer(house, sandbox)
    await asyncio.sleep(faults.seconds(sandbox.labels, "slow-create") or 0.0)
    if "lost-answer" in faults.faults(sandbox.labels) and request.transport is not None:
        request.transport.abort()
    return answer


async def list_sandboxes(request: web.Request) -> web.Response:
    """``GET /sandbox``: one page, newest first unless asked otherwise; destroyed ones never."""
    house = house_of(request)
    living = [one for one in house.store.sandboxes.values() if one.state != "destroyed"]
    rows, cursor = listing.page(living, request.query)
    items = [present.list_item(house.shown(one)) for one in rows]
    return web.json_response({"items": items, "nextCursor": cursor})


async def get(request: web.Request) -> web.Response:
    """``GET /sandbox/{id or name}``."""
    house = house_of(request)
    return _answer(house, house.sandbox(request.match_info["sandbox"], even_destroyed=True))


async def delete(request: web.Request) -> web.Response:
    """``DELETE /sandbox/{id}``: begins to destroy it."""
    house, sandbox = _target(request)
    house.faults.conflict(sandbox.id, sandbox.labels)
    house.lifecycle.delete(sandbox)
    return _answer(house, sandbox)


async def stop(request: web.Request) -> web.Response:
    """``POST /sandbox/{id}/stop``: begins to stop it; an ephemeral one is destroyed."""
    house, sandbox = _target(request)
    house.lifecycle.stop(sandbox)
    return _answer(house, sandbox)


async def start(request: web.Request) -> web.Response:
    """``POST /sandbox/{id}/start``: begins to start a stopped one."""
    house, sandbox = _target(request)
    house.lifecycle.start(sandbox)
    return _answer(house, sandbox)


async def put_labels(request: web.Request) -> web.Response:
    """``PUT /sandbox/{id}/labels``: replaces all labels."""
    house, sandbox = _target(request)
    body = await _json(request)
    labels = text_map(body.get("labels") if isinstance(body, dict) else None, "labels")
    faults.faults(labels)
    sandbox.labels = labels
    house.store.save()
    return web.json_response({"labels": labels})


def _number(request: web.Request, name: str, least: int) -> int:
    try:
        number = int(request.match_info["number"])
    except ValueError as error:
        raise ApiError(400, f"{name} must be an integer number") from error
    if number < least:
        raise ApiError(400, f"{name} must be a non-negative integer")
    return number


async def set_auto_stop(request: web.Request) -> web.Response:
    """``POST /sandbox/{id}/autostop/{minutes}``: 0 means never."""
    house, sandbox = _target(request)
    sandbox.auto_stop = _number(request, "autoStopInterval", 0)
    house.store.save()
    return _answer(house, sandbox)


async def set_auto_delete(request: web.Request) -> web.Response:
    """``POST /sandbox/{id}/autodelete/{minutes}``: negative means never, 0 means ephemeral."""
    house, sandbox = _target(request)
    number = _number(request, "autoDeleteInterval", -1_000_000)
    if sandbox.gpu:
        raise ApiError(400, "GPU sandboxes must remain ephemeral")
    sandbox.auto_delete = max(number, -1)
    house.store.save()
    return _answer(house, sandbox)


async def set_time_to_live(request: web.Request) -> web.Response:
    """``POST /sandbox/{id}/ttl/{minutes}``: counted from now; 0 means no limit."""
    house, sandbox = _target(request)
    set_ttl(sandbox, _number(request, "ttlMinutes", 0), house.config.minute)
    house.store.save()
    return _answer(house, sandbox)


async def set_public(request: web.Request) -> web.Response:
    """``POST /sandbox/{id}/public/{true or false}``."""
    house, sandbox = _target(request)
    text = request.match_info["public"].lower()
    if text not in {"true", "false"}:
        raise ApiError(400, "public must be true or false")
    sandbox.public = text == "true"
    house.store.save()
    return _answer(house, sandbox)


async def refresh_activity(request: web.Request) -> web.Response:
    """``POST /sandbox/{id}/last-activity``: an explicit sign of life."""
    house, sandbox = _target(request)
    house.touch(sandbox)
    return web.Response(status=201)


async def toolbox_proxy_url(request: web.Request) -> web.Response:
    """``GET /sandbox/{id}/toolbox-proxy-url``."""
    house, _ = _target(request)
    return web.json_response({"url": house.toolbox_url})


async def build_logs_url(request: web.Request) -> web.Response:
    """``GET /sandbox/{id}/build-logs-url``: where the log of the build can be read."""
    house, sandbox = _target(request)
    return web.json_response({"url": f"{house.origin}/api/sandbox/{sandbox.id}/build-logs"})


async def build_logs(request: web.Request) -> web.StreamResponse:
    """``GET /sandbox/{id}/build-logs``: the log as text; with ``follow=true`` until the build ends."""
    house, sandbox = _target(request)
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    await response.prepare(request)
    follow = request.query.get("follow", "").lower() == "true"
    async for piece in _log_pieces(house, sandbox, follow=follow):
        await response.write(piece)
    await response.write_eof()
    return response


async def _log_pieces(house: House, sandbox: Sandbox, *, follow: bool) -> AsyncIterator[bytes]:
    path = house.store.root(sandbox.id) / "build.log"
    position = 0
    while True:
        ended = not follow or sandbox.state not in _BUILDING
        if path.exists():
            with path.open("rb") as log:
                log.seek(position)
                piece = log.read()
            position += len(piece)
            if piece:
                yield piece
        if ended:
            return
        await asyncio.sleep(_LOG_STEP)


def _port(request: web.Request) -> int:
    text = request.match_info["port"]
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise ApiError(400, "Invalid port")
    return int(text)


async def preview_url(request: web.Request) -> web.Response:
    """``GET /sandbox/{id}/ports/{port}/preview-url``: the address and the token that opens the whole sandbox."""
    house, sandbox = _target(request)
    url = house.preview_url(_port(request), sandbox.id)
    return web.json_response({"sandboxId": sandbox.id, "url": url, "token": sandbox.token})


async def sign_preview_url(request: web.Request) -> web.Response:
    """``GET /sandbox/{id}/ports/{port}/signed-preview-url``: an address that opens one port for a while."""
    house, sandbox = _target(request)
    port = _port(request)
    try:
        seconds = int(request.query.get("expiresInSeconds", "60"))
    except ValueError:
        seconds = 0
    if not SHORTEST_SIGNED <= seconds <= LONGEST_SIGNED:
        raise ApiError(400, "expiresInSeconds must be between 1 second and 24 hours")
    token = house.store.sign(sandbox.id, port, seconds)
    url = house.preview_url(port, token)
    return web.json_response({"sandboxId": sandbox.id, "port": port, "token": token, "url": url})


async def expire_preview_url(request: web.Request) -> web.Response:
    """``POST .../signed-preview-url/{token}/expire``: ends a signed address now, also one that has ended already."""
    house, sandbox = _target(request)
    token = request.match_info["token"]
    found = house.store.signed_for(token)
    if found is not None and found.sandbox_id == sandbox.id and found.port == _port(request):
        house.store.revoke(token)
    return web.Response()
