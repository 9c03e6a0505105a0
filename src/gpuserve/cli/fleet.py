"""``gpuserve fleet``: several workers behind one gateway. What changes a fleet; ``fleetlook`` shows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.asked import Asked, keep_failed, make_plan_from
from gpuserve.cli.command import Run, command
from gpuserve.cli.fleetaway import away_access, refuse_stop, tell_place
from gpuserve.cli.fleetlook import FleetName, hand_off_fleet, show_status, tell_changed
from gpuserve.cli.signals import terminable
from gpuserve.durations import parse_duration
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.serving.fleet.begin import FleetUp, FleetWish
    from gpuserve.serving.fleet.crew import EmitFor
    from gpuserve.serving.plan import Plan
    from gpuserve.serving.up import Options

app = typer.Typer(help="Several workers behind one address and one key.", no_args_is_help=True)

_CHANGED = "With --json: {data: {name, came, went, cut}}."
Name = Annotated[str, typer.Argument(metavar="FLEET", help="The fleet, by its whole name.")]
Replicas = Annotated[int, typer.Option("--replicas", "-r", min=1, help="How many workers.", show_default=False)]
Drain = Annotated[str, typer.Option(help="How long requests that are under way may hold up a worker's end.")]


@command(
    app,
    epilog="Examples: gpuserve fleet up --local --replicas 2 --name f · "
    'eval "$(gpuserve fleet up -m openai/gpt-oss-20b -e sglang --replicas 4 --min-ready 3 --keep 4 -- --tp 1)" · '
    "gpuserve fleet up -m Qwen/Qwen3-8B --replicas 2 --gateway sandbox --access key. "
    'With --json: {"event": …} for each step, with the worker\'s name, then '
    "{data: {name, base_url, api_key, workers, failed, …}}.",
)
def up(
    run: Run,
    asked: Asked,
    replicas: Replicas,
    min_ready: Annotated[
        int | None, typer.Option(min=1, help="Succeed with that many workers.", show_default="all")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Replace lost workers up to this number.", show_default=False)
    ] = None,
    lost_after: Annotated[str, typer.Option(help="With --keep: a worker that fails for so long is lost.")] = "1m",
    gateway_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The gateway's port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    gateway: Annotated[
        str, typer.Option(help="Where the gateway runs: here, or sandbox: a CPU sandbox that outlives this machine.")
    ] = "here",
) -> None:
    """Bring up N sandboxes at once behind one gateway, and print its address and key.

    The gateway runs on this machine, in the background, until fleet down; with --gateway sandbox on the platform, and
    --access says who reaches it. The workers are private.
    """
    from gpuserve.cli.handoff import check_format
    from gpuserve.cli.up import show_plan
    from gpuserve.serving.fleet.begin import FleetWish
    from gpuserve.serving.fleet.gateway import check_installed

    check_format(asked.output)
    away = away_access(gateway, asked, keep)
    if away:
        asked = replace(asked, access=None, public=False)  # the workers'
    _check(asked, replicas, min_ready, local=run.context.only_local)
    if asked.dry_run:
        show_plan(run, asked)
        tell_place(run, away)
        return
    if not away:
        check_installed()
    plan, lost = make_plan_from(asked, run), parse_duration(lost_after)
    wish = FleetWish(
        name=plan.name,
        replicas=replicas,
        min_ready=min_ready or replicas,
        keep=keep,
        port=gateway_port,
        lost_after=lost,
    )
    done = _brought_up(run, asked, plan, wish, away)
    hand_off_fleet(run, done, asked.output, ready=asked.wait)


def _brought_up(run: Run, asked: Asked, plan: Plan, wish: FleetWish, away: str) -> FleetUp:
    """The fleet as wished; ``away`` says who reaches a gateway in a sandbox, "" that it is on this machine."""
    from gpuserve.serving.fleet.away.begin import up_away
    from gpuserve.serving.fleet.begin import up_fleet

    run.context.sandboxes(run.context.place_for_up())
    with terminable():
        emit, options = _teller(run), _options(asked, run)
        if away:
            return up_away(run.context, plan, wish, access=away, emit=emit, options=options)
        return up_fleet(run.context, plan, wish, emit=emit, options=options)


def _check(asked: Asked, replicas: int, min_ready: int | None, *, local: bool) -> None:
    if min_ready is not None and min_ready > replicas:
        raise UsageError(
            f"--min-ready {min_ready} is more than --replicas {replicas}", hint=f"--min-ready 1 to {replicas}"
        )
    if asked.access not in (None, "token") or asked.public:
        raise UsageError(
            "the workers of a fleet are private, and a gateway on this machine has no address for others",
            hint="leave --access and --public out, or add --gateway sandbox: they are for such a gateway",
        )
    if local and asked.port is not None and replicas > 1:
        raise UsageError("workers on one machine can't share a port", hint="leave --port out")


def _options(asked: Asked, run: Run) -> Options:
    from gpuserve.serving.up import Options

    return Options(wait=asked.wait, keep_failed=keep_failed(asked.on_failure, run))


def _teller(run: Run) -> EmitFor:
    from gpuserve.cli.fleetlook import Crew

    return Crew(run.output).tell


@command(
    app,
    epilog="Examples: gpuserve fleet status · gpuserve fleet status f --json. With --json: {data: [{name, gateway, "
    "base_url, models, keep, in_rotation, in_flight, cost, workers: […], …}]}, one object with a name. "
    "Looking doesn't count as use.",
)
def status(run: Run, name: FleetName = None) -> None:
    """Show each fleet: its gateway, its workers, what they do and what they cost."""
    show_status(run, name)


@command(app, epilog=f"Examples: gpuserve fleet scale f 5 · gpuserve fleet scale f 1 --drain 30s. {_CHANGED}")
def scale(
    run: Run,
    name: Name,
    count: Annotated[int, typer.Argument(help="How many workers there shall be, 1 at the least.")],
    drain: Drain = "10m",
    on_failure: Annotated[str | None, typer.Option(help="keep or delete a worker that fails (delete).")] = None,
) -> None:
    """Start more workers as the others were, or drain and delete the least busy ones."""
    from gpuserve.serving.fleet.change import scale
    from gpuserve.serving.fleet.look import known
    from gpuserve.serving.up import Options

    if count < 1:
        raise UsageError(
            f"a fleet can't have {count} workers", hint=f"1 at the least; gpuserve fleet down {name} ends it"
        )
    options = Options(keep_failed=keep_failed(on_failure, run))
    record = known(run.context, name)
    with terminable():
        done = scale(run.context, record, count, emit=_teller(run), options=options, drain=parse_duration(drain))
    tell_changed(run, name, done)
    if not done.came and not done.went:
        run.output.say("fleet", f"nothing to do: {name} has {count} workers of its own, up or on their way")


@command(
    app,
    epilog="Example: gpuserve fleet add f qwen3-8b-7f3c. With --json: {data: {name, workers}}. A worker may serve "
    "another model than the others: the gateway sends a request to those that serve the model it names.",
)
def add(
    run: Run,
    name: Name,
    which: Annotated[list[str], typer.Argument(metavar="ID...", help="Deployments, by name or sandbox ID.")],
) -> None:
    """Make deployments that are live workers of a fleet."""
    from gpuserve.serving.fleet.change import join
    from gpuserve.serving.fleet.look import known

    joined = join(run.context, known(run.context, name), which)
    run.output.data({"name": name, "workers": [one.name for one in joined]})
    run.output.say("fleet", f"{', '.join(one.name for one in joined)}: in rotation in {name}")


@command(app, epilog=f"Examples: gpuserve fleet remove f f-3c1d · gpuserve fleet remove f f-3c1d --spare. {_CHANGED}")
def remove(
    run: Run,
    name: Name,
    which: Annotated[list[str], typer.Argument(metavar="ID...", help="Workers, by name or sandbox ID.")],
    drain: Drain = "10m",
    spare: Annotated[bool, typer.Option("--spare", help="Leave the sandbox alive, on its own.")] = False,
) -> None:
    """Drain workers and delete them. With --keep the fleet starts others in their place: fleet scale doesn't."""
    from gpuserve.serving.fleet.change import leave
    from gpuserve.serving.fleet.look import known, members, worker

    record = known(run.context, name)
    there = members(run.context, name)
    chosen = [worker(there, name, one) for one in which]
    with terminable():
        done = leave(run.context, record, chosen, emit=_teller(run), drain=parse_duration(drain), spare=spare)
    tell_changed(run, name, done)
    if spare:
        names = ", ".join(one.name for one in chosen)
        run.output.say("fleet", f"{names} left {name} and lives on: gpuserve down ends it")


