"""``gpuserve share``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run, command
from gpuserve.cli.consent import OPEN, agreed
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.records import Deployment, Endpoint

EPILOG = (
    'Examples: gpuserve share --expires 1h · curl "$(gpuserve share -q)/v1/models" · gpuserve share list · '
    "gpuserve share --revoke · gpuserve share --public off · gpuserve share --rotate-key --yes. "
    "With --json: {data: {name, url, base_url, expires_at}}; list: [{name, url, state, expires_at, …}]; --revoke: "
    "{name, revoked}; --public: {name, public, access, url, base_url, api_key}; --rotate-key: {name, api_key, …}."
)
COLUMNS = ("NAME", "STATE", "LEFT", "EXPIRES", "URL")
#: What revoking can't reach, read in the platform's server v0.190; the local host sets no such cookie.
COOKIE = "a browser that used it may get in for up to an hour more: Daytona's proxy has left it a cookie"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOptions:
    """What was typed."""

    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[list] [ID]", help="list: the URLs handed out here. Else name, sandbox ID or prefix."),
    ] = None
    expires: Annotated[str | None, typer.Option(help="1s to 24h (1h).", show_default=False)] = None
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Make the URLs that were shared from this machine worthless.")
    ] = False
    url: Annotated[str | None, typer.Option(help="With --revoke: this URL only.")] = None
    public: Annotated[
        str | None, typer.Option(metavar="on|off", help="Open it to everybody who has the URL, or close it again.")
    ] = None
    rotate_key: Annotated[
        bool, typer.Option("--rotate-key", help="Start the engine anew with another key of its own.")
    ] = False
    timeout: Annotated[str, typer.Option(help="With --rotate-key: how long the engine may take.")] = "15m"
    reveal: Annotated[bool, typer.Option("--reveal", help="With list: show whole URLs, which are secrets.")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False

    @property
    def listing(self) -> bool:
        """Whether the first word is ``list``."""
        return bool(self.words) and self.words is not None and self.words[0] == "list"

    @property
    def which(self) -> str | None:
        """The deployment that is meant."""
        words = (self.words or [])[1:] if self.listing else (self.words or [])
        if len(words) > 1:
            raise UsageError("one deployment at a time", hint="gpuserve share ID, or gpuserve share list ID")
        return words[0] if words else None

    def check(self) -> None:
        """Raises ``UsageError`` where two things are asked for at once."""
        if self.revoke and self.expires is not None:
            raise UsageError("--expires and --revoke don't go together", hint="gpuserve share --revoke")
        if self.url is not None and not self.revoke:
            raise UsageError("--url goes with --revoke", hint="gpuserve share --revoke --url URL")
        asked = (self.listing, self.expires, self.revoke, self.public, self.rotate_key)
        if sum(map(bool, asked)) > 1:
            raise UsageError(
                "share does one thing at a time", hint="list, --expires, --revoke, --public or --rotate-key"
            )
        if self.public not in (None, "on", "off"):
            raise UsageError(f"--public can't be {self.public!r}", hint="gpuserve share --public on, or off")
        if self.reveal and not self.listing:
            raise UsageError("--reveal goes with list", hint="gpuserve share list --reveal")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="share", epilog=EPILOG)(share)


def share(run: Run, asked: ShareOptions) -> None:
    """Let others in: print a URL that needs no header, opens one port, expires and can be revoked.

    Also: list and revoke such URLs, open the deployment to everybody and close it, change the engine's own key.
    """
    asked.check()
    if asked.listing:
        _list(run, asked)
    elif asked.revoke:
        _revoke(run, asked)
    elif asked.public:
        _public(run, asked)
    elif asked.rotate_key:
        _rotate(run, asked)
    else:
        _sign(run, asked)


def _sign(run: Run, asked: ShareOptions) -> None:
    from gpuserve.durations import format_duration, parse_duration
    from gpuserve.serving import share as core

    seconds = 3600 if asked.expires is None else parse_duration(asked.expires)
    shared = core.share(run.context, asked.which, seconds)
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
    whose = "the gateway's key" if shared.deployment.gateway_of else "the engine's own key"
    key = f"{whose} as api_key" if shared.deployment.keyed else "any api_key will do"
    run.output.say("use", f"add /v1 for OpenAI clients; {key}")


def _list(run: Run, asked: ShareOptions) -> None:
    from gpuserve.serving import share as core

    found = [one.as_dict(reveal=asked.reveal) for one in core.listed(run.context, asked.which)]
    run.output.data(found)
    run.output.say("links", "those handed out from this machine, as it remembers them: the platform lists none")
    if not run.output.as_json and found:
        run.output.table(COLUMNS, [_row(one) for one in found])


def _row(one: Mapping[str, object]) -> tuple[str, ...]:
    from gpuserve.durations import format_duration

    left = format_duration(float(str(one["seconds_left"])))
    return tuple(map(str, (one["name"] or one["sandbox_id"], one["state"], left, one["expires_at"], one["url"])))


def _revoke(run: Run, asked: ShareOptions) -> None:
    from gpuserve.serving import share as core

    deployment, count = core.revoke(run.context, asked.which, asked.url)
    run.output.data({"name": deployment.name, "revoked": count})
    run.output.say("revoked", f"{count} shared URL{'' if count == 1 else 's'} of {deployment.name}")
    if count and deployment.place != "local":
        run.output.say("note", COOKIE)


def _public(run: Run, asked: ShareOptions) -> None:
    from gpuserve.serving import share as core
    from gpuserve.serving.find import find

    to_all = asked.public == "on"
    which = asked.which
    core.check_shareable(run.context, which)
    if to_all:
        found = find(run.context, which)
        which = found.sandbox_id
        if not found.keyed:
            agreed(OPEN, yes=asked.yes)
    deployment, endpoint = core.set_public(run.context, which, public=to_all)
    handed, _ = core.hand_out(run.context, deployment, endpoint) if to_all else (endpoint, None)
    run.output.data({"public": deployment.public, **_way(deployment, handed)})
    run.output.result(handed.url)
    _tell(run, deployment)


def _rotate(run: Run, asked: ShareOptions) -> None:
    from gpuserve.cli.progress import Progress
    from gpuserve.durations import parse_duration
    from gpuserve.serving.rekey import price, rotate_key

    timeout = parse_duration(asked.timeout)
    agreed(price(run.context, asked.which), yes=asked.yes)
    quiet = run.output.as_json
    with Progress(run.output) as progress:
        emit = (lambda _: None) if quiet else progress.draw
        done = rotate_key(run.context, asked.which, timeout=timeout, emit=emit)
    run.output.data({**_way(done.deployment, done.endpoint), "seconds": round(done.seconds, 3)})
    run.output.result(done.endpoint.api_key)
    run.output.say("key", f"{done.deployment.name} answers to this key only; the old one is worthless")
    if done.here:
        run.output.say("access", "The gateway listens on this machine only and wants its key; the workers are private.")
        return
    _tell(run, done.deployment)


def _way(deployment: Deployment, endpoint: Endpoint) -> dict[str, object]:
    """The way in as JSON; the key is what these commands exist to hand over, the preview token is not."""
    return {
        "name": deployment.name,
        "access": deployment.access,
        "url": endpoint.url,
        "base_url": endpoint.base_url,
        "api_key": endpoint.api_key,
    }


def _tell(run: Run, deployment: Deployment) -> None:
    from gpuserve.access import describe
    from gpuserve.serving.ways import uncovered

    for sentence in describe(deployment, token=False, uncovered=uncovered(deployment)):
        run.output.say("access", sentence)
    if not deployment.public:
        run.output.say("access", "closed: the preview token, a signed URL or your Daytona API key is needed again")
