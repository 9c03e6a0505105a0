"""Tries a way in: does it lead to a living engine that takes it, and if not, what is in the way?"""

from __future__ import annotations

import json

from gpuserve.client.faults import fault_error, read_fault
from gpuserve.client.transport import UNSEEN, failure, open_client, read_start, request_headers
from gpuserve.records import Endpoint

#: A route that every engine has, and that its key guards if it checks one. Asking it costs no token.
ROUTE = "/v1/models"


def look(endpoint: Endpoint, *, timeout: float = 10.0) -> tuple[str, ...]:
    """The served models' names, from one request that doesn't count as use. ``timeout`` is in seconds.

    Raises:
        NotAuthenticated: the link, the token or the key is refused; the message says which.
        NotFound: the sandbox has stopped or is gone.
        NetworkError: nobody answers, or nothing listens behind the proxy.
        EngineError, PlatformError, TimedOut, UsageError: as ``client.faults``.
    """
    import httpx

    headers = request_headers(endpoint) | UNSEEN
    try:
        with (
            open_client(endpoint.url, silence=timeout) as client,
            client.stream("GET", endpoint.url + ROUTE, headers=headers) as response,
        ):
            status, body = response.status_code, read_start(response)
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise failure(error, endpoint, timeout) from error
    if status != 200:
        raise fault_error(read_fault(status, body), endpoint)
    return _names(body)


def _names(body: bytes) -> tuple[str, ...]:
    try:
        models = json.loads(body)["data"]
        return tuple(str(model["id"]) for model in models)
    except (ValueError, KeyError, TypeError):
        return ()  # another server than those we know: it answered, and that is what was asked
