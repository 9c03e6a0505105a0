"""``gpuserve host``: the local host that ``--local`` starts on demand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run, command
from gpuserve.cli.output import shown_path
from gpuserve.errors import PlatformError

if TYPE_CHECKING:
    from gpuserve.host.daemon import HostInfo

app = typer.Typer(help="The Daytona-compatible host on this machine.", no_args_is_help=True)


@command(app, epilog="Example: gpuserve host start. With --json: {data: {running, api_url, pid, state_dir}}.")
def start(
    run: Run,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    gpus: Annotated[str, typer.Option(help="GPU types to offer, as H100:2,RTX-PRO-6000; default: what is here.")] = "",
    show_key: Annotated[bool, typer.Option("--show-key", help="Print its API key as export lines.")] = False,
) -> None:
    """Start the host, if it isn't running."""
    from gpuserve.host import daemon

    with _told():
        info = daemon.start(port=port, gpus=gpus)
    _show(run, info, show_key=show_key)


@command(app, epilog="Example: gpuserve host stop. With --json: {data: {stopped}}.")
def stop(run: Run) -> None:
    """Stop the host, and with it every sandbox and process that it started."""
    from gpuserve.host import daemon

    with _told():
        stopped = daemon.stop()
    run.output.data({"stopped": stopped})
    run.output.say("host", "stopped; none of its processes is left" if stopped else "was not running")


@command(app, epilog="Example: gpuserve host status. With --json: {data: {running, api_url, pid, state_dir}}.")
def status(
    run: Run,
    show_key: Annotated[bool, typer.Option("--show-key", help="Print its API key as export lines.")] = False,
) -> None:
    """Say whether the host runs, and where."""
    from gpuserve.host import daemon

    with _told():
        info = daemon.running()
    _show(run, info, show_key=show_key)


@contextmanager
def _told() -> Iterator[None]:
    from gpuserve.host.daemon import HostError

    try:
        yield
    except HostError as error:
        raise PlatformError(str(error), hint="gpuserve host status") from error


def _show(run: Run, info: HostInfo | None, *, show_key: bool) -> None:
    if info is None:
        run.output.data({"running": False, "api_url": None, "pid": None, "state_dir": None})
        run.output.say("host", "is not running: gpuserve host start")
        return
    shown = {"running": True, "api_url": info.url, "pid": info.pid, "state_dir": str(info.state_dir)}
    run.output.data({**shown, "api_key": info.key} if show_key else shown)
    run.output.say(
        "host", f"runs at {info.url} (process {info.pid}), its state is in {shown_path(str(info.state_dir))}"
    )
    if show_key:
        run.output.result(f"export DAYTONA_API_URL={info.url}\nexport DAYTONA_API_KEY={info.key}")
