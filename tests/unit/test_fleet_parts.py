"""The parts of a fleet that need no fleet: what is remembered, who is well, whose requests are cut off."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from fakes.fleetparts import REQUEST, a_record, worker
from fakes.wire import Answer, Heard, Wire
from gpuserve import engines
from gpuserve.client.health import Health, HealthState
from gpuserve.client.metrics import load_from
from gpuserve.engines.base import ReportsMetrics
from gpuserve.errors import NotFound, UsageError
from gpuserve.proxy.injector import Injector
from gpuserve.proxy.server import listen
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import FLEET_LABEL, GATEWAY_LABEL, Endpoint, ModelFacts, ServeRequest
from gpuserve.serving.find import resolve
from gpuserve.serving.fleet import record as records
from gpuserve.serving.fleet.gateway import flags
from gpuserve.serving.fleet.lost import may_have_ended
from gpuserve.serving.fleet.member import FAILURES, FAILURES_IN_DOUBT, Member
from gpuserve.serving.fleet.names import apart
from gpuserve.serving.fleet.plans import check_fleet_name, replacement, replicas, until
from gpuserve.serving.fleet.record import as_json, from_json, new_addresses
from gpuserve.serving.plan import make_plan
from gpuserve.serving.reap import idle_gate

KEY, CONTROL = "fleet-key-of-the-gateway", "ctl-key-of-the-commands"
# -- what is remembered ------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_and_is_for_its_owner_only() -> None:
    record = a_record(keep=3)
    records.save(record)
    assert records.load("f") == record
    assert from_json(ServeRequest, json.loads(json.dumps(record.request))) == REQUEST
    facts = ModelFacts(family="x", flags=("--y",))
    assert from_json(ModelFacts, json.loads(json.dumps(as_json(facts)))) == facts
    file = records.directory("f") / "fleet.json"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    assert record.key not in repr(record)
    assert "hf_x" not in repr(record)
    assert [one.name for one in records.known()] == ["f"]
    changed = records.change("f", keep=None)
    assert changed is not None
    assert changed.keep is None
    records.forget("f")
    assert records.known() == []


def test_a_record_that_cannot_be_read_is_none() -> None:
    records.save(a_record())
    (records.directory("f") / "fleet.json").write_text('{"name": "f"}')
    assert records.load("f") is None
    with pytest.raises(UsageError):
        records.directory("../f")


def test_addresses_differ_and_the_port_asked_for_is_taken() -> None:
    made = new_addresses(12345)
    assert made["port"] == 12345
    assert len({made["port"], made["injector_port"], made["metrics_port"]}) == 3
    assert made["key"] != made["control_key"]


def test_the_gateway_listens_on_loopback_only_and_is_told_no_secret() -> None:
    record = a_record()
    given = flags(record.metrics_port, Path("/x"))
    assert dict(pairwise(given))["--prometheus-host"] == "127.0.0.1"
    assert "--host" not in given  # chosen when it starts, behind the door
    assert not {record.key, record.control_key} & set(given)


def test_workers_differ_in_name_and_on_this_machine_in_port() -> None:
    plans = replicas(make_plan(REQUEST, place="local", any_port=True), "f", 8)
    assert len({one.name for one in plans}) == len({one.run_id for one in plans}) == 8
    assert len({one.launch.port for one in plans}) == 8
    assert {one.request.fleet for one in plans} == {"f"}
    assert all(str(one.launch.port) in one.launch.argv for one in plans)
    with pytest.raises(UsageError):
        check_fleet_name("x" * 59)


def test_a_replacement_lives_no_longer_than_what_it_replaces() -> None:
    """Or ``--keep`` would bill somebody for ever."""
    ends = until(3600)
    assert ends is not None
    late = replacement(a_record(until=ends - 1800))
    assert late is not None
    assert late.request.ttl is not None
    assert 1700 < late.request.ttl <= 1800
    assert replacement(a_record(until=ends - 3590)) is None
    never = replacement(a_record(request=as_json(replace(REQUEST, ttl=None)), until=until(None)))
    assert never is not None
    assert never.request.ttl is None


def test_a_fleets_name_is_no_prefix_of_its_workers() -> None:
    """``down f`` must not delete the one worker that is left of the fleet."""
    with pytest.raises(NotFound) as caught:
        resolve("f", [worker("f-1")])
    assert "is a fleet" in caught.value.message
    assert resolve("f-", [worker("f-1")]).name == "f-1"


@pytest.mark.parametrize(
    ("engine", "text", "rate"),
    [
        ("vllm", "vllm:prefix_cache_queries_total 200\nvllm:prefix_cache_hits_total 50\n", 0.25),
        ("sglang", "sglang:cache_hit_rate 0.5\n", 0.5),
        ("vllm", "vllm:prefix_cache_queries_total 0\nvllm:prefix_cache_hits_total 0\n", None),
    ],
)
def test_the_cache_hit_rate(engine: str, text: str, rate: float | None) -> None:
    known = engines.load(engine)
    assert isinstance(known, ReportsMetrics)
    load = load_from(f"{known.metrics.running} 1\n{known.metrics.waiting} 0\n{text}", known.metrics)
    assert load is not None
    assert load.cache_hit_rate == rate


# -- who is well -------------------------------------------------------------------------------------------------------


def test_one_missed_look_ends_nothing_and_a_refusal_is_believed_at_once() -> None:
    member = Member(worker(), Way("f-1", Upstream(Endpoint(url="http://127.0.0.1:9", served_model="m"))))
    member.take(Health(HealthState.NOT_YET))
    assert (member.well, member.state, member.failing_for) == (False, "booting", 0.0)
    member.take(Health(HealthState.READY))
    assert (member.well, member.state) == (True, "ready")
    for number in range(1, FAILURES + 1):
        member.take(Health(HealthState.NOT_YET, "nothing listens"))
        assert member.well is (number < FAILURES)
    assert (member.state, member.detail, member.lost_touch) == ("unwell", "nothing listens", True)
    assert member.failing_for > 0
    member.take(Health(HealthState.READY))
    assert (member.failing_for, member.failures) == (0.0, 0)
    member.take(Health(HealthState.REFUSED))
    assert (member.well, member.lost_touch) == (False, False)


def test_a_silence_that_all_share_is_borne_longer() -> None:
    """This machine may be so busy that nobody's answer is heard in time."""
    member = Member(worker(), Way("f-1", Upstream(Endpoint(url="http://127.0.0.1:9", served_model="m"))))
    member.take(Health(HealthState.READY))
    for number in range(1, FAILURES_IN_DOUBT + 1):
        member.take(Health(HealthState.NOT_YET, "no answer within 4 s"), doubt=True)
        assert member.well is (number < FAILURES_IN_DOUBT)
    member.take(Health(HealthState.READY))
    for _ in range(100):
        member.take(Health(HealthState.NOT_YET, "no answer within 4 s"), doubt=True, alone=False)
    assert member.well
    member.take(Health(HealthState.READY))
    member.take(Health(HealthState.NOT_YET), doubt=True)
    member.take(Health(HealthState.NOT_YET))
    assert member.well  # one sure failure, and one that may be nobody's
    member.take(Health(HealthState.NOT_YET))
    assert not member.well


