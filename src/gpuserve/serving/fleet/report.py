"""``fleet status``: each worker by the word of the platform, its engine, the keeper and the gateway; the totals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gpuserve.errors import GpuserveError
from gpuserve.serving.context import Context
from gpuserve.serving.cost import Cost
from gpuserve.serving.find import live
from gpuserve.serving.fleet import daemon
from gpuserve.serving.fleet.away.remote import away_state
from gpuserve.serving.fleet.look import gateway_states, no_fleet
from gpuserve.serving.fleet.record import Record, known, load
from gpuserve.serving.status import Report, inspect_all


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker. ``row`` is the keeper's view of it, ``gateway`` the gateway's; empty where none runs here."""

    report: Report
    row: dict[str, Any] = field(default_factory=dict)
    gateway: str = ""

    def as_dict(self) -> dict[str, object]:
        """As ``fleet status --json`` prints it: as ``status``, and what only a fleet knows."""
        load = self.report.load
        return {
            **self.report.as_dict(),
            "worker_state": self.row.get("state"),
            "in_rotation": self.gateway == "ready" and bool(self.row.get("in_rotation")),
            "in_flight": self.row.get("in_flight"),
            "served": self.row.get("served"),
            "cache_hit_rate": None if load is None else load.cache_hit_rate,
            "token_age_seconds": self.row.get("token_age_seconds"),
        }


@dataclass(frozen=True, slots=True)
class FleetReport:
    """One fleet. ``record`` is None where its gateway was never here; ``gate`` is the gateway's sandbox, if any."""

    name: str
    record: Record | None
    runs: bool
    workers: tuple[WorkerReport, ...]
    problem: str = ""
    gate: Report | None = None

    @property
    def costs(self) -> list[Cost]:
        """Of the workers of which it is known."""
        return [one.report.cost for one in self.workers if one.report.cost is not None]

    def as_dict(self) -> dict[str, object]:
        """As ``fleet status --json`` prints it; no secret."""
        rows = [one.as_dict() for one in self.workers]
        spent = [one.so_far for one in self.costs if one.so_far is not None]
        record = self.record
        return {
            "name": self.name,
            "gateway": "runs" if self.runs else "stopped" if record or self.gate else "elsewhere",
            "gateway_place": "sandbox" if self.gate else "here" if record else None,
            "gateway_sandbox": None if self.gate is None else _gate(self.gate),
            "base_url": record.endpoint.base_url if record and self.runs else None,
            "models": sorted({one.report.deployment.served_model for one in self.workers}),
            "keep": record.keep if record else None,
            "problem": self.problem or None,
            "in_rotation": sum(bool(row["in_rotation"]) for row in rows),
            "in_flight": sum(one.row.get("in_flight", 0) for one in self.workers) if self.runs else None,
            "served": sum(one.row.get("served", 0) for one in self.workers) if self.runs else None,
            "cost_per_hour": sum(one.per_hour for one in self.costs) if self.costs else None,
            "cost": sum(spent) if spent else None,
            "workers": rows,
        }


def _gate(report: Report) -> dict[str, object]:
    """Of the gateway's sandbox what ``status`` says of a deployment."""
    told = report.as_dict()
    fields = ("name", "sandbox_id", "state", "health", "detail", "access", "live_links", "expires_at", "seconds_left")
    return {field: told[field] for field in fields}


def survey_fleets(context: Context, name: str | None = None) -> tuple[list[FleetReport], list[GpuserveError]]:
    """All fleets that the platform lists workers of, or that this machine has a gateway of; or the one called ``name``.

    Raises:
        NotFound: there is no such fleet.
    """
    deployments, errors = live(context)
    names = {one.fleet or one.gateway_of for one in deployments} - {""} | {one.name for one in known()}
    if name is not None and name not in names:
        raise no_fleet(context, name)
    chosen = sorted(names) if name is None else [name]
    mine = [one for one in deployments if one.fleet in chosen]
    gates = inspect_all(context, [one for one in deployments if one.gateway_of in chosen])
    away = {one.deployment.gateway_of: one for one in gates}
    reports = inspect_all(context, mine)
    return [
        _report(context, one, [each for each in reports if each.deployment.fleet == one], away.get(one))
        for one in chosen
    ], errors


def _report(context: Context, name: str, reports: Sequence[Report], gate: Report | None) -> FleetReport:
    record, rows, states, problem = load(name), {}, {}, ""
    runs = record is not None and daemon.runs(name)
    if record is None and gate is not None:
        record, runs, problem = away_state(context, gate.deployment)
    if record is not None and runs:
        with suppress(GpuserveError):  # it is being started again: what the platform says is told all the same
            told = daemon.ask(record, "status")
            rows, problem = {row["name"]: row for row in told["workers"]}, told["problem"] or problem
        states = gateway_states(record)
    ordered = sorted(reports, key=lambda one: one.deployment.name)
    workers = [
        WorkerReport(one, rows.get(one.deployment.name, {}), states.get(one.deployment.name, "")) for one in ordered
    ]
    return FleetReport(name, record, runs, tuple(workers), problem, gate)
