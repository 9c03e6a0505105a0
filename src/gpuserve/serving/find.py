"""From what somebody typed to one deployment: its name, its sandbox ID, a unique prefix, or nothing at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from gpuserve.errors import Conflict, GpuserveError, NotFound, UsageError
from gpuserve.records import GONE, Deployment
from gpuserve.serving.context import Context
from gpuserve.serving.fleet.record import load
from gpuserve.state import Remembered

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def resolve(wanted: str | None, known: Sequence[Deployment]) -> Deployment:
    """The one of ``known`` that ``wanted`` means; without ``wanted``, the only one there is.

    Raises:
        NotFound: none is meant.
        Conflict: several are; the message lists them.
    """
    if wanted is None:
        return _only(known)
    _check(wanted)
    exact = [one for one in known if wanted in (one.name, one.sandbox_id)]
    if exact:
        return exact[0]
    workers = [one for one in known if one.fleet == wanted]
    if workers:  # and no prefix of one of them
        raise NotFound(
            f"{wanted!r} is a fleet, and this needs one of its workers: {_names(workers)}",
            hint=_fleet_hint(wanted),
        )
    meant = [one for one in known if one.name.startswith(wanted) or one.sandbox_id.startswith(wanted)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise Conflict(f"{wanted!r} means several deployments: {_names(meant)}", hint="type more of the name")
    near = get_close_matches(wanted, [one.name for one in known], n=1)
    hint = f"did you mean {near[0]}?" if near else "gpuserve status lists what there is"
    raise NotFound(f"no deployment {wanted!r}", hint=hint)


def _fleet_hint(name: str) -> str:
    if load(name) is None:
        return (
            f"name one of them; of them all: gpuserve fleet status {name}, fleet down {name}; "
            f"fleet start {name} starts a gateway on this machine, for query and others"
        )
    return f"name one of them; what takes a fleet: gpuserve fleet --help, status {name}, query --id {name}"


def _only(known: Sequence[Deployment]) -> Deployment:
    if not known:
        raise NotFound("no deployment is live", hint="gpuserve up --model openai/gpt-oss-20b, or gpuserve up --local")
    gates = [one for one in known if one.gateway_of]
    if len(gates) == 1 and {one.fleet for one in known if one not in gates} <= {gates[0].gateway_of}:
        return gates[0]  # all else that lives are the workers of its fleet
    if len(known) > 1:
        apart = sorted({one.fleet or one.name for one in known})
        if len(apart) == 1:
            raise Conflict(f"what is live are the workers of {apart[0]}: {_names(known)}", hint=_fleet_hint(apart[0]))
        raise Conflict(f"several deployments are live: {', '.join(apart)}", hint="name one of them")
    return known[0]


def _names(deployments: Iterable[Deployment]) -> str:
    return ", ".join(sorted(one.name for one in deployments))


def _check(wanted: str) -> None:
    """What can't be a name or an ID must not become part of an address."""
    if not _ID.fullmatch(wanted):
        raise UsageError(f"{wanted!r} is no deployment's name or ID", hint="gpuserve status lists what there is")


def live(context: Context) -> tuple[list[Deployment], list[GpuserveError]]:
    """All deployments of all places that answer, and the errors of those that don't.

    Raises:
        GpuserveError: no place answers; the first one's error.
    """
    found: list[Deployment] = []
    errors: list[GpuserveError] = []
    places = context.places()
    for place in places:
        try:
            found += context.sandboxes(place).deployments()
        except GpuserveError as error:
            errors.append(error)
    if errors and len(errors) == len(places):
        raise errors[0]
    return [one for one in found if one.state not in GONE], errors


def find(context: Context, wanted: str | None) -> Deployment:
    """The deployment that ``wanted`` means, as the platform tells it now.

    What this machine remembers only saves the look through all places.

    Raises:
        NotFound, Conflict: as ``resolve``.
    """
    if wanted is not None:
        _check(wanted)
        for known in remembered(context):
            if wanted in (known.deployment.name, known.deployment.sandbox_id):
                current = _still_there(context, known)
                if current is not None:
                    return current
    deployments, errors = live(context)
    try:
        return resolve(wanted, deployments)
    except NotFound as error:
        if errors:
            raise errors[0] from error
        raise


def check_started(deployment: Deployment) -> None:
    """Raises ``Conflict`` unless its sandbox runs."""
    if deployment.state != "started":
        raise Conflict(f"{deployment.name} is {deployment.error or deployment.state}", hint="gpuserve status")


def remembered(context: Context) -> list[Remembered]:
    """What the cache holds of the places that are meant."""
    return [one for one in context.cache.all() if not context.only_local or one.place == "local"]


def _still_there(context: Context, known: Remembered) -> Deployment | None:
    try:
        current = context.sandboxes(known.place).find(known.deployment.sandbox_id)
    except GpuserveError:
        return None  # the look through all places tells what is wrong
    if current is None or current.state in GONE:
        context.cache.forget(known.deployment.sandbox_id)
        return None
    return current


def find_known(context: Context, wanted: str | None) -> Remembered | None:
    """A remembered deployment with its endpoint, without asking anybody; None if that can't be told for sure."""
    usable = [one for one in remembered(context) if one.endpoint is not None]
    try:
        chosen = resolve(wanted, [one.deployment for one in usable])
    except (NotFound, Conflict):
        return None
    return next(one for one in usable if one.deployment.sandbox_id == chosen.sandbox_id)
