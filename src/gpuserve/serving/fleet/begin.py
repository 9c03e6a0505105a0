"""``fleet up``: the gateway, and as many workers as are missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from gpuserve.errors import Conflict, GpuserveError
from gpuserve.records import GONE, Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.down import delete
from gpuserve.serving.fleet import daemon
from gpuserve.serving.fleet.away.remote import find_gate
from gpuserve.serving.fleet.crew import EmitFor, Raised, came_up, raise_crew
from gpuserve.serving.fleet.look import await_rotation, members
from gpuserve.serving.fleet.plans import check_fleet_name, replicas, until
from gpuserve.serving.fleet.record import Record, as_json, change, forget, load, new_addresses, save
from gpuserve.serving.fleet.turn import turn
from gpuserve.serving.plan import Plan
from gpuserve.serving.up import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWish:
    """What ``fleet up`` was asked for. ``port`` 0 takes a free one for the gateway."""

    name: str
    replicas: int
    min_ready: int
    keep: int | None = None
    port: int = 0
    lost_after: float = 60.0


@dataclass(frozen=True, slots=True)
class FleetUp:
    """A fleet that is up, and what became of each worker that was started for it."""

    record: Record
    workers: tuple[Deployment, ...]
    raised: tuple[Raised, ...]
    seconds: float

    @property
    def failed(self) -> list[Raised]:
        """Those that didn't come up."""
        return [one for one in self.raised if one.error is not None]


def up_fleet(context: Context, plan: Plan, wish: FleetWish, *, emit: EmitFor, options: Options) -> FleetUp:
    """Brings the fleet up: its gateway, and as many workers as are missing.

    Raises:
        Conflict: the name is a deployment's, the fleet serves another model, or another command is changing it.
        GpuserveError: fewer than ``wish.min_ready`` came up; the first one's error. What this call made is deleted.
    """
    check_fleet_name(wish.name)
    with turn(wish.name):
        return _up(context, plan, wish, emit, options)


def _up(context: Context, plan: Plan, wish: FleetWish, emit: EmitFor, options: Options) -> FleetUp:
    began = time.monotonic()
    _check_name_free(context, wish.name, plan.place)
    everyone = [one for one in members(context, wish.name) if one.state == "started"]
    before = load(wish.name)
    if before is None and find_gate(context, wish.name) is not None:
        raise Conflict(f"the gateway of {wish.name} is in a sandbox", hint="add --gateway sandbox")
    record = _recorded(before, plan, wish)
    check_same(record.name, record.place, record.served_model, everyone, *([before.served_model] if before else []))
    there = [one for one in everyone if one.served_model == record.served_model]
    save(record)
    made: list[Raised] = []
    try:
        daemon.start(record, context.settings)
        plans = replicas(plan, wish.name, max(0, wish.replicas - len(there)))
        made = raise_crew(context, plans, emit=emit, options=options)
        check_enough(made, len(there), wish)
        workers = [*there, *(one.deployed.deployment for one in made if one.deployed is not None)]
        changed = change(wish.name, keep=wish.keep) or record
        daemon.ask(changed, "reload")
    except BaseException:
        undo(context, made, options)
        _back_to(before, wish.name, everyone)
        raise
    if options.wait:
        await_rotation(changed, [one.name for one in workers][: wish.min_ready] if there else came_up(made))
    return FleetUp(changed, tuple(workers), tuple(made), time.monotonic() - began)


def _back_to(before: Record | None, name: str, there: Sequence[Deployment]) -> None:
    """What was remembered is remembered again; a fleet that is new and has no worker is forgotten."""
    if before is not None:
        save(before)
        with suppress(GpuserveError):  # it reads the record anyway when it starts again
            daemon.ask(before, "reload")
    elif not there:
        daemon.stop(name)
        forget(name)


def _recorded(before: Record | None, plan: Plan, wish: FleetWish) -> Record:
    """What is remembered of the fleet from now on. Address and keys stay as they were handed out.

    A new fleet is kept at no number before its workers are there: who stops this command doesn't want them.
    """
    launch = plan.launch
    asked = {
        "place": plan.place,
        "engine": launch.engine,
        "model": launch.model,
        "served_model": launch.served_model,
        "keep": None if before is None else before.keep,
        "lost_after": wish.lost_after,
        "until": until(plan.request.ttl),
        "request": as_json(plan.request),
        "facts": as_json(plan.facts),
    }
    if before is not None:
        return replace(before, **asked)  # type: ignore[arg-type]  # the fields of the record, above
    return Record(name=wish.name, **new_addresses(wish.port), **asked)  # type: ignore[arg-type]  # as above


def _check_name_free(context: Context, name: str, place: str) -> None:
    """A name that meant both would end the wrong one."""
    found = context.sandboxes(place).find(name)
    if found is not None and found.state not in GONE:
        if found.gateway_of == name:
            raise Conflict(f"the gateway of {name} is in a sandbox", hint="add --gateway sandbox")
        raise Conflict(f"{name} is a deployment", hint="choose another --name for the fleet")


def check_same(name: str, place: str, model: str, there: Sequence[Deployment], *before: str) -> None:
    """Raises ``Conflict`` where a fleet of ``model`` can't take what is ``there``; ``before`` are models it had."""
    other = [one.name for one in there if one.place != place]
    if other:
        raise Conflict(f"{name} has workers elsewhere: {', '.join(other)}", hint="choose another --name")
    served = {one.served_model for one in there}.union(before)
    if served and model not in served:
        raise Conflict(
            f"{name} serves {', '.join(sorted(served))}",
            hint=f"gpuserve up, then gpuserve fleet add {name} ID: a fleet may serve several models",
        )


def check_enough(made: Sequence[Raised], there: int, wish: FleetWish) -> None:
    """Raises the first error, unless ``wish.min_ready`` workers are up. ``there`` is how many were before."""
    failed = [one for one in made if one.error is not None]
    if there + len(made) - len(failed) >= wish.min_ready:
        return
    first = failed[0].error
    assert first is not None
    first.message = f"{len(failed)} of {len(made)} workers failed; {failed[0].name}: {first.message}"
    raise first


def undo(context: Context, made: Sequence[Raised], options: Options) -> None:
    """Deletes the workers that came up, unless what failed is kept."""
    if not options.keep_failed:
        delete(context, [one.deployed.deployment for one in made if one.deployed is not None])