@command(
    app,
    epilog="Examples: gpuserve fleet roll f -- --max-model-len 16384 · gpuserve fleet roll f --image img:v2. "
    f"{_CHANGED}",
)
def roll(
    run: Run,
    name: Name,
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ENGINE FLAGS]", help="In the place of those that were given.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Container image.", show_default="as it was")] = None,
    drain: Drain = "10m",
    on_failure: Annotated[str | None, typer.Option(help="keep or delete a worker that fails (delete).")] = None,
) -> None:
    """Replace each worker by one with other engine flags or another image, one at a time, without a gap.

    Without either the workers are made anew as they were. If a new one fails, those not yet replaced stay.
    """
    from gpuserve.serving.fleet.change import roll
    from gpuserve.serving.fleet.look import known
    from gpuserve.serving.up import Options

    record = known(run.context, name)
    options = Options(keep_failed=keep_failed(on_failure, run))
    with terminable():
        done = roll(
            run.context,
            record,
            lambda plan: _altered(plan, image, extra),
            emit=_teller(run),
            options=options,
            drain=parse_duration(drain),
        )
    tell_changed(run, name, done)
    if not done.came:
        run.output.say("fleet", f"{name} has no workers of its own to replace; new ones will be as was asked")


def _altered(plan: Plan, image: str | None, extra: list[str] | None) -> Plan:
    from gpuserve.serving.plan import at_port

    request = replace(
        plan.request,
        image=image or plan.request.image,
        engine_args=plan.request.engine_args if extra is None else tuple(extra),
    )
    return at_port(replace(plan, request=request), request.port)


