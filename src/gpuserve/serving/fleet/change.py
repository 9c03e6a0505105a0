"""What commands do with a fleet: bring it up, scale it, take workers in and out, roll, end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from gpuserve.errors import Conflict, GpuserveError, NetworkError, TimedOut
from gpuserve.proxy.server import listen
from gpuserve.records import Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.down import Gone, delete
from gpuserve.serving.events import Noted
from gpuserve.serving.find import find
from gpuserve.serving.fleet import daemon
from gpuserve.serving.fleet.away.begin import deleted, refresh
from gpuserve.serving.fleet.away.remote import as_remote, find_gate, find_remote, noted
from gpuserve.serving.fleet.crew import EmitFor, Raised, came_up, raise_crew
from gpuserve.serving.fleet.look import await_rotation, gateway_states, members, no_fleet
from gpuserve.serving.fleet.plans import replica, replicas, stored_plan, until
from gpuserve.serving.fleet.record import Record, as_json, change, forget, load, new_addresses, save
from gpuserve.serving.fleet.turn import turn
from gpuserve.serving.plan import Plan, free_port
from gpuserve.serving.up import Options

#: Seconds for which requests that are under way may hold up the end of a worker.
DRAIN = 600.0
#: Seconds for which ``down`` waits for a worker to be listed that the keeper was just asking for when it was ended.
COMING = 15.0
#: How often ``down`` deletes what is still listed.
_TRIES = 3


@dataclass
class Changed:
    """What a change did: workers that came, those that went, and requests that were still under way then."""

    came: list[Raised] = field(default_factory=list)
    went: list[Gone] = field(default_factory=list)
    cut: int = 0


# -- join and leave ----------------------------------------------------------------------------------------------------


def scale(
    context: Context, record: Record, count: int, *, emit: EmitFor, options: Options, drain: float = DRAIN
) -> Changed:
    """Brings the number of workers to ``count``: new ones, or the least busy ones drained and deleted.

    Where lost workers are replaced, that goes on at the new number. Workers of another model don't count.

    Raises:
        Conflict: another command is changing the fleet.
        GpuserveError: the gateway doesn't run; or a worker didn't come up, once the others have.
    """
    with turn(record.name):
        return _scale(context, load(record.name) or record, count, emit=emit, options=options, drain=drain)


def _scale(context: Context, record: Record, count: int, *, emit: EmitFor, options: Options, drain: float) -> Changed:
    told = daemon.ask(record, "status")
    if record.keep is not None:  # first of all: if this process ends in the middle, the keeper goes on
        record = _keep(record, count)
    there = _own(record, members(context, record.name))
    coming = set(map(str, told["starting"])) - {one.name for one in there}
    missing = count - len(there) - len(coming)
    if missing < 0:
        return _leave(context, record, _least_busy(record, there)[:-missing], emit=emit, drain=drain)
    changed = Changed()
    if missing > 0:
        plan = _plan_of(record)
        plans = replicas(plan, record.name, missing)
        record = noted(record, until=until(plan.request.ttl))
        changed.came = raise_crew(context, plans, emit=emit, options=options)
        await_rotation(record, came_up(changed.came))
    return changed


def _own(record: Record, there: Sequence[Deployment]) -> list[Deployment]:
    """Those that the fleet makes itself. Who was added and serves another model isn't counted, and stays."""
    return [one for one in there if one.served_model == record.served_model]


def _plan_of(record: Record) -> Plan:
    if not record.request:
        raise Conflict(
            f"this machine doesn't know how the workers of {record.name} were asked for",
            hint=f"gpuserve fleet up --name {record.name} --replicas N, with their model and engine",
        )
    return stored_plan(record)


def _keep(record: Record, count: int) -> Record:
    changed = noted(record, keep=count)
    with suppress(GpuserveError):  # it reads the record anyway when it starts again
        daemon.ask(changed, "reload")
    return changed


def _least_busy(record: Record, there: Sequence[Deployment]) -> list[Deployment]:
    """Those out of rotation first, then by requests under way, then the youngest."""
    rows = {str(row["name"]): row for row in daemon.ask(record, "status")["workers"]}

    def order(one: Deployment) -> tuple[bool, int, float]:
        row = rows.get(one.name, {})
        return bool(row.get("in_rotation")), int(row.get("in_flight", 0)), one.age() or 0.0

    return sorted(there, key=order)


