"""The injector: many upstreams behind one listener, for a gateway that can't give each worker its own credentials.

A worker called ``NAME`` is at ``/w/NAME/…``. Everything there wants the gateway's key, which the gateway passes on with
each request: whoever lacks it can't come around the gateway. Only ``/w/NAME/health`` is open, since a gateway's first
look carries no key; it is answered here, from what was found when the worker was last looked at, and goes nowhere.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from gpuserve.errors import GpuserveError
from gpuserve.proxy.guard import Refusal, refusal
from gpuserve.proxy.relay import refused, relay
from gpuserve.proxy.server import Proxy
from gpuserve.proxy.upstream import Way

#: The path prefix of workers, and of the injector's own affairs.
WORKERS, CONTROL = "/w/", "/control/"
#: Most bytes of an order to the injector.
_ORDER = 2**16
#: Takes an order's name and its fields, and answers it.
Control = Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, object]]]


class Injector(Proxy):
    """Serves the workers in ``ways``, by name, while they come and go; only those in ``healthy`` are said to be well.

    ``key`` is the gateway's, ``control_key`` opens ``/control/…``, whose orders ``control`` answers.
    """

    def __init__(self, *, listener: socket.socket, key: str, control_key: str, control: Control) -> None:
        super().__init__({}, key=key, listener=listener)
        self.ways: dict[str, Way] = {}
        self.healthy: set[str] = set()
        self._control_key = control_key
        self._control = control

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if path.startswith(CONTROL):
            return await self._ordered(request, path.removeprefix(CONTROL))
        name, slash, rest = request.raw_path.removeprefix(WORKERS).partition("/")
        if request.method == "GET" and path == f"{WORKERS}{name}/health":
            why = refusal(request, "")
            return refused(why) if why else self._health(name)
        why = refusal(request, self._key)
        if why is not None:
            return refused(why)
        way = self.ways.get(name) if path.startswith(WORKERS) and slash else None
        if way is None or name not in self.healthy:
            # 502, also for one that has just gone: the gateway then asks another.
            return refused(Refusal(502, "upstream_unavailable", "this worker can't be asked now"))
        return await relay(request, self._session, way, f"/{rest}")

    def _health(self, name: str) -> web.Response:
        well = name in self.healthy
        return web.json_response({"status": "ok" if well else "unavailable"}, status=200 if well else 503)

    async def _ordered(self, request: web.BaseRequest, name: str) -> web.Response:
        why = refusal(request, self._control_key)
        if why is not None:
            return refused(why)
        try:
            fields = json.loads(await request.content.read(_ORDER) or b"{}")
            answer = await self._control(name, fields)
        except (ValueError, TypeError, KeyError) as error:
            return refused(Refusal(400, "invalid_order", f"no such order: {type(error).__name__}"))
        except GpuserveError as error:
            return refused(Refusal(409, error.code, error.message))
        return web.json_response(answer)
