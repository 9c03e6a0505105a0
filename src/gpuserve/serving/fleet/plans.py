"""The plans of a fleet's workers: one plan, many names."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from gpuserve import engines
from gpuserve.errors import UsageError
from gpuserve.records import ModelFacts, ServeRequest
from gpuserve.serving.fleet.record import Record, from_json
from gpuserve.serving.plan import Plan, at_port, free_port

#: The fewest seconds for which a lost worker is worth replacing.
SHORTEST = 120
#: The longest name of a fleet, in letters: its workers' names add five.
LONGEST = 58


def check_fleet_name(name: str) -> None:
    """Raises ``UsageError`` if the names of the workers would be too long."""
    if len(name) > LONGEST:
        raise UsageError(f"{name!r} is too long for a fleet", hint=f"use up to {LONGEST} letters")


def replica(plan: Plan, fleet: str) -> Plan:
    """The plan of one more worker of ``fleet``: private, with a name and a run of its own."""
    request = replace(plan.request, fleet=fleet, name="")
    own = replace(plan, request=request, name=f"{fleet}-{secrets.token_hex(2)}", run_id=secrets.token_hex(6))
    # This machine's ports are shared by all sandboxes on it.
    return at_port(own, free_port()) if plan.place == "local" else own


def replicas(plan: Plan, fleet: str, count: int) -> list[Plan]:
    """``count`` plans, no two with the same name, nor on this machine with the same port."""
    made: list[Plan] = []
    while len(made) < count:
        one = replica(plan, fleet)
        ports = {each.request.port for each in made} if plan.place == "local" else set()
        if one.name not in {each.name for each in made} and one.request.port not in ports:
            made.append(one)
    return made


def stored_plan(record: Record) -> Plan:
    """The plan that the fleet's workers are made by."""
    request, facts = from_json(ServeRequest, record.request), from_json(ModelFacts, record.facts)
    launch = engines.load(request.engine).plan(request, facts)
    return Plan(request=request, launch=launch, facts=facts, place=record.place, name=record.name, run_id="")


def until(ttl: int | None) -> float | None:
    """When a worker that is asked for now will have ended, as ``Record.until``; ``ttl`` in seconds."""
    return None if ttl is None else time.time() + ttl


def replacement(record: Record) -> Plan | None:
    """The plan of a worker in the place of a lost one, which ends when that would have; None if that is about now."""
    plan = stored_plan(record)
    if record.until is not None:
        left = int(record.until - time.time())
        if left < SHORTEST:
            return None
        plan = replace(plan, request=replace(plan.request, ttl=left))
    return replica(plan, record.name)
