"""The ways to reach an endpoint: what each opens, to whom, and how it is handed to a script.

Pure: the tokens and URLs come from the platform, through ``sandboxes``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuserve.durations import format_duration
from gpuserve.errors import UsageError
from gpuserve.records import Deployment, Endpoint
from gpuserve.redaction import secrets_in

#: The header that the platform's proxy takes a sandbox's preview token from.
PREVIEW_TOKEN_HEADER = "x-daytona-preview-token"  # noqa: S105 - a header's name
#: The shortest and the longest life of a signed URL, in seconds (the platform answers 400 beyond them).
SHARE_MIN = 1
SHARE_MAX = 86400

_PLAIN = re.compile(r"[\w./:@%+,~-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def token_endpoint(url: str, token: str, served_model: str, *, api_key: str = "EMPTY") -> Endpoint:
    """The endpoint behind a preview URL, entered with the sandbox's preview token: an administrator's way."""
    return Endpoint(
        url=url.rstrip("/"), served_model=served_model, headers={PREVIEW_TOKEN_HEADER: token}, api_key=api_key
    )


def signed_endpoint(url: str, served_model: str, *, api_key: str = "EMPTY") -> Endpoint:
    """The endpoint behind a signed URL, or behind the plain URL of a public sandbox: the URL is all it takes."""
    return Endpoint(url=url.rstrip("/"), served_model=served_model, api_key=api_key)


def preview_token(endpoint: Endpoint) -> str:
    """The preview token that ``endpoint`` is entered with; "" if it needs none."""
    return next((value for name, value in endpoint.headers.items() if name.lower() == PREVIEW_TOKEN_HEADER), "")


def check_share_seconds(seconds: int) -> None:
    """Raises ``UsageError`` unless a signed URL can live for ``seconds``."""
    if not SHARE_MIN <= seconds <= SHARE_MAX:
        raise UsageError(
            f"a shared URL can't live for {seconds} s",
            hint=f"choose {SHARE_MIN} to {SHARE_MAX} seconds (24h), for example --expires 1h",
        )


_ADMIN = (
    "The preview token opens the whole sandbox, its shell and files included, and can't be revoked: "
    "it is an administrator's credential, not for sharing."
)
_OPEN_PORTS = "anybody who has the URL can use every port of it but the platform's own"
_PUBLIC = f"The sandbox is public: {_OPEN_PORTS}, without a credential."
_PUBLIC_KEY = f"The sandbox is public: {_OPEN_PORTS}; only the engine still asks for its API key."
_PUBLIC_GATE = f"The sandbox is public: {_OPEN_PORTS}; the fleet's gateway, which is all there is, asks for its key."
_KEY = "Whichever way they come, requests for the model also need the engine's own API key."
_KEY_GATE = "Whichever way they come, requests for the model also need the gateway's key."
#: What each way in will mean, told before anything exists.
_PLANNED = {
    "token": "Only who holds the sandbox's preview token, or your Daytona API key, can reach anything of it.",
    "signed": (
        "Who holds the signed URL can use the engine's port and nothing else, until it expires or is revoked; all else "
        "takes the preview token or your Daytona API key."
    ),
    "key": _PUBLIC_KEY,
    "open": _PUBLIC,
}


def planned(mode: str, *, keyed: bool, uncovered: str = "") -> tuple[str, ...]:
    """Who will be able to reach what by the way in called ``mode``, a sentence each.

    ``keyed`` says whether the engine checks a key of its own, ``uncovered`` what that key leaves open.
    """
    extra = (_KEY,) if keyed and mode not in ("key", "open") else ()
    return (_PLANNED[mode], *extra, *((uncovered,) if keyed and uncovered else ()))


def describe(
    deployment: Deployment,
    *,
    token: bool = True,
    shared_until: Sequence[datetime] = (),
    uncovered: str = "",
    now: datetime | None = None,
) -> tuple[str, ...]:
    """Who can reach what, one sentence for each way in.

    ``token`` says whether the preview token is in use or on show, ``shared_until`` when each signed URL ends,
    ``uncovered`` what the engine's own key leaves open, if it checks one.
    """
    said = []
    if token:
        said.append(_ADMIN)
    for end in shared_until:
        left = (end - (now or datetime.now(end.tzinfo))).total_seconds()
        still = f"for another {format_duration(left)}" if left > 0 else "no longer: it has expired"
        said.append(f"A signed URL opens port {deployment.port} to whoever has it, {still}; it can be revoked before.")
    gate = bool(deployment.gateway_of)
    if deployment.public:
        said.append((_PUBLIC_GATE if gate else _PUBLIC_KEY) if deployment.keyed else _PUBLIC)
    elif deployment.keyed:
        said.append(_KEY_GATE if gate else _KEY)
    if deployment.keyed and uncovered:
        said.append(uncovered)
    return tuple(said)


def as_dict(endpoint: Endpoint, deployment: Deployment) -> dict[str, object]:
    """All that a program needs to use the endpoint, credentials included: for JSON that was asked for."""
    return {
        "id": deployment.sandbox_id,
        "name": deployment.name,
        "engine": deployment.engine,
        "model": deployment.model,
        "served_model": endpoint.served_model,
        "access": deployment.access,
        "endpoint": endpoint.url,
        "base_url": endpoint.base_url,
        "token": preview_token(endpoint),
        "headers": dict(endpoint.headers),
        "api_key": endpoint.api_key,
        "expires_at": None if deployment.expires_at is None else deployment.expires_at.isoformat(),
    }


@dataclass(frozen=True, slots=True)
class GithubExport:
    """For a GitHub Actions step: ``masks`` are commands for its stdout, to be printed before anything else;
    ``outputs`` are lines to append to the file that $GITHUB_OUTPUT names.

    A masked value reaches later steps of the same job only: GitHub drops an output that holds a secret on its
    way to another job.
    """

    masks: str
    outputs: str


def github(endpoint: Endpoint, deployment: Deployment) -> GithubExport:
    """The endpoint as step outputs, and the commands that keep its credentials out of the job's log."""
    outputs = {
        "endpoint": endpoint.url,
        "token": preview_token(endpoint),
        "name": deployment.name,
        "sandbox-id": deployment.sandbox_id,
        "model": endpoint.served_model,
        "base-url": endpoint.base_url,
        **({} if endpoint.api_key in ("", "EMPTY") else {"api-key": endpoint.api_key}),
    }
    secrets = dict.fromkeys(secrets_in(endpoint.url, endpoint.headers, endpoint.api_key))
    return GithubExport(
        masks="".join(f"::add-mask::{_command_data(secret)}\n" for secret in secrets),
        outputs="".join(_output(name, value) for name, value in outputs.items()),
    )


