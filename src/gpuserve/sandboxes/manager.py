"""One place's sandboxes: create, find, list, delete, and the ways in."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from gpuserve.errors import Conflict, GpuserveError, NetworkError, NotFound, PlatformError, TimedOut
from gpuserve.records import Deployment, LaunchPlan, ServeRequest
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.create import Creation, parameters, state_of
from gpuserve.sandboxes.session import EngineSession
from gpuserve.sandboxes.translate import translated

if TYPE_CHECKING:
    from daytona import Daytona, Sandbox

#: Seconds within which one call of the API must be answered.
CALL_TIMEOUT = 20
#: Seconds within which a deleted sandbox must be gone.
DELETE_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where sandboxes live: ``name`` is "daytona" or "local"; ``api_key`` is a secret."""

    name: str
    api_url: str
    api_key: str = field(repr=False)
    region: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A preview URL with the token that opens the whole sandbox: an administrator's credential."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedLink:
    """A URL that opens one port until it expires or is revoked. The URL itself is the secret."""

    url: str = field(repr=False)
    token: str = field(repr=False)
    port: int
    expires_at: datetime


class Sandboxes:
    """What gpuserve does with sandboxes, in one place. Every call has a time limit; every error is ours."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @cached_property
    def _client(self) -> Daytona:
        """The SDK's client. Everything is told to it, so that it looks nothing up by itself."""
        from daytona import Daytona, DaytonaConfig

        place = self.place
        config = DaytonaConfig(api_key=place.api_key, api_url=place.api_url, target=place.region or None)
        with translated("connecting"), warnings.catch_warnings():
            # It warns of a .env that names an API URL; settings.py has already left that one out.
            warnings.simplefilter("ignore", UserWarning)
            return Daytona(config)

    def start_creation(
        self,
        request: ServeRequest,
        launch: LaunchPlan,
        *,
        name: str,
        run_id: str,
        timeout: float,
        on_build_log: Callable[[str], None] | None = None,
    ) -> Creation:
        """Sends the create request; ``Creation.wait`` then sees it through. ``timeout`` is in seconds."""
        creation = Creation(self._client, parameters(request, launch, name, run_id), timeout)
        creation.send(on_build_log)
        return creation

    def get(self, id_or_name: str) -> Deployment:
        """One deployment.

        Raises:
            NotFound: there is no such sandbox, or it isn't one of gpuserve's.
        """
        return self._deployment(self._get(id_or_name))

    def find(self, id_or_name: str) -> Deployment | None:
        """As ``get``, but None where there is none."""
        try:
            return self.get(id_or_name)
        except NotFound:
            return None

    def deployments(self) -> list[Deployment]:
        """All deployments that the key can see, over all pages, newest first."""
        return sorted(map(self._deployment, self._list()), key=_newest_first)

    def _list(self) -> Iterator[Sandbox]:
        from daytona import ListSandboxesQuery

        with translated("listing the deployments"):
            query = ListSandboxesQuery(labels=dict(labels.MARK), limit=100)
            yield from self._client.list(query, request_timeout=CALL_TIMEOUT)

    def _get(self, id_or_name: str) -> Sandbox:
        with translated(f"looking for {id_or_name}"):
            sandbox = self._client.get(id_or_name, request_timeout=CALL_TIMEOUT)
        if not labels.is_ours(sandbox.labels):
            raise NotFound(f"{id_or_name} is a sandbox, but none of gpuserve's", hint="gpuserve status lists them")
        return sandbox

    def _deployment(self, sandbox: Sandbox) -> Deployment:
        gpu_type = str(getattr(sandbox.gpu_type, "value", sandbox.gpu_type) or "")
        return labels.decode(sandbox, state_of(sandbox), gpu_type, self.place.name)

    def delete(self, sandbox_id: str, *, timeout: float = DELETE_TIMEOUT) -> bool:
        """Deletes a sandbox and makes sure that it is gone. False if it was gone before.

        Raises:
            TimedOut: it still exists after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        if not self._request_delete(sandbox_id, deadline):
            return False
        while (state := self._state(sandbox_id)) != "destroyed":
            if time.monotonic() > deadline:
                raise TimedOut(f"{sandbox_id} is still {state!r} after {timeout:.0f} s", hint="run down again")
            time.sleep(0.2)
        return True

    def _request_delete(self, sandbox_id: str, deadline: float) -> bool:
        """Asks for the deletion until the platform takes it: it answers 409 while the state changes."""
        pause = 0.2
        while True:
            try:
                with translated(f"deleting {sandbox_id}"):
                    sandbox = self._client.get(sandbox_id, request_timeout=CALL_TIMEOUT)
                    if state_of(sandbox) == "destroyed":
                        return False
                    sandbox.delete(timeout=CALL_TIMEOUT)
                return True
            except NotFound:
                return False
            except (Conflict, NetworkError, PlatformError, TimedOut) as error:
                if time.monotonic() + pause > deadline:
                    raise _left_behind(sandbox_id, error) from error
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _state(self, sandbox_id: str) -> str:
        """The sandbox's state; "destroyed" where there is none, "unknown" where the platform can't say."""
        try:
            with translated(f"checking that {sandbox_id} is gone"):
                return state_of(self._client.get(sandbox_id, request_timeout=CALL_TIMEOUT))
        except NotFound:
            return "destroyed"
        except (NetworkError, PlatformError):
            return "unknown"

    def session(self, deployment: Deployment) -> EngineSession:
        """The session that the deployment's engine runs in."""
        return EngineSession(self._get(deployment.sandbox_id), deployment.session)

    def link(self, deployment: Deployment) -> Link:
        """The preview URL of the engine's port, without a trailing slash, and the sandbox's token."""
        sandbox = self._get(deployment.sandbox_id)
        with translated("asking for the preview URL"):
            link = sandbox.get_preview_link(deployment.port, request_timeout=CALL_TIMEOUT)
        return Link(link.url.rstrip("/"), link.token)

    def sign(self, deployment: Deployment, seconds: int) -> SignedLink:
        """A signed URL for the engine's port, good for ``seconds`` (1 to 86400)."""
        sandbox = self._get(deployment.sandbox_id)
        moment = datetime.now(UTC)
        with translated("asking for a signed URL"):
            link = sandbox.create_signed_preview_url(
                deployment.port, expires_in_seconds=seconds, request_timeout=CALL_TIMEOUT
            )
        return SignedLink(link.url.rstrip("/"), link.token, deployment.port, moment + timedelta(seconds=seconds))

    def revoke(self, deployment: Deployment, port: int, token: str) -> None:
        """Makes a signed URL worthless; it is no error if it already was."""
        sandbox = self._get(deployment.sandbox_id)
        with translated("revoking the signed URL"):
            sandbox.expire_signed_preview_url(port, token, request_timeout=CALL_TIMEOUT)

    def set_public(self, deployment: Deployment, *, public: bool) -> None:
        """Opens the deployment's ports to everybody, or closes them again."""
        sandbox = self._get(deployment.sandbox_id)
        with translated("changing who can reach it"):
            sandbox.set_public(public, request_timeout=CALL_TIMEOUT)


def _newest_first(deployment: Deployment) -> tuple[float, str]:
    return (-deployment.created_at.timestamp() if deployment.created_at else 0.0, deployment.name)


def _left_behind(sandbox_id: str, error: GpuserveError) -> GpuserveError:
    error.hint = f"it may still exist: run gpuserve down {sandbox_id} again"
    return error