def join(context: Context, record: Record, wanted: Sequence[str]) -> list[Deployment]:
    """Makes deployments workers of the fleet. They may serve another model: requests are routed by its name.

    Raises:
        NotFound, Conflict: a name means no deployment, or one that can't join; or another command is at it.
    """
    with turn(record.name):
        return _join(context, record, wanted)


def _join(context: Context, record: Record, wanted: Sequence[str]) -> list[Deployment]:
    daemon.ask(record, "status")
    chosen = [find(context, one) for one in wanted]
    for one in chosen:
        if one.place != record.place or one.state != "started":
            raise Conflict(
                f"{one.name} can't join {record.name}: it is {one.state} on {one.place}",
                hint=f"name one that is started on {record.place}: gpuserve status",
            )
        if one.gateway_of:
            raise Conflict(
                f"{one.name} is the gateway of a fleet, and no worker", hint="name a deployment: gpuserve status"
            )
        if one.fleet not in ("", record.name):
            raise Conflict(
                f"{one.name} is in {one.fleet}", hint=f"gpuserve fleet remove {one.fleet} {one.name} --spare"
            )
    for one in chosen:
        context.sandboxes(one.place).set_fleet(one, record.name)
    await_rotation(record, [one.name for one in chosen])
    return chosen


def leave(
    context: Context,
    record: Record,
    chosen: Sequence[Deployment],
    *,
    emit: EmitFor,
    drain: float = DRAIN,
    spare: bool = False,
) -> Changed:
    """Takes workers out: no new requests, then the end of those under way, then the sandbox is deleted.

    ``drain`` is for how many seconds requests are waited for; ``spare`` leaves the sandbox alone.

    Raises:
        Conflict: another command is changing the fleet.
    """
    with turn(record.name):
        return _leave(context, record, chosen, emit=emit, drain=drain, spare=spare)


def _leave(
    context: Context,
    record: Record,
    chosen: Sequence[Deployment],
    *,
    emit: EmitFor,
    drain: float,
    spare: bool = False,
) -> Changed:
    cut = _drained(record, [one.name for one in chosen], drain, emit)
    changed = Changed(cut=cut)
    if spare:
        for one in chosen:
            context.sandboxes(one.place).set_fleet(one, "")
            context.cache.forget(one.sandbox_id)  # what is remembered still has the label
    else:
        changed.went = delete(context, chosen)
    with suppress(GpuserveError):  # it will find out by itself
        daemon.ask(record, "poke")
    return changed


def _drained(record: Record, names: Sequence[str], patience: float, emit: EmitFor) -> int:
    """Waits until nothing is under way on ``names`` any more; how much still is after ``patience`` seconds."""
    there = {row["name"] for row in daemon.ask(record, "status")["workers"]}
    here = [name for name in names if name in there]
    if not here:
        return 0
    deadline = time.monotonic() + patience
    busy: dict[str, int] | None = None
    while True:
        with suppress(NetworkError):  # a keeper that is being started again: it is told anew
            rows = daemon.ask(record, "drain", names=here)["workers"]
            busy = {row["name"]: row["in_flight"] for row in rows if row["name"] in here and row["in_flight"]}
        states = gateway_states(record)
        routed = any(states.get(name) == "ready" for name in here)
        if (busy == {} and not routed) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    busy = busy or {}
    for name in here:
        emit(name, Noted(f"drained, with {busy[name]} requests still under way" if name in busy else "drained"))
    return sum(busy.values())


def roll(
    context: Context,
    record: Record,
    alter: Callable[[Plan], Plan],
    *,
    emit: EmitFor,
    options: Options,
    drain: float = DRAIN,
) -> Changed:
    """Replaces each worker by one of another plan, one at a time: the new one is in rotation before the old one goes.

    Raises:
        GpuserveError: a new worker didn't come up. Those not yet replaced stay, and so does the plan for new ones.
        Conflict: another command is changing the fleet.
    """
    with turn(record.name):
        return _roll(context, load(record.name) or record, alter, emit=emit, options=options, drain=drain)


