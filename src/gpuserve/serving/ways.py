"""Which way in was asked for, and with which engine key: from flags, settings and what older options meant."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpuserve import engines
from gpuserve.engines.base import ChecksKey, Engine
from gpuserve.errors import GpuserveError, UsageError
from gpuserve.records import ACCESS_MODES, Deployment, ServeRequest
from gpuserve.settings import Settings

_FLAG = "--api-key"
#: What the key of a fleet's gateway leaves open (smg 1.13.0).
GATEWAY_KEY = "Without the key the gateway tells whether it is well and which models it has (/health, /v1/models)."


@dataclass(frozen=True, slots=True)
class Way:
    """What of a request follows from the way in. ``env`` and ``engine_args`` no longer hold the key."""

    access: str
    public: bool
    api_key: str = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    engine_args: tuple[str, ...] = field(repr=False)


def chosen(
    engine_name: str,
    access: str,
    *,
    public: bool,
    env: Mapping[str, str],
    engine_args: Sequence[str],
    settings: Settings,
) -> Way:
    """The way in that ``access`` ("" for not said) or the older ``public`` asks for.

    ``public`` alone is "key" where a key was given, else "open". A key that was given as the engines take it, by
    variable or ``--api-key``, is taken out of there: it reaches the engine by a file, and ``query`` knows it. With
    "key" and none given, one of 32 random bytes is made.

    Raises:
        UsageError: an unknown engine or way, a contradiction, or an engine that checks no key.
    """
    if access not in ("", *ACCESS_MODES):
        raise UsageError(f"unknown access {access!r}", hint="one of " + ", ".join(ACCESS_MODES))
    engine = engines.load(engine_name)
    own, kept_env, kept_args = _given(engine, env, engine_args)
    if not access:
        named = bool(own or settings.engine_key.get_secret_value())
        access = ("key" if named else "open") if public else "token"
    elif public and access in ("token", "signed"):
        raise UsageError(f"--public and --access {access} don't go together", hint="--access key or --access open")
    if access == "open" and own:
        raise UsageError("open access is one without a key, and a key was given", hint="--access key")
    key = own or (settings.engine_key.get_secret_value() or new_key() if access == "key" else "")
    if key and not isinstance(engine, ChecksKey):
        raise UsageError(f"{engine_name} checks no API key of its own", hint="--access token or --access signed")
    return Way(access, access in ("key", "open"), key, kept_env, kept_args)


def new_key() -> str:
    """An engine key of 32 random bytes, with the beginning that some tools insist on."""
    return f"sk-{secrets.token_urlsafe(32)}"


def found_at(request: ServeRequest, found: Deployment) -> ServeRequest:
    """``request`` with the way in of a deployment that exists. Its key, if one lies there already, comes first."""
    key = (request.api_key or new_key()) if found.keyed else ""
    return replace(request, public=found.public, access=found.access, api_key=key)


def uncovered(deployment: Deployment) -> str:
    """What the key of a deployment leaves open, as a sentence; "" where it has none, or that isn't known."""
    if not deployment.keyed:
        return ""
    return GATEWAY_KEY if deployment.gateway_of else key_words(deployment.engine)


def key_words(engine_name: str) -> str:
    """What the engine's key leaves open, as a sentence; "" where that isn't known."""
    try:
        engine = engines.load(engine_name)
    except GpuserveError:
        return ""  # an engine of somebody else's plug-in, which isn't installed here
    return engine.key_check.uncovered if isinstance(engine, ChecksKey) else ""


def _given(
    engine: Engine, env: Mapping[str, str], engine_args: Sequence[str]
) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """The key that was given to the engine itself ("" for none), and variables and arguments without it."""
    kept_env, kept_args = dict(env), tuple(engine_args)
    if not isinstance(engine, ChecksKey):
        return "", kept_env, kept_args
    variable = engine.key_check.how.variable
    from_env = kept_env.pop(variable, "") if variable else ""
    from_args, kept_args = _take(kept_args)
    return from_args or from_env, kept_env, kept_args


def _take(arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The value of the first ``--api-key``, as one argument or two, and the other arguments."""
    for at, argument in enumerate(arguments):
        if argument == _FLAG and at + 1 < len(arguments):
            return arguments[at + 1], (*arguments[:at], *arguments[at + 2 :])
        if argument.startswith(f"{_FLAG}="):
            return argument.removeprefix(f"{_FLAG}="), (*arguments[:at], *arguments[at + 1 :])
    return "", arguments
