"""The control plane through the real SDK: create, read, list, change, stop, start, delete, and its errors by class."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from daytona import (
    Daytona,
    DaytonaConfig,
    GpuType,
    ListSandboxesQuery,
    Resources,
    Sandbox,
    SandboxState,
)
from daytona.common.errors import (
    DaytonaAuthenticationError,
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaNotFoundError,
)
from daytona_api_client import ApiKeysApi, ConfigApi, OrganizationsApi, RegionsApi
from daytona_api_client import Sandbox as SandboxDto

from gpuserve.host.daemon import HostInfo
from host_tools import call, client_of, image, plain

NO_KEY = "Invalid credentials"


def test_a_created_sandbox_is_what_was_asked_for(daytona: Daytona) -> None:
    started = datetime.now(UTC)
    made = daytona.create(
        image(
            name="as-asked",
            env_vars={"HF_TOKEN": "x"},
            labels={"app": "gpuserve"},
            resources=Resources(cpu=2, memory=4, disk=5, gpu=1, gpu_type=[GpuType.RTX_PRO_6000, GpuType.H100]),
            auto_stop_interval=7,
            ttl_minutes=60,
            queue_timeout=3,
            ephemeral=True,
        ),
        timeout=30,
    )
    found = daytona.get("as-asked")
    assert (found.id, found.name, found.state) == (made.id, "as-asked", SandboxState.STARTED)
    assert (found.cpu, found.memory, found.disk, found.gpu, str(found.gpu_type)) == (2, 4, 5, 1, "GpuType.RTX_PRO_6000")
    assert found.labels == {"app": "gpuserve", "code-toolbox-language": "python"}
    assert (found.env, found.target, found.public) == ({"HF_TOKEN": "x"}, "us-east-1", False)
    assert (found.auto_stop_interval, found.auto_delete_interval, found.queue_timeout) == (7, 0, 3)
    assert found.build_info is not None
    assert found.build_info.dockerfile_content == "FROM python:3.12\n"
    ends = datetime.fromisoformat(str(found.auto_destroy_at))
    assert timedelta(minutes=59) < ends - started < timedelta(minutes=61)
    assert daytona.get(made.id).name == "as-asked"


def test_the_defaults_of_a_plain_sandbox(sandbox: Sandbox) -> None:
    sandbox.refresh_data()
    assert sandbox.name == sandbox.id
    assert (sandbox.cpu, sandbox.memory, sandbox.disk, sandbox.gpu) == (1, 1, 3, 0)
    assert (sandbox.auto_stop_interval, sandbox.auto_destroy_at, sandbox.gpu_type) == (15, None, None)


def test_every_answer_has_what_the_models_require(host: HostInfo, sandbox: Sandbox) -> None:
    body = call(host, "GET", f"/sandbox/{sandbox.id}").json()
    dto = SandboxDto.from_dict(body)
    assert dto is not None
    assert dto.additional_properties == {}
    assert dto.toolbox_proxy_url == call(host, "GET", f"/sandbox/{sandbox.id}/toolbox-proxy-url").json()["url"]


def test_states_pass_in_order_and_reach_the_event_stream(host: HostInfo, daytona: Daytona) -> None:
    import socketio

    seen: list[tuple[str, str]] = []
    listener = socketio.SimpleClient()
    connect: dict[str, Any] = {"socketio_path": "api/socket.io", "transports": ["websocket"]}
    origin = host.url.removesuffix("/api")
    listener.connect(origin, auth={"token": host.key}, **connect)
    try:
        build = {"dockerfileContent": "FROM python:3.99\n"}
        made = call(host, "POST", "/sandbox", json={"buildInfo": build, "autoDeleteInterval": 0})
        sandbox_id = made.json()["id"]
        while not seen or seen[-1][1] != "started":
            event, data = listener.receive(timeout=20)
            if event == "sandbox.state.updated" and data["sandbox"]["id"] == sandbox_id:
                seen.append((data["oldState"], data["newState"]))
    finally:
        listener.disconnect()
    steps = ["pending_build", "building_snapshot", "creating", "started"]
    assert seen == list(itertools.pairwise(steps))


def test_the_event_stream_wants_the_key(host: HostInfo) -> None:
    import socketio

    listener = socketio.SimpleClient()
    with pytest.raises(socketio.exceptions.ConnectionError):
        listener.connect(
            host.url.removesuffix("/api"),
            auth={"token": "wrong"},
            socketio_path="api/socket.io",
            transports=["websocket"],
        )


def test_list_filters_by_label_and_turns_pages(daytona: Daytona) -> None:
    labels = {"run": "pages"}
    made = [daytona.create(plain(labels=labels | {"n": str(n)}, ephemeral=True), timeout=30).id for n in range(5)]
    assert [one.id for one in daytona.list(ListSandboxesQuery(labels=labels, limit=2))] == made[::-1]
    assert [one.id for one in daytona.list(ListSandboxesQuery(labels=labels | {"n": "3"}))] == [made[3]]
    assert [one.id for one in daytona.list(ListSandboxesQuery(labels={"run": "none"}))] == []
    stopped = ListSandboxesQuery(labels=labels, states=[SandboxState.STOPPED])
    assert list(daytona.list(stopped)) == []


def test_pages_hold_when_something_is_deleted_meanwhile(daytona: Daytona) -> None:
    labels = {"run": "shrinking"}
    made = [daytona.create(plain(labels=labels, ephemeral=True), timeout=30) for _ in range(4)]
    rows = daytona.list(ListSandboxesQuery(labels=labels, limit=2))
    first, second = next(rows), next(rows)
    made[-1].delete(timeout=30, wait=True)
    assert [first.id, second.id, *(one.id for one in rows)] == [one.id for one in made[::-1]]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "labels=[1]", "labels=no", "sort=secret", "order=up", "cursor=no", "minCpu=x"],
)
def test_a_list_parameter_that_cannot_be_read_is_refused(host: HostInfo, sandbox: Sandbox, query: str) -> None:
    assert call(host, "GET", f"/sandbox?{query}").status_code == 400


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("sort=name&order=asc&name=FILTER-", ["filter-a", "filter-b"]),
        ("sort=name&order=desc&name=filter-", ["filter-b", "filter-a"]),
        ("name=filter-&minCpu=2", ["filter-b"]),
        ("name=filter-&maxCpu=1", ["filter-a"]),
        ("name=filter-&regionIds=eu", ["filter-b"]),
        ("name=filter-&isPublic=true", ["filter-a"]),
        ("name=filter-&createdAtAfter=2999-01-01T00:00:00Z", []),
        ("name=filter-&autoDestroyAtBefore=2999-01-01T00:00:00Z", ["filter-b"]),
    ],
)
def test_other_filters_of_the_list(host: HostInfo, pair: None, query: str, found: list[str]) -> None:
    assert [one["name"] for one in call(host, "GET", f"/sandbox?{query}").json()["items"]] == found


@pytest.fixture(scope="module")
def pair(host: HostInfo) -> Any:
    client = client_of(host)
    one = client.create(plain(name="filter-a", public=True, ephemeral=True), timeout=30)
    two = client.create(
        image(name="filter-b", target="eu", resources=Resources(cpu=2), ttl_minutes=99, ephemeral=True), timeout=30
    )
    yield
    one.delete(timeout=30)
    two.delete(timeout=30)


def test_labels_intervals_and_publicity_change(daytona: Daytona, sandbox: Sandbox) -> None:
    assert sandbox.set_labels({"only": "this"}) == {"only": "this"}
    sandbox.set_autostop_interval(30)
    sandbox.set_ttl(5)
    sandbox.set_public(True)
    found = daytona.get(sandbox.id)
    assert (found.labels, found.auto_stop_interval, found.public) == ({"only": "this"}, 30, True)
    assert found.auto_destroy_at is not None
    sandbox.set_ttl(0)
    assert daytona.get(sandbox.id).auto_destroy_at is None
    sandbox.refresh_activity()


def test_a_lasting_sandbox_stops_with_its_processes_and_keeps_its_files(daytona: Daytona) -> None:
    from gpuserve.host.processes import alive

    sandbox = daytona.create(plain(name="lasting"), timeout=30)
    sandbox.fs.upload_file(b"kept", "kept.txt")
    sandbox.process.create_session("s")
    sandbox.process.exec("nohup sleep 1000 >/dev/null 2>&1 &")
    assert alive(sandbox.id)
    sandbox.stop(timeout=30)
    assert (sandbox.state, alive(sandbox.id)) == (SandboxState.STOPPED, [])
    with pytest.raises(DaytonaBadRequestError, match="Is the Sandbox started"):
        sandbox.process.exec("true")
    with pytest.raises(DaytonaBadRequestError, match="not in a stoppable state"):
        sandbox.stop(timeout=30)
    sandbox.start(timeout=30)
    assert sandbox.fs.download_file("kept.txt") == b"kept"
    sandbox.set_auto_delete_interval(0)
    sandbox.stop(timeout=30)
    with pytest.raises(DaytonaNotFoundError):
        daytona.get("lasting")


def test_deleting_waits_until_nothing_is_left(host: HostInfo, daytona: Daytona) -> None:
    from gpuserve.host.processes import alive

    sandbox = daytona.create(plain(name="gone", ephemeral=True), timeout=30)
    sandbox.process.exec("sh -c 'trap \"\" TERM; sleep 1000' >/dev/null 2>&1 &")
    sandbox.delete(timeout=30, wait=True)
    assert alive(sandbox.id) == []
    assert not (host.state_dir / "sandboxes" / sandbox.id).exists()
    for name in (sandbox.id, "gone"):
        with pytest.raises(DaytonaNotFoundError, match=f"Sandbox with ID or name {name} not found"):
            daytona.get(name)


def test_a_name_is_taken_once_and_free_after_the_deletion(daytona: Daytona) -> None:
    first = daytona.create(plain(name="mine", ephemeral=True), timeout=30)
    with pytest.raises(DaytonaConflictError, match="Sandbox with name mine already exists"):
        daytona.create(plain(name="mine", ephemeral=True), timeout=30)
    first.delete(timeout=30, wait=True)
    assert daytona.create(plain(name="mine", ephemeral=True), timeout=30).id != first.id


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ([], 400, "JSON object"),
        ({"cpu": 1.0}, 400, "cpu must be an integer"),
        ({"gpu": True}, 400, "gpu must be an integer"),
        ({"cpu": 0}, 400, "cpu must not be less than 1"),
        ({"cpu": 17}, 400, r"CPU request 17 exceeds maximum allowed per sandbox \(16\)"),
        ({"memory": 257}, 400, "Memory request 257 exceeds"),
        ({"env": {"A": 1}}, 400, "env must be an object of strings"),
        ({"labels": ["a"]}, 400, "labels must be an object of strings"),
        ({"name": "a\nb"}, 400, "name must be plain text"),
        ({"name": 1}, 400, "name must be a string"),
        ({"public": "yes"}, 400, "public must be a boolean"),
        ({"target": "mars"}, 404, "Region not found"),
        ({"ttlMinutes": -1}, 400, "ttlMinutes"),
        ({"queueTimeout": 0}, 400, "queueTimeout must be a positive integer"),
        ({"autoStopInterval": -1}, 400, "autoStopInterval"),
        ({"spot": True}, 400, "Spot is only available for GPU"),
        ({"volumes": [{"volumeId": "v"}]}, 400, "Volumes are not available"),
        ({"secrets": [{"A": "b"}]}, 400, "Secrets are not available"),
        ({"buildInfo": {}}, 400, "dockerfileContent"),
        ({"gpu": 1}, 400, "GPU sandboxes must be ephemeral - set autoDeleteInterval to 0"),
        ({"gpu": 3, "autoDeleteInterval": 0}, 400, r"GPU request 3 exceeds maximum allowed per sandbox \(2\)"),
        (
            {"gpu": 1, "gpuType": ["B200", "MI355X"], "autoDeleteInterval": 0},
            400,
            r"Requested GPU type\(s\) B200, MI355X not permitted in this region. Allowed: H100, RTX-PRO-6000\.",
        ),
        ({"gpu": 1, "gpuType": 5, "autoDeleteInterval": 0}, 400, "gpuType"),
        ({"labels": {"host/fault": "quota"}}, 400, "Total GPU limit exceeded. Maximum allowed: 64."),
        ({"labels": {"host/fault": "typo"}}, 400, "no fault that this host knows"),
        ({"labels": {"host/fault": "slow-boot=x"}}, 400, "no fault that this host knows"),
        ({"labels": {"host/fault": "create=503"}}, 503, "injected fault"),
    ],
)
def test_what_cannot_be_created_is_refused_and_leaves_nothing(
    host: HostInfo, body: Any, status: int, message: str
) -> None:
    before = len(call(host, "GET", "/sandbox").json()["items"])
    answer = call(host, "POST", "/sandbox", json=body)
    assert answer.status_code == status
    assert re.search(message, answer.json()["message"])
    assert len(call(host, "GET", "/sandbox").json()["items"]) == before


def test_errors_have_the_platforms_body(host: HostInfo) -> None:
    body = call(host, "GET", "/sandbox/nobody").json()
    assert body.pop("timestamp").endswith("Z")
    assert body == {
        "path": "/api/sandbox/nobody",
        "statusCode": 404,
        "error": "Not Found",
        "message": "Sandbox with ID or name nobody not found",
    }
    assert call(host, "POST", "/sandbox", content=b"{").status_code == 400


def test_without_the_key_only_the_configuration_is_shown(host: HostInfo) -> None:
    wrong = Daytona(DaytonaConfig(api_key="wrong", api_url=host.url, target="us-east-1"))
    with pytest.raises(DaytonaAuthenticationError, match=NO_KEY):
        wrong.get("x")
    for path in ("/sandbox", "/nothing", "/_host/requests", "/_host/stop", "/regions"):
        assert httpx.get(f"{host.url}{path}").json()["message"] == NO_KEY
    assert ConfigApi(client_of(host)._api_client).config_controller_get_config().environment == "local"


def test_an_absent_route_names_itself(host: HostInfo) -> None:
    answer = call(host, "POST", "/sandbox/x/archive")
    assert (answer.status_code, answer.json()["code"]) == (501, "NOT_IMPLEMENTED")
    assert answer.json()["message"] == "POST /api/sandbox/x/archive is not available on this host"
    assert call(host, "PATCH", "/sandbox").status_code == 501


def test_key_regions_usage_and_capacity(host: HostInfo, daytona: Daytona) -> None:
    api = daytona._api_client
    organization = ApiKeysApi(api).get_current_api_key().organization_id
    assert organization is not None
    assert {region.id for region in OrganizationsApi(api).list_available_regions()} == {"us-east-1", "eu", "local"}
    assert RegionsApi(api).list_shared_regions()[0].region_type == "shared"
    daytona.create(image(resources=Resources(gpu=1, gpu_type=[GpuType.H100]), ephemeral=True), timeout=30)
    capacity = OrganizationsApi(api).get_gpu_capacity(organization).capacity
    assert {one.gpu_type.value: one.available_on_demand for one in capacity} == {"H100": 1, "RTX-PRO-6000": 1}
    (usage,) = OrganizationsApi(api).get_organization_usage_overview(organization).region_usage
    assert (usage.total_gpu_quota, usage.current_gpu_usage) == (64, 1)
    assert call(host, "GET", "/organizations/other/usage").status_code == 404


def test_the_request_log_shows_routes_and_hides_tokens(host: HostInfo, sandbox: Sandbox) -> None:
    signed = sandbox.create_signed_preview_url(8000)
    httpx.get(f"{signed.url}/v1?DAYTONA_SANDBOX_AUTH_KEY=secret")
    sandbox.expire_signed_preview_url(8000, signed.token)
    text = call(host, "GET", "/_host/requests").text
    assert f"/api/sandbox/{sandbox.id}/ports/8000/signed-preview-url/****/expire" in text
    assert "/preview/8000-****/v1" in text
    for secret in (signed.token, "secret", host.key):
        assert secret not in text
        assert secret not in (host.state_dir / "host.log").read_text()
