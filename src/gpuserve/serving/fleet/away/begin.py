"""``fleet up --gateway sandbox``, and what starts, refreshes and ends such a gateway."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from gpuserve.errors import Conflict, GpuserveError, NetworkError, UsageError
from gpuserve.records import GONE, Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.down import Gone, delete
from gpuserve.serving.events import Warned
from gpuserve.serving.fleet.away.house import build, revive
from gpuserve.serving.fleet.away.remote import Remote, as_remote, find_gate
from gpuserve.serving.fleet.begin import FleetUp, FleetWish, check_enough, check_same, undo
from gpuserve.serving.fleet.crew import EmitFor, Raised, came_up, raise_crew
from gpuserve.serving.fleet.look import await_rotation, members
from gpuserve.serving.fleet.plans import check_fleet_name, replicas, until
from gpuserve.serving.fleet.record import as_json, load
from gpuserve.serving.plan import Plan
from gpuserve.serving.share import hand_out
from gpuserve.serving.up import Options

#: What nobody does for a fleet whose gateway is in a sandbox, as a person is told.
UNKEPT = (
    "nobody replaces its lost workers or renews their credentials: gpuserve fleet status, scale and start do, by hand"
)


def check_wish(keep: int | None, access: str) -> None:
    """Raises ``UsageError`` for what can't be had with a gateway in a sandbox."""
    if keep is not None:
        raise UsageError(
            "--keep needs a gateway on this machine: to replace workers takes the account's key, which goes nowhere",
            hint="leave --keep or --gateway out",
        )
    if access not in ("token", "signed", "key"):
        raise UsageError("a fleet's gateway always wants its key", hint="--access key lets everybody with the key in")


def up_away(context: Context, plan: Plan, wish: FleetWish, *, access: str, emit: EmitFor, options: Options) -> FleetUp:
    """Brings the fleet up behind a gateway in a sandbox of its own, which comes first: while it can't be had, no GPU is
    paid for.

    Raises:
        GpuserveError: the gateway can't be had, or fewer than ``wish.min_ready`` workers came up. What this call made
            is deleted.
    """
    began = time.monotonic()
    check_wish(wish.keep, access)
    check_fleet_name(wish.name)
    if load(wish.name) is not None:
        raise Conflict(
            f"the gateway of {wish.name} is on this machine", hint=f"gpuserve fleet down {wish.name}, or another --name"
        )
    everyone = [one for one in members(context, wish.name) if one.state == "started"]
    found = _gate(context, plan, wish.name, everyone)
    if found is not None and found.access != access:
        kept = f"the gateway is there with access {found.access!r}, and keeps it; see gpuserve share"
        emit(wish.name, Warned(kept))
    there = [one for one in everyone if one.served_model == plan.launch.served_model]
    remote = awake(as_remote(context, found)) if found else _built(context, plan, wish, access, emit)
    made: list[Raised] = []
    try:
        plans = replicas(plan, wish.name, max(0, wish.replicas - len(there)))
        made = raise_crew(context, plans, emit=emit, options=options)
        check_enough(made, len(there), wish)
        asked = {"request": as_json(plan.request), "facts": as_json(plan.facts)}
        remote = remote.noted(**asked, until=until(plan.request.ttl))
        remote.push()
        workers = [*there, *(one.deployed.deployment for one in made if one.deployed is not None)]
        if options.wait:
            await_rotation(remote, [one.name for one in workers][: wish.min_ready] if there else came_up(made))
    except (GpuserveError, KeyboardInterrupt):
        undo(context, made, options)
        if found is None and not everyone and not options.keep_failed:
            delete(context, [remote.gate])
        raise
    return FleetUp(handed_out(context, remote), tuple(workers), tuple(made), time.monotonic() - began)


def _gate(context: Context, plan: Plan, name: str, there: Sequence[Deployment]) -> Deployment | None:
    """The gateway's sandbox, if it is there already.

    Raises:
        Conflict: the name is a deployment's, or the fleet serves another model.
    """
    at_place = context.sandboxes(plan.place).find(name)
    if at_place is not None and at_place.state not in GONE and at_place.gateway_of != name:
        raise Conflict(f"{name} is a deployment", hint="choose another --name for the fleet")
    found = find_gate(context, name)
    check_same(name, plan.place, plan.launch.served_model, [*there, *([found] if found else [])])
    return found


def _built(context: Context, plan: Plan, wish: FleetWish, access: str, emit: EmitFor) -> Remote:
    timeout = float(plan.request.timeout)
    tell = partial(emit, plan.name)
    return build(context, plan, access=access, port=wish.port, timeout=timeout, emit=tell)


def handed_out(context: Context, remote: Remote) -> Remote:
    """The fleet with the way in that its gateway is handed out by."""
    way, _ = hand_out(context, remote.gate, remote.way)
    return replace(remote, way=way)


def awake(remote: Remote) -> Remote:
    """The fleet with its gateway running: it is started if it has ended."""
    try:
        remote.status()
    except NetworkError:
        revive(remote)
    return remote


def refresh(context: Context, remote: Remote) -> Remote:
    """Starts the gateway if it doesn't run, and tells it of the workers with credentials asked for anew."""
    awake(remote).push(fresh=True)
    return handed_out(context, remote)


def deleted(context: Context, gate: Deployment) -> list[Gone]:
    """Deletes the gateway's sandbox, and makes sure of it.

    Raises:
        GpuserveError: it may still exist.
    """
    gone = delete(context, [gate])
    for one in gone:
        if one.error is not None:
            raise one.error
    return gone
