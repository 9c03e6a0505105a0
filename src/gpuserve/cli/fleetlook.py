"""How fleets are shown: the progress of several workers, the hand-off, the state, what a change did."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run
from gpuserve.cli.fleetaway import tell_access, tell_gateway
from gpuserve.cli.output import Output
from gpuserve.durations import format_clock, format_duration

if TYPE_CHECKING:
    from gpuserve.serving.events import Event
    from gpuserve.serving.fleet.begin import FleetUp
    from gpuserve.serving.fleet.change import Changed
    from gpuserve.serving.fleet.crew import Raised
    from gpuserve.serving.fleet.report import FleetReport, WorkerReport

FleetName = Annotated[str | None, typer.Argument(metavar="[FLEET]", help="A fleet; all of them if left out.")]
COLUMNS = ("WORKER", "STATE", "HEALTH", "ROTATION", "MODEL", "FLIGHT", "SERVED", "KV", "HITS", "TOKEN", "LEFT", "COST")

#: What an engine says of its boot, for a person.
_PHASES = {
    "downloading": "downloading weights",
    "loading": "loading weights",
    "kv_cache": "sizing the KV cache",
    "graphs": "capturing graphs",
    "serving": "opening its port",
}


class Crew:
    """Tells the events of several workers, each line with the worker's name."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began = time.monotonic()
        self._phases: dict[str, str] = {}

    def tell(self, name: str, event: Event) -> None:
        """Shows one event of one worker."""
        from gpuserve.cli.progress import event_dict

        if self._output.as_json:
            self._output.line({"event": {"worker": name, **event_dict(event)}})
        elif text := self._words(name, event):
            self._output.say("worker", f"{f'{name}  {text}':<70}  {format_clock(time.monotonic() - self._began)}")

    def _words(self, name: str, event: Event) -> str:
        from gpuserve.cli.progress import STATES
        from gpuserve.serving.events import Boot, Launched, Noted, Ready, Removed, SandboxState, Warned

        match event:
            case SandboxState(_, state, _):
                return STATES.get(state, state)
            case Launched():
                return "engine started"
            case Boot(fact, _) if self._phases.get(name) != fact.phase:
                self._phases[name] = fact.phase
                return _PHASES.get(fact.phase, fact.phase)
            case Ready():
                return "ready"
            case Removed():
                return "deleted, it is gone"
            case Noted(text):
                return text
            case Warned(text):
                self._output.warn(f"{name}: {text}")
        return ""


def hand_off_fleet(run: Run, done: FleetUp, form: str, *, ready: bool) -> None:
    """The address and the key: on stdout as ``form`` says, with the workers in JSON mode."""
    from gpuserve.access import as_dict
    from gpuserve.cli.handoff import print_endpoint

    record = done.record
    for one in done.failed:
        assert one.error is not None
        run.output.warn(f"{one.name} failed: {one.error.message}")
    run.output.data(
        {
            **as_dict(record.endpoint, record.deployment),
            "ready": ready,
            "workers": [one.name for one in done.workers],
            "failed": [_failure(one) for one in done.failed],
            "keep": record.keep,
            "seconds": round(done.seconds, 3),
        }
    )
    print_endpoint(run.output, record.endpoint, record.deployment, form)
    count = f"{len(done.workers)} worker{'' if len(done.workers) == 1 else 's'}"
    run.output.say("fleet", f"{record.name}: {count} behind {record.endpoint.base_url}")
    tell_access(run, record)
    run.output.say(
        "next",
        f'gpuserve query "hello" --id {record.name}     gpuserve fleet status {record.name}     '
        f"gpuserve fleet down {record.name}",
    )


def _failure(one: Raised) -> dict[str, object]:
    return {"name": one.name, "error": None if one.error is None else one.error.as_dict()}


def tell_changed(run: Run, name: str, done: Changed) -> None:
    """What came and what went; raises the first error, once all is told."""
    from gpuserve.cli.down import outcome, tell

    came = [one.name for one in done.came if one.error is None]
    failed = [one for one in done.came if one.error is not None]
    went = [outcome(one) for one in done.went]
    run.output.data(
        {"name": name, "came": came, "failed": [_failure(one) for one in failed], "went": went, "cut": done.cut}
    )
    for worker in came:
        run.output.say("fleet", f"{worker} is in rotation in {name}")
    if done.cut:
        run.output.warn(f"{done.cut} requests were still under way when their worker went")
    tell(run, done.went)
    for one in failed:
        assert one.error is not None
        run.output.warn(f"{one.name} failed: {one.error.message}")
    for one in failed:
        assert one.error is not None
        raise one.error


def show_status(run: Run, name: str | None) -> None:
    """One fleet, or all."""
    from gpuserve.serving.fleet.report import survey_fleets

    fleets, errors = survey_fleets(run.context, name)
    for error in errors:
        run.output.warn(error.message)
    shown = [one.as_dict() for one in fleets]
    run.output.data(shown if name is None else shown[0])
    if run.output.as_json:
        return
    if not fleets:
        run.output.say("fleet", "there is none: gpuserve fleet up --local --replicas 2")
    for one in fleets:
        _show(run, one)


def _show(run: Run, fleet: FleetReport) -> None:
    told = fleet.as_dict()
    where = {"runs": f"answers at {told['base_url']}", "stopped": "is stopped: gpuserve fleet start"}
    gateway = where.get(str(told["gateway"]), "isn't on this machine: gpuserve fleet start")
    keep = f", kept at {told['keep']}" if told["keep"] else ""
    cost = "" if told["cost"] is None else f"; cost so far {told['cost']:.2f}"
    run.output.result(f"{fleet.name}: {told['in_rotation']} of {len(fleet.workers)} workers in rotation{keep}{cost}")
    if fleet.gate is None:
        run.output.say("gateway", gateway)
    else:
        tell_gateway(run, fleet.gate, gateway if fleet.runs else "which doesn't answer: gpuserve fleet start")
    if fleet.problem:
        run.output.warn(fleet.problem)
    run.output.table(COLUMNS, [_row(one) for one in fleet.workers])


def _row(worker: WorkerReport) -> tuple[str, ...]:
    report, row, load = worker.report, worker.row, worker.report.load
    one = report.deployment
    left = one.time_left(report.moment)
    return (
        one.name,
        str(row.get("state") or one.state),
        report.health or "-",
        "yes" if worker.as_dict()["in_rotation"] else "no",
        one.served_model,
        str(row.get("in_flight", "-")),
        str(row.get("served", "-")),
        _share(None if load is None else load.kv_usage),
        _share(None if load is None else load.cache_hit_rate),
        format_duration(row["token_age_seconds"]) if "token_age_seconds" in row else "-",
        "no limit" if left is None else format_duration(left),
        "-" if report.cost is None or report.cost.so_far is None else f"{report.cost.so_far:.2f}",
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
