"""The web application: every route of the host on one port."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from aiohttp import web

from gpuserve.host import account, control, guard, preview, session_routes, toolbox
from gpuserve.host.house import HOUSE, House
from gpuserve.host.ports import Ports

_TASKS: web.AppKey[list[asyncio.Task[None]]] = web.AppKey("tasks", list)
MOST_BODY = 64 * 2**20
"""Bytes that a request body read as a whole may have: commands and code. Files and previews are streamed."""


def make_app(house: House) -> web.Application:
    """The application that serves ``house``."""
    app = web.Application(
        client_max_size=MOST_BODY,
        middlewares=[
            guard.logged,
            guard.errors_as_json,
            guard.from_here,
            preview.by_host,
            guard.with_key,
            guard.toolbox_lives,
        ],
    )
    app[HOUSE] = house
    app[guard.REQUEST_LOG] = deque(maxlen=guard.KEPT_REQUESTS)
    app[preview.PORTS] = Ports()
    house.events.attach(app)
    app.add_routes(account.routes())
    app.add_routes(control.routes())
    app.add_routes(preview.routes())
    app.add_routes(toolbox.routes(house.resolve))
    app.router.add_route("*", "/api/{rest:.*}", guard.not_built)
    app.cleanup_ctx.append(_client)
    app.cleanup_ctx.append(_work)
    app.on_shutdown.append(_end)
    app.on_shutdown.append(session_routes.hang_up)
    return app


async def _client(app: web.Application) -> AsyncIterator[None]:
    async with preview.client() as session:
        app[preview.CLIENT] = session
        yield


async def _work(app: web.Application) -> AsyncIterator[None]:
    """Run the deadlines and the events for as long as the application lives."""
    house = app[HOUSE]
    house.lifecycle.resume()
    app[_TASKS] = [asyncio.create_task(house.lifecycle.run()), asyncio.create_task(house.events.run())]
    yield
    await _end(app)


async def _end(app: web.Application) -> None:
    """End the work, then every sandbox, then the connections: before the server waits for open requests."""
    house = app[HOUSE]
    house.stopping.set()
    for task in app[_TASKS]:
        task.cancel()
    await asyncio.gather(*app[_TASKS], return_exceptions=True)
    if app[_TASKS]:
        await house.lifecycle.close()
        await house.events.close()
    app[_TASKS].clear()