def test_a_worker_whose_engine_ended_is_out_at_once_and_back_if_it_answers() -> None:
    member = Member(worker(), Way("f-1", Upstream(Endpoint(url="http://127.0.0.1:9", served_model="m"))))
    member.take(Health(HealthState.READY))
    member.take(Health(HealthState.NOT_YET, status=502))
    assert member.well
    assert member.to_be_asked_for(60)
    assert not member.to_be_asked_for(60)
    member.ended = "its engine ended with exit code 137"
    member.take(Health(HealthState.NOT_YET, status=502))
    assert (member.well, member.state, member.detail) == (False, "ended", member.ended)
    assert not member.to_be_asked_for(0)
    member.take(Health(HealthState.READY))
    assert (member.well, member.state, member.ended) == (True, "ready", "")


@pytest.mark.parametrize(
    ("health", "asked"),
    [
        (Health(HealthState.NOT_YET, status=502), True),
        (Health(HealthState.UNREACHABLE), True),
        (Health(HealthState.NOT_YET, "no answer within 4 s"), False),
        (Health(HealthState.NOT_YET, status=503), False),
        (Health(HealthState.READY, status=200), False),
    ],
)
def test_who_may_have_ended(health: Health, asked: bool) -> None:
    assert may_have_ended(health) is asked


