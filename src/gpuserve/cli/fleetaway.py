"""What the fleet's commands say of a gateway in a sandbox, and refuse for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuserve.cli.asked import Asked
from gpuserve.cli.command import Run
from gpuserve.errors import Conflict, UsageError

if TYPE_CHECKING:
    from gpuserve.serving.fleet.record import Record
    from gpuserve.serving.status import Report

#: Where a gateway may run.
PLACES = ("here", "sandbox")


def away_access(gateway: str, asked: Asked, keep: int | None) -> str:
    """How a gateway in a sandbox is reached, as ``--access`` says; "" for one on this machine.

    Raises:
        UsageError: no such place, or what can't be had there.
    """
    if gateway not in PLACES:
        raise UsageError(f"--gateway can't be {gateway!r}", hint="here or sandbox")
    if gateway == "here":
        return ""
    from gpuserve.serving.fleet.away.begin import check_wish

    access = asked.access or ("key" if asked.public else "token")
    if asked.public and access != "key":
        raise UsageError(f"--public and --access {access} don't go together", hint="--access key")
    check_wish(keep, access)
    return access


def tell_place(run: Run, away: str) -> None:
    """For ``--dry-run``: where the gateway will run, and what follows from that."""
    from gpuserve.serving.fleet.away.begin import UNKEPT
    from gpuserve.serving.fleet.away.house import IMAGE

    if not away:
        run.output.say("gateway", "on this machine, in the background")
        return
    run.output.say("gateway", f"in a CPU sandbox of its own ({IMAGE} with smg), access {away}, as long as the workers")
    run.output.say("note", UNKEPT)


def tell_access(run: Run, record: Record) -> None:
    """Who reaches the gateway of a fleet that is up."""
    from gpuserve.access import describe, preview_token
    from gpuserve.serving.fleet.away.begin import UNKEPT
    from gpuserve.serving.fleet.away.remote import Remote
    from gpuserve.serving.ways import uncovered

    if not isinstance(record, Remote):
        run.output.say("access", "The gateway listens on this machine only and wants its key; the workers are private.")
        return
    run.output.say("access", "The gateway runs in a sandbox and wants its key; the workers are private.")
    token = bool(preview_token(record.endpoint))
    if token:
        run.output.say("access", "Among its files are the workers' credentials: share it as gpuserve share does.")
    for sentence in describe(record.gate, token=token, uncovered=uncovered(record.gate)):
        run.output.say("access", sentence)
    run.output.say("note", UNKEPT)


def tell_gateway(run: Run, gate: Report, words: str) -> None:
    """For ``fleet status``: ``words`` say where a gateway answers."""
    from gpuserve.serving.fleet.away.begin import UNKEPT

    run.output.say("gateway", f"{gateway_words(gate)}, {words}")
    run.output.say("note", UNKEPT)


def gateway_words(gate: Report) -> str:
    """Where a gateway in a sandbox is and how it does, in a few words."""
    from gpuserve.durations import format_duration

    left = gate.deployment.time_left(gate.moment)
    until = "no limit" if left is None else f"{format_duration(left)} left"
    return f"in a sandbox ({gate.health or gate.deployment.state}, access {gate.deployment.access}, {until})"


def refuse_stop(record: Record) -> None:
    """Raises ``Conflict`` where the gateway isn't on this machine."""
    from gpuserve.serving.fleet.away.remote import Remote

    if isinstance(record, Remote):
        raise Conflict(
            f"the gateway of {record.name} is in a sandbox, which ends with the fleet",
            hint=f"gpuserve fleet down {record.name}",
        )