def _command_data(text: str) -> str:
    """``text`` as a workflow command wants it; "%" first, since the others put one in."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _output(name: str, value: str) -> str:
    if not re.search(r"[\r\n]", value):
        return f"{name}={value}\n"
    end = "END"
    while end in value:  # whoever chose the value must not be able to end it and write outputs of his own
        end += "-END"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _variables(endpoint: Endpoint) -> Mapping[str, str]:
    """The guides' two variables, and the engine's key if it checks one."""
    key = {} if endpoint.api_key in ("", "EMPTY") else {"API_KEY": endpoint.api_key}
    return {"ENDPOINT": endpoint.url, "TOKEN": preview_token(endpoint), **key}


def _env(endpoint: Endpoint, _: Deployment) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in _variables(endpoint).items())


def _dotenv(endpoint: Endpoint, _: Deployment) -> str:
    return "".join(f"{name}={_dotenv_value(value)}\n" for name, value in _variables(endpoint).items())


def _dotenv_value(value: str) -> str:
    """``value`` in the form that all readers of such files agree on: bare, or in single quotes.

    Raises:
        UsageError: it holds what they don't agree on (a quote, a backslash, a control character, ``${``).
    """
    if _PLAIN.fullmatch(value):
        return value
    if "'" in value or "\\" in value or "${" in value or _CONTROL.search(value):
        raise UsageError("a value can't be written to a .env file safely", hint="use -o json or -o env")
    return f"'{value}'"


def _fish(endpoint: Endpoint, _: Deployment) -> str:
    return "".join(f"set -gx {name} {_fish_value(value)}\n" for name, value in _variables(endpoint).items())


def _fish_value(value: str) -> str:
    """``value`` in fish's single quotes, in which only the backslash and the quote mean something."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


_FORMATS: Mapping[str, Callable[[Endpoint, Deployment], str]] = {
    "env": _env,
    "dotenv": _dotenv,
    "fish": _fish,
    "github": lambda endpoint, deployment: github(endpoint, deployment).outputs,
    "json": lambda endpoint, deployment: json.dumps(as_dict(endpoint, deployment), indent=2) + "\n",
    "url": lambda endpoint, _: f"{endpoint.url}\n",
    "id": lambda _, deployment: f"{deployment.sandbox_id}\n",
}
#: What ``-o`` takes.
FORMATS = tuple(_FORMATS)


def render(endpoint: Endpoint, deployment: Deployment, form: str) -> str:
    """The endpoint as text for a script, credentials included, ending in a line feed.

    ``form`` is one of ``FORMATS``; "github" gives the outputs alone (see ``github()`` for the masks).

    Raises:
        UsageError: no such form, or a value that the form can't hold.
    """
    write = _FORMATS.get(form)
    if write is None:
        raise UsageError(f"unknown output format {form!r}", hint="known: " + ", ".join(FORMATS))
    return write(endpoint, deployment)
