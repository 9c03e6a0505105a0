"""``gpuserve share``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuserve.cli.command import Id, Run, command
from gpuserve.errors import UsageError

EPILOG = (
    'Examples: gpuserve share --expires 1h · curl "$(gpuserve share -q)/v1/models" · gpuserve share --revoke. '
    "With --json: {data: {name, url, base_url, expires_at}}, or {data: {name, revoked}}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="share", epilog=EPILOG)(share)


def share(
    run: Run,
    which: Id = None,
    expires: Annotated[str | None, typer.Option(help="1s to 24h.", show_default="1h")] = None,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Make the URLs that were shared from this machine worthless.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="With --revoke: this URL only.")] = None,
) -> None:
    """Print a URL for others: no header needed, one port only, expires, can be revoked."""
    from gpuserve.durations import format_duration, parse_duration
    from gpuserve.serving import share as core

    if revoke:
        if expires is not None:
            raise UsageError("--expires and --revoke don't go together", hint="gpuserve share --revoke")
        deployment, count = core.revoke(run.context, which, url)
        run.output.data({"name": deployment.name, "revoked": count})
        run.output.say("revoked", f"{count} shared URL{'' if count == 1 else 's'} of {deployment.name}")
        return
    if url is not None:
        raise UsageError("--url goes with --revoke", hint="gpuserve share --revoke --url URL")
    seconds = 3600 if expires is None else parse_duration(expires)
    shared = core.share(run.context, which, seconds)
    run.output.data(
        {
            "name": shared.deployment.name,
            "url": shared.url,
            "base_url": shared.base_url,
            "expires_at": shared.expires_at.isoformat(),
        }
    )
    run.output.result(shared.url)
    run.output.say("access", f"whoever has this URL can use the model for {format_duration(seconds)}; keep it secret")
    run.output.say("use", "add /v1 for OpenAI clients; any api_key will do")