@command(
    app,
    epilog="Example: gpuserve fleet start f. With --json: {data: {name, base_url, api_key}}: a secret. "
    "On a machine that never had it, the gateway gets an address and a key of its own.",
)
def start(
    run: Run,
    name: Name,
    gateway_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Its port on 127.0.0.1; 0: the one it had, or a free one.")
    ] = 0,
) -> None:
    """Start a fleet's gateway on this machine, after a reboot or for a fleet that was brought up elsewhere.

    One that runs in a sandbox is started there if it has ended, and gets every worker's credential anew.
    """
    from gpuserve.cli.handoff import print_endpoint
    from gpuserve.serving.fleet.change import start

    record = start(run.context, name, port=gateway_port)
    run.output.data({"name": name, "base_url": record.endpoint.base_url, "api_key": record.key})
    print_endpoint(run.output, record.endpoint, record.deployment, "env")
    run.output.say("gateway", f"{name} answers at {record.endpoint.base_url}")


@command(app, epilog="Example: gpuserve fleet stop f. With --json: {data: {name, stopped}}.")
def stop(run: Run, name: Name) -> None:
    """Stop a fleet's gateway on this machine. The workers live on, and cost."""
    from gpuserve.serving.fleet import daemon
    from gpuserve.serving.fleet.look import known

    refuse_stop(known(run.context, name))
    stopped = daemon.stop(name)
    run.output.data({"name": name, "stopped": stopped})
    run.output.say(
        "gateway", "stopped; the workers live on: gpuserve fleet down ends them" if stopped else "didn't run"
    )


@command(
    app,
    epilog="Examples: gpuserve fleet down f · gpuserve fleet down f --drain 0s --ignore-not-found. "
    f"{_CHANGED} It ends well only if the platform lists none of the workers any more.",
)
def down(
    run: Run,
    name: Name,
    drain: Drain = "10m",
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="A fleet that isn't there is no error.")
    ] = False,
) -> None:
    """Drain a fleet, delete all its workers, stop its gateway, and make sure that nothing is left."""
    from gpuserve.errors import NotFound
    from gpuserve.serving.fleet.change import Changed, down

    try:
        done = down(run.context, name, emit=_teller(run), drain=parse_duration(drain))
    except NotFound:
        if not ignore_not_found:
            raise
        tell_changed(run, name, Changed())
        run.output.say("fleet", f"there was no fleet {name}")
        return
    tell_changed(run, name, done)
    run.output.say("fleet", f"{name} is gone")
