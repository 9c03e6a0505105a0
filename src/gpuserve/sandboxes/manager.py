"""One place's sandboxes: create, find, list, delete, and the ways in."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from gpuserve.errors import Conflict, GpuserveError, NetworkError, NotFound, PlatformError, TimedOut
from gpuserve.records import FLEET_LABEL, GONE, Deployment, LaunchPlan, ServeRequest
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.create import Creation, parameters, state_of
from gpuserve.sandboxes.gatehouse import Gatehouse, House
from gpuserve.sandboxes.gatehouse import parameters as house_parameters
from gpuserve.sandboxes.inside import Inside
from gpuserve.sandboxes.session import EngineSession
from gpuserve.sandboxes.translate import CALL_TIMEOUT, repeated, translated
from gpuserve.sandboxes.workroom import Room
from gpuserve.sandboxes.workroom import parameters as room_parameters
from gpuserve.sandboxes.workshop import Workshop

if TYPE_CHECKING:
    from daytona import AsyncDaytona, Daytona, DaytonaConfig, Sandbox

T = TypeVar("T")
#: Seconds for which a call that may be repeated is, while the platform fails or can't be reached.
PATIENCE = 10.0
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
    """What gpuserve does with sandboxes, in one place. Every call has a time limit; every error is ours.

    What may be repeated is, for ``patience`` seconds, while the platform fails or can't be reached.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.patience = PATIENCE

    @cached_property
    def _client(self) -> Daytona:
        """The SDK's client. Everything is told to it, so that it looks nothing up by itself."""
        from daytona import Daytona

        config = self._config()
        with translated("connecting"), warnings.catch_warnings():
            # It warns of a .env that names an API URL; settings.py has already left that one out.
            warnings.simplefilter("ignore", UserWarning)
            client = Daytona(config)
        _bound_retries(client)
        return client

    def _config(self) -> DaytonaConfig:
        from daytona import DaytonaConfig

        place = self.place
        return DaytonaConfig(api_key=place.api_key, api_url=place.api_url, target=place.region or None)

    def _connect(self) -> AsyncDaytona:
        """An asynchronous client for the event loop that this is called in: the log's stream needs one."""
        from daytona import AsyncDaytona

        with translated("connecting"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # as above
            return AsyncDaytona(self._config())

    def _steadily(self, doing: str, call: Callable[[], T]) -> T:
        """What ``call`` returns; it may be called again. ``doing`` completes "while …" in an error's message."""

        def once() -> T:
            with translated(doing):
                return call()

        return repeated(once, patience=self.patience)

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

    def start_room(self, room: Room, *, timeout: float) -> Creation:
        """Sends the create request for a conversation's sandbox; as ``start_creation``."""
        creation = Creation(self._client, room_parameters(room), timeout)
        creation.send()
        return creation

    def start_house(self, house: House, *, timeout: float, on_build_log: Callable[[str], None]) -> Creation:
        """Sends the create request for the sandbox of a fleet's gateway; as ``start_creation``."""
        creation = Creation(self._client, house_parameters(house), timeout)
        creation.send(on_build_log)
        return creation

    def gatehouse(self, deployment: Deployment) -> Gatehouse:
        """The folder of the gateway that runs in this sandbox; it is made if there is none."""
        return Gatehouse(self._get(deployment.sandbox_id), patience=self.patience)

    def environment(self, deployment: Deployment) -> dict[str, str]:
        """The environment that the sandbox was created with. It may hold secrets."""
        return dict(self._get(deployment.sandbox_id).env or {})

    def inside(self, deployment: Deployment) -> Inside:
        """The way to run commands in a deployment's sandbox, and to copy files."""
        return Inside(self._get(deployment.sandbox_id), patience=self.patience)

    def get(self, id_or_name: str) -> Deployment:
        """One deployment.

        Raises:
            NotFound: there is no such sandbox, or it isn't one of gpuserve's.
        """
        return self.as_deployment(self._get(id_or_name))

    def find(self, id_or_name: str) -> Deployment | None:
        """As ``get``, but None where there is none."""
        try:
            return self.get(id_or_name)
        except NotFound:
            return None

    def deployments(self) -> list[Deployment]:
        """All deployments that the key can see, over all pages, newest first."""
        return sorted(map(self.as_deployment, self._list()), key=_newest_first)

    def _list(self) -> list[Sandbox]:
        from daytona import ListSandboxesQuery

        query = ListSandboxesQuery(labels=dict(labels.MARK), limit=100)
        return self._steadily(
            "listing the deployments", lambda: list(self._client.list(query, request_timeout=CALL_TIMEOUT))
        )

    def _get(self, id_or_name: str) -> Sandbox:
        sandbox = self._steadily(
            f"looking for {id_or_name}", lambda: self._client.get(id_or_name, request_timeout=CALL_TIMEOUT)
        )
        if not labels.is_ours(sandbox.labels):
            raise NotFound(f"{id_or_name} is a sandbox, but none of gpuserve's", hint="gpuserve status lists them")
        return sandbox

    def as_deployment(self, sandbox: Sandbox) -> Deployment:
        """A sandbox of ours as a record, nothing asked."""
        gpu_type = str(getattr(sandbox.gpu_type, "value", sandbox.gpu_type) or "")
        return labels.decode(sandbox, state_of(sandbox), gpu_type, self.place.name)

    def as_started(self, sandbox: Sandbox) -> Deployment:
        """One that was seen to run, as a record: the SDK hears of events late, and may have set its state back."""
        return replace(self.as_deployment(sandbox), state="started")

    def delete(self, sandbox_id: str, *, timeout: float | None = None) -> bool:
        """Deletes a sandbox and makes sure that it is gone. False if it was gone before. ``timeout`` is in seconds.

        Raises:
            TimedOut: it still exists after ``timeout`` seconds.
        """
        timeout = DELETE_TIMEOUT if timeout is None else timeout
        deadline = time.monotonic() + timeout
        if not self._request_delete(sandbox_id, deadline):
            return False
        while (state := self.state(sandbox_id)) != "destroyed":
            if time.monotonic() > deadline:
                raise TimedOut(f"{sandbox_id} is still {state!r} after {timeout:.0f} s", hint="run down again")
            time.sleep(0.2)
        return True

    def _request_delete(self, sandbox_id: str, deadline: float) -> bool:
        """Asks for the deletion until the platform takes it: it answers 409 while the state changes.

        False where there is no such sandbox, by both of the platform's words: the look-up's and the list's.
        """
        pause = 0.2
        while True:
            try:
                with translated(f"deleting {sandbox_id}"):
                    sandbox = self._client.get(sandbox_id, request_timeout=CALL_TIMEOUT)
                    if state_of(sandbox) == "destroyed":
                        return False
                    sandbox.delete(timeout=CALL_TIMEOUT)
                return True
            except (NotFound, Conflict, NetworkError, PlatformError, TimedOut) as error:
                if isinstance(error, NotFound) and not self._is_listed(sandbox_id):
                    return False
                if time.monotonic() + pause > deadline:
                    raise _left_behind(sandbox_id, error) from error
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _is_listed(self, sandbox_id: str) -> bool:
        """Whether the platform lists it among the deployments, not as deleted."""
        return any(one.id == sandbox_id and state_of(one) not in GONE for one in self._list())

    def state(self, sandbox_id: str) -> str:
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
        return EngineSession(self._get(deployment.sandbox_id), deployment.session, connect=self._connect)

    def workshop(self, deployment: Deployment, name: str) -> Workshop:
        """The folder and session ``name`` in the deployment's sandbox; the folder is made."""
        return Workshop(self._get(deployment.sandbox_id), name, patience=self.patience)

    def link(self, deployment: Deployment) -> Link:
        """The preview URL of the engine's port, without a trailing slash, and the sandbox's token."""
        sandbox = self._get(deployment.sandbox_id)
        link = self._steadily(
            "asking for the preview URL",
            lambda: sandbox.get_preview_link(deployment.port, request_timeout=CALL_TIMEOUT),
        )
        return Link(link.url.rstrip("/"), link.token)

    def engine_key(self, deployment: Deployment) -> str:
        """The key that the deployment's engine checks; "" if it checks none."""
        return self.session(deployment).key() if deployment.keyed else ""

    def sign(self, deployment: Deployment, seconds: int) -> SignedLink:
        """A signed URL for the engine's port, good for ``seconds`` (1 to 86400)."""
        sandbox = self._get(deployment.sandbox_id)
        moment = datetime.now(UTC)
        link = self._steadily(
            "asking for a signed URL",
            lambda: sandbox.create_signed_preview_url(
                deployment.port, expires_in_seconds=seconds, request_timeout=CALL_TIMEOUT
            ),
        )
        return SignedLink(link.url.rstrip("/"), link.token, deployment.port, moment + timedelta(seconds=seconds))

    def revoke(self, deployment: Deployment, port: int, token: str) -> None:
        """Makes a signed URL worthless; it is no error if it already was."""
        sandbox = self._get(deployment.sandbox_id)
        self._steadily(
            "revoking the signed URL",
            lambda: sandbox.expire_signed_preview_url(port, token, request_timeout=CALL_TIMEOUT),
        )

    def set_ttl(self, deployment: Deployment, seconds: int | None) -> Deployment:
        """Has the platform delete it ``seconds`` from now (in minutes, rounded up), or never for None.

        Returns the deployment as the platform then tells it. Its label, which says what was asked for from creation
        on, is brought up to date by the platform's own clock.
        """
        sandbox = self._get(deployment.sandbox_id)
        minutes = 0 if seconds is None else -(-seconds // 60)
        self._steadily("moving the deadline", lambda: sandbox.set_ttl(minutes, request_timeout=CALL_TIMEOUT))
        current = self.get(deployment.sandbox_id)
        marks = {**current.labels, labels.TTL: labels.moved(current, seconds)}
        self._steadily("noting the deadline", lambda: sandbox.set_labels(marks, request_timeout=CALL_TIMEOUT))
        return replace(current, labels=marks)

    def set_fleet(self, deployment: Deployment, fleet: str) -> None:
        """Makes the deployment a worker of ``fleet``; of none for ""."""
        sandbox = self._get(deployment.sandbox_id)
        marks = {key: value for key, value in sandbox.labels.items() if key != FLEET_LABEL}
        marks |= {FLEET_LABEL: fleet} if fleet else {}
        self._steadily("noting the fleet", lambda: sandbox.set_labels(marks, request_timeout=CALL_TIMEOUT))

    def set_public(self, deployment: Deployment, *, public: bool) -> None:
        """Opens the deployment's ports to everybody, or closes them again."""
        sandbox = self._get(deployment.sandbox_id)
        self._steadily("changing who can reach it", lambda: sandbox.set_public(public, request_timeout=CALL_TIMEOUT))


def _bound_retries(client: Daytona) -> None:
    """Keeps the SDK's own repeating within bounds; ``_steadily`` does the rest.

    Left to itself it sleeps as long as a ``Retry-After`` says, hours if need be, and it sends a toolbox request whose
    connection was closed unanswered again: an engine's start command too (SDK 0.226.1).
    """
    from urllib3 import Retry

    once = Retry(total=1, respect_retry_after_header=False)
    for api in (client._api_client, client._toolbox_api_client):  # noqa: SLF001  # it has no setting for this
        api.rest_client.pool_manager.connection_pool_kw["retries"] = once


def _newest_first(deployment: Deployment) -> tuple[float, str]:
    return (-deployment.created_at.timestamp() if deployment.created_at else 0.0, deployment.name)


def _left_behind(sandbox_id: str, error: GpuserveError) -> GpuserveError:
    if isinstance(error, NotFound):
        error = PlatformError(f"the platform lists {sandbox_id}, and yet says that there is none")
    error.hint = f"it may still exist: run gpuserve down {sandbox_id} again"
    return error