def _roll(
    context: Context,
    record: Record,
    alter: Callable[[Plan], Plan],
    *,
    emit: EmitFor,
    options: Options,
    drain: float,
) -> Changed:
    daemon.ask(record, "status")
    plan = alter(_plan_of(record))
    changed = Changed()
    for one in _own(record, members(context, record.name)):
        came = raise_crew(context, [replica(plan, record.name)], emit=emit, options=options)
        changed.came += came
        if came[0].error is not None:
            raise came[0].error
        await_rotation(record, came_up(came))
        went = _leave(context, record, [one], emit=emit, drain=drain)
        changed.went += went.went
        changed.cut += went.cut
    asked = {"request": as_json(plan.request), "facts": as_json(plan.facts)}
    changed_record = noted(record, **asked, until=until(plan.request.ttl))
    with suppress(GpuserveError):  # it reads the record anyway when it starts again
        daemon.ask(changed_record, "reload")
    return changed


# -- start and end -----------------------------------------------------------------------------------------------------


def start(context: Context, name: str, *, port: int = 0) -> Record:
    """Starts the fleet's gateway on this machine, for the workers that there are; ``port`` 0 is the one it had.

    One that runs in a sandbox is started there, if it has ended, and told of its workers' credentials anew.

    A machine that doesn't know the fleet makes a key and an address of its own for it.

    Raises:
        NotFound: no such fleet.
    """
    record = load(name)
    if record is None and (remote := find_remote(context, name)) is not None:
        return refresh(context, remote)
    if record is None:
        there = members(context, name)
        if not there:
            raise no_fleet(context, name)
        first = there[0]
        record = Record(
            name=name,
            place=first.place,
            engine=first.engine,
            model=first.model,
            served_model=first.served_model,
            **new_addresses(port),  # type: ignore[arg-type]  # ports and keys
        )
        save(record)
    elif not daemon.runs(name):
        record = change(name, **_addresses(record, port)) or record
    daemon.start(record, context.settings)
    return record


def _addresses(record: Record, port: int) -> dict[str, int]:
    """Ports for a gateway that starts again: the one asked for, and others for what only the fleet itself uses."""
    found = {"port": port} if port else {}
    for name in ("injector_port", "metrics_port"):
        try:
            listen(getattr(record, name)).close()
        except Conflict:  # another program has it by now
            found[name] = free_port()
    return found


def down(context: Context, name: str, *, emit: EmitFor, drain: float = DRAIN) -> Changed:
    """Ends the fleet: drains it, deletes every worker, ends the gateway, and checks that nothing is left.

    Raises:
        NotFound: there is no such fleet, neither here nor on the platform.
        Conflict: another command is changing it.
        GpuserveError: a worker may still exist.
    """
    with turn(name):
        return _down(context, name, emit=emit, drain=drain)


def _down(context: Context, name: str, *, emit: EmitFor, drain: float) -> Changed:
    record = load(name)
    gate = find_gate(context, name) if record is None else None
    there = members(context, name)
    if record is None and gate is None and not there:
        raise no_fleet(context, name)
    changed = Changed()
    coming: set[str] = set()
    with suppress(GpuserveError):  # a gateway that doesn't answer has nothing under way
        gateway = record if gate is None else as_remote(context, gate)
        if gateway is not None:
            coming = set(map(str, daemon.ask(gateway, "status")["starting"]))
            changed.cut = _drained(gateway, [one.name for one in there], drain, emit)
    daemon.stop(name)
    left = _delete_all(context, name, coming, changed)
    failed = [one.error for one in changed.went if one.error is not None]
    if left:
        hint = "" if record or gate else f"where its gateway runs: gpuserve fleet down {name}"
        raise failed[-1] if failed else TimedOut(f"{', '.join(left)} may still exist", hint=hint)
    forget(name)
    if gate is not None:  # last, so that whatever is left can still be found by it
        changed.went += deleted(context, gate)
    return changed


def _delete_all(context: Context, name: str, coming: set[str], changed: Changed) -> list[str]:
    """Deletes all that the platform lists; the names of those left. ``coming`` may not be listed yet: made just now."""
    deadline = time.monotonic() + (COMING if coming else 0)
    tries = 0
    while True:
        there = members(context, name)
        coming -= {one.name for one in there}
        if there and tries == _TRIES:
            return [one.name for one in there]
        if there:
            tries += 1
            changed.went = [one for one in changed.went if one.error is None] + delete(context, there)
        elif not coming or time.monotonic() > deadline:
            return []
        else:
            time.sleep(0.5)