# -- the injector ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def injector(answer: Answer) -> AsyncIterator[tuple[aiohttp.ClientSession, Injector, Way, Wire]]:
    async def control(name: str, fields: Mapping[str, object]) -> Mapping[str, object]:
        if name == "refuse":
            raise UsageError("no")
        return {"name": name, **fields}

    async with Wire(answer) as wire:
        made = Injector(listener=listen(0), key=KEY, control_key=CONTROL, control=control)
        upstream = Endpoint(url=wire.url, served_model="m", headers={"x-daytona-preview-token": "tok-0123456789"})
        way = Way("f-1", Upstream(upstream), pooled=True)
        async with made, aiohttp.ClientSession(made.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
            made.ways["f-1"] = way
            made.healthy.add("f-1")
            yield client, made, way, wire


def test_a_refused_credential_becomes_a_502_and_a_refused_request_does_not() -> None:
    statuses = iter((401, 403, 307, 400, 404, 422))

    async def answer(heard: Heard) -> None:
        await heard.body()
        await heard.say(next(statuses), b'{"error": {"message": "words of the engine"}}', Location="http://x/login")

    async def story() -> None:
        async with injector(answer) as (client, _, _, wire):
            told = []
            for _ in range(6):
                async with client.post("/w/f-1/v1/chat/completions", data=b"{}", allow_redirects=False) as reply:
                    told.append(reply.status)
                    assert "Location" not in reply.headers
            assert told == [502, 502, 502, 400, 404, 422]
            assert {one.headers["x-daytona-preview-token"] for one in wire.heard} == {"tok-0123456789"}
            assert not [one for one in wire.heard if "authorization" in one.headers]

    asyncio.run(story())


def test_a_look_does_not_count_as_use_and_a_question_does() -> None:
    async def answer(heard: Heard) -> None:
        await heard.body()
        await heard.say(200, b"{}")

    async def story() -> None:
        async with injector(answer) as (client, _, way, wire):
            async with client.get("/w/f-1/v1/models") as looked, client.post("/w/f-1/v1/x", data=b"{}") as asked:
                assert (looked.status, asked.status) == (200, 200)
            name = "x-daytona-skip-last-activity-update"
            assert [one.headers.get(name) for one in wire.heard] == ["true", None]
            assert way.served == 1

    asyncio.run(story())


def test_the_health_route_is_the_keepers_word_and_goes_nowhere() -> None:
    async def answer(heard: Heard) -> None:
        raise AssertionError(heard)

    async def story() -> None:
        async with injector(answer) as (client, made, _, wire):
            for well in (True, False):
                if not well:
                    made.healthy.discard("f-1")
                async with client.get("/w/f-1/health", headers={"Authorization": ""}) as reply:
                    assert reply.status == (200 if well else 503)
            for path in ("/w/f-1/v1/x", "/w/other/v1/x", "/v1/x", "/w/f-1"):
                async with client.post(path, data=b"{}") as reply:
                    assert reply.status == 502  # and not 404: the gateway shall ask another
            assert wire.heard == []

    asyncio.run(story())


def test_orders_want_a_key_of_their_own() -> None:
    async def answer(heard: Heard) -> None:
        raise AssertionError(heard)

    async def story() -> None:
        async with injector(answer) as (client, _, _, _):
            ours = {"Authorization": f"Bearer {CONTROL}"}
            async with client.post("/control/x", json={"a": 1}) as reply:
                assert reply.status == 401
            async with client.post("/control/x", json={"a": 1}, headers=ours) as reply:
                assert await reply.json() == {"name": "x", "a": 1}
            async with client.post("/control/refuse", headers=ours) as reply:
                assert reply.status == 409
            async with client.post("/control/x", data=b"{", headers=ours) as reply:
                assert reply.status == 400
            async with client.post("/w/f-1/v1/x", data=b"{}", headers=ours) as reply:
                assert reply.status == 401

    asyncio.run(story())


def test_what_a_lost_worker_has_in_hand_is_cut_off() -> None:
    """A request without an answer is answered 502, a stream breaks off: neither looks like an answer."""
    began = asyncio.Event()

    async def answer(heard: Heard) -> None:
        await heard.body()
        if heard.target.endswith("stream"):
            await heard.begin()
            await heard.chunk(b"data: 1\n\n")
        began.set()
        await asyncio.Event().wait()

    async def story() -> None:
        async with asyncio.timeout(30), injector(answer) as (client, _, way, _):
            waiting = asyncio.ensure_future(client.post("/w/f-1/v1/whole", data=b"{}"))
            async with client.post("/w/f-1/v1/stream", data=b"{}") as stream:
                assert await stream.content.readany() == b"data: 1\n\n"
                await began.wait()
                while way.in_flight < 2:  # noqa: ASYNC110  # a counter tells no event
                    await asyncio.sleep(0.01)
                assert way.cut() == 2
                assert (await waiting).status == 502
                with pytest.raises(aiohttp.ClientPayloadError):
                    await stream.content.read()
            assert (way.in_flight, way.rides) == (0, set())

    asyncio.run(story())


def test_the_listener_is_not_the_injectors_to_close_for_good() -> None:
    """The supervisor's copy goes on to take connections, which wait for the next keeper."""

    async def story() -> None:
        held = listen(0)
        made = Injector(listener=held.dup(), key=KEY, control_key=CONTROL, control=None)  # type: ignore[arg-type]
        async with made:
            port = made.port
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        held.close()

    asyncio.run(story())


# -- what is meant, and what nobody needs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("f", ("f", "")), ("f/m", ("f", "m")), ("f/a/b", ("f", "a/b")), ("f/", ("f", "")), (None, (None, ""))],
)
def test_a_fleet_and_one_of_its_models_are_told_apart(typed: str | None, meant: tuple[str | None, str]) -> None:
    assert apart(typed) == meant


def test_a_gateway_without_workers_is_reaped_once_they_must_have_come() -> None:
    now = datetime.now(UTC)
    gate = replace(
        worker("g"),
        labels={GATEWAY_LABEL: "g"},
        created_at=now - timedelta(minutes=16),
        expires_at=now + timedelta(hours=1),
    )
    mine = replace(worker("g-1"), labels={FLEET_LABEL: "g"}, created_at=now)
    assert idle_gate(gate, [gate], now) == "it is a gateway without any worker"
    assert idle_gate(gate, [gate, mine], now) == ""
    assert idle_gate(replace(gate, created_at=now), [gate], now) == ""
    assert idle_gate(mine, [mine], now) == ""
