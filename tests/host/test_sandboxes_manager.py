"""gpuserve's own manager over the real SDK, on the real host."""

from __future__ import annotations

import secrets

import httpx
import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona

from gpuserve.errors import Conflict, NetworkError, NoCapacity, NotAuthenticated, NotFound, QuotaExceeded, UsageError
from gpuserve.host.daemon import HostInfo
from gpuserve.records import Deployment, LaunchPlan, ServeRequest
from gpuserve.sandboxes.manager import Place, Sandboxes
from host_tools import until

LAUNCH = LaunchPlan(
    engine="vllm",
    model="a/b",
    served_model="b",
    image="python:3.11",
    argv=("true",),
    port=8000,
    session="vllm",
    health_path="/health",
    env={"GREETING": "hi"},
)


@pytest.fixture
def manager(host: HostInfo, daytona: Daytona) -> Sandboxes:
    """Ours, on the shared host; the ``daytona`` fixture deletes what a test leaves."""
    return Sandboxes(Place("local", host.url, host.key, "us-east-1"))


def create(manager: Sandboxes, name: str, *, timeout: float = 30, **changes: object) -> tuple[Deployment, list[str]]:
    given: dict[str, object] = {"model": "a/b", "engine": "vllm", "ttl": 3600, **changes}
    states: list[str] = []
    request = ServeRequest(**given)  # type: ignore[arg-type]  # keyword by keyword, checked by the record itself
    creation = manager.start_creation(request, LAUNCH, name=name, run_id=secrets.token_hex(6), timeout=timeout)
    creation.wait(states.append)
    return manager.get(name), states


@pytest.fixture
def one(manager: Sandboxes) -> Deployment:
    return create(manager, "managed", labels={"team": "a"})[0]


def test_what_is_created_is_what_was_asked_for(manager: Sandboxes, one: Deployment, daytona: Daytona) -> None:
    assert (one.name, one.state, one.place, one.engine, one.port) == ("managed", "started", "local", "vllm", 8000)
    assert one.labels["team"] == "a"
    left = one.time_left()
    assert left is not None
    assert 3500 < left <= 3600
    raw = daytona.get("managed")
    assert raw.env == {"GREETING": "hi"}
    assert raw.auto_stop_interval == 0
    assert raw.auto_delete_interval == 0  # ephemeral
    assert raw.process.exec("echo $GREETING").result.strip() == "hi"


def test_the_first_gpu_of_the_list_that_is_free(manager: Sandboxes) -> None:
    first, _ = create(manager, "gpu-1", gpus=("RTX-PRO-6000", "H100"))
    second, _ = create(manager, "gpu-2", gpus=("RTX-PRO-6000", "H100"))
    assert (first.gpu, second.gpu) == ("RTX-PRO-6000", "H100")


def test_the_list_holds_ours_only(manager: Sandboxes, one: Deployment, daytona: Daytona) -> None:
    foreign = daytona.create(CreateSandboxFromSnapshotParams(ephemeral=True, name="foreign"), timeout=30)
    listed = manager.deployments()
    assert one.sandbox_id in [each.sandbox_id for each in listed]
    assert foreign.id not in [each.sandbox_id for each in listed]
    with pytest.raises(NotFound, match="none of gpuserve's"):
        manager.get("foreign")
    assert manager.find("nothing-of-that-name") is None


def test_an_engine_runs_in_a_session_of_its_own(manager: Sandboxes, one: Deployment) -> None:
    session = manager.session(one)
    assert session.attach() is False
    assert session.launch("echo out; echo err >&2; sleep 1; (exit 3)") is True
    again = manager.session(one)
    assert again.launch("echo never") is False
    assert again.command_id == session.command_id
    until(lambda: session.exit_code() is not None)
    assert sorted(session.log().splitlines()) == ["err", "out"]
    assert session.exit_code() == 3


def test_ways_in(manager: Sandboxes, one: Deployment) -> None:
    manager.session(one).launch("python3 -m http.server 18345 --bind 127.0.0.1 >/dev/null 2>&1")
    served = Deployment(**{name: getattr(one, name) for name in one.__dataclass_fields__ if name != "port"}, port=18345)
    link = manager.link(served)

    def status(url: str, **headers: str) -> int:
        return httpx.get(f"{url}/", headers=headers).status_code

    def settled(url: str, **headers: str) -> int:
        """The status once the server listens."""
        until(lambda: status(url, **headers) != 502)
        return status(url, **headers)

    token = {"x-daytona-preview-token": link.token}
    assert settled(link.url, **token) == 200
    assert status(link.url) == 401
    signed = manager.sign(served, 60)
    assert status(signed.url) == 200
    manager.revoke(served, signed.port, signed.token)
    manager.revoke(served, signed.port, signed.token)  # no error: it is worthless either way
    assert status(signed.url) == 401
    manager.set_public(served, public=True)
    assert status(link.url) == 200
    manager.set_public(served, public=False)
    assert status(link.url) == 401
    assert link.token not in repr(link)
    assert signed.token not in repr(signed)


def test_delete_is_sure_and_idempotent(manager: Sandboxes, one: Deployment) -> None:
    assert manager.delete(one.sandbox_id) is True
    assert manager.find(one.sandbox_id) is None
    assert manager.delete(one.sandbox_id) is False


def test_refusals_are_ours(manager: Sandboxes, one: Deployment, host: HostInfo) -> None:
    with pytest.raises(Conflict, match="already exists"):
        create(manager, "managed")
    with pytest.raises(QuotaExceeded, match="B200"):
        create(manager, "x", gpus=("B200",))
    with pytest.raises(NotFound, match="Region not found"):
        create(manager, "x", target="mars")
    with pytest.raises(NoCapacity, match="no capacity for H100"):
        create(manager, "x", gpus=("H100",), labels={"host/fault": "no-capacity"}, timeout=2)
    with pytest.raises(UsageError, match="expiresInSeconds"):
        manager.sign(one, 90_000)
    with pytest.raises(NotAuthenticated):
        Sandboxes(Place("local", host.url, "wrong-key", "us-east-1")).deployments()
    with pytest.raises(NetworkError):
        Sandboxes(Place("local", "http://127.0.0.1:9/api", "key", "us-east-1")).deployments()


def test_creation_survives_an_api_that_stumbles(manager: Sandboxes) -> None:
    made, states = create(manager, "stumbles", labels={"host/fault": "api=503:3"})
    assert made.state == "started"
    assert states[-1] == "started"
