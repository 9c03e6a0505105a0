"""Asks an engine's health route once, and says what the answer means.

Between the two stands the platform's proxy, which answers in the engine's place when it can't be reached.
Only a plain 200 is healthy: a redirect leads to a sign-in page that answers 200 too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gpuserve.client.faults import Fault, fault_error, read_fault
from gpuserve.client.transport import UNSEEN, failure, open_client, read_start, redactor_for, request_headers
from gpuserve.records import Endpoint

if TYPE_CHECKING:
    import httpx


class HealthState(StrEnum):
    """What one look at the health route tells."""

    READY = "ready"
    """The route answered 200."""
    NOT_YET = "not_yet"
    """Somebody answered, but not the healthy engine: starting, overloaded, or dead behind a living proxy."""
    REFUSED = "refused"
    """The credential was refused: waiting won't help. A deleted sandbox may answer this way too."""
    GONE = "gone"
    """The proxy says that the sandbox has stopped or is gone."""
    UNREACHABLE = "unreachable"
    """No answer from the network: refused, reset, unresolvable."""


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a probe: its state, a few words for a person, and the HTTP status (None without an answer)."""

    state: HealthState
    detail: str = ""
    status: int | None = None

    @property
    def ready(self) -> bool:
        """Whether the engine can be used."""
        return self.state is HealthState.READY


def probe(client: httpx.Client, endpoint: Endpoint, path: str, *, timeout: float) -> Health:
    """Asks ``path`` below ``endpoint.url`` once and never raises for what the other side does.

    ``timeout`` is in seconds, for the connection and for each silence. The look doesn't count as activity of the
    sandbox. No detail holds a credential.

    Raises:
        UsageError: a credential of ``endpoint`` holds what no HTTP header can.
    """
    import httpx

    headers = request_headers(endpoint) | UNSEEN
    try:
        with client.stream(
            "GET", endpoint.url + path, headers=headers, timeout=timeout, follow_redirects=False
        ) as response:
            return _verdict(response.status_code, read_start(response), endpoint, path)
    except httpx.ReadTimeout:
        return Health(HealthState.NOT_YET, f"no answer within {timeout:g} s")
    except (httpx.RequestError, httpx.InvalidURL) as error:
        return Health(HealthState.UNREACHABLE, failure(error, endpoint, timeout).message)


def _verdict(status: int, body: bytes, endpoint: Endpoint, path: str) -> Health:
    if status == 200:
        return Health(HealthState.READY, status=status)
    fault = read_fault(status, body)
    if fault.refused:
        return Health(HealthState.REFUSED, fault_error(fault, endpoint).message, status)
    if fault.sandbox_gone:
        return Health(HealthState.GONE, fault_error(fault, endpoint).message, status)
    return Health(HealthState.NOT_YET, _detail(fault, endpoint, path), status)


def _detail(fault: Fault, endpoint: Endpoint, path: str) -> str:
    if fault.status == 502:
        return "nothing listens yet"
    if fault.status == 404:
        return f"what listens there has no {path} (HTTP 404)"
    words = redactor_for(endpoint)(fault.words)
    return f"HTTP {fault.status}" + (f": {words}" if words else "")


class Prober:
    """Probes one endpoint again and again over one kept connection. A context manager."""

    def __init__(self, endpoint: Endpoint, path: str, *, timeout: float = 5.0) -> None:
        self._endpoint = endpoint
        self._path = path
        self._timeout = timeout
        self._client = open_client(endpoint.url, silence=timeout, connect=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def probe(self) -> Health:
        """One look, as ``probe()``."""
        return probe(self._client, self._endpoint, self._path, timeout=self._timeout)
