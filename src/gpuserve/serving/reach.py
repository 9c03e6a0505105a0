"""From a deployment to its endpoint: out of the cache where that will do, else from the platform."""

from __future__ import annotations

from dataclasses import replace

from gpuserve.access import signed_endpoint, token_endpoint
from gpuserve.errors import NotFound, UsageError
from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.context import Context
from gpuserve.serving.find import check_started, find, find_known, live
from gpuserve.serving.fleet.names import apart, reach_fleet
from gpuserve.state import Remembered


def reach(context: Context, wanted: str | None) -> tuple[Deployment, Endpoint, bool]:
    """The deployment and its endpoint, and whether both come from the cache, unasked. A fleet's is its gateway.

    ``FLEET/MODEL`` is one of several models that a fleet serves.

    Raises:
        NotFound, Conflict: as ``find``; or the fleet serves no such model.
        UsageError: ``ID/MODEL`` for what is no fleet.
    """
    if apart(wanted)[1]:
        return *reach_fresh(context, wanted), False
    if fleet := reach_fleet(context, wanted):
        return *fleet, False
    known = find_known(context, wanted)
    if known is not None and known.endpoint is not None:
        return known.deployment, known.endpoint, True
    deployment, endpoint = reach_fresh(context, wanted)
    return deployment, endpoint, False


def reach_fresh(context: Context, wanted: str | None) -> tuple[Deployment, Endpoint]:
    """As ``reach``, but always as the platform tells it now; the cache is brought up to date."""
    name, model = apart(wanted)
    if model:
        return _one_model(context, str(name), model)
    if fleet := reach_fleet(context, wanted):
        return fleet
    deployment = find(context, wanted)
    return deployment, open_endpoint(context, deployment)


def _one_model(context: Context, name: str, model: str) -> tuple[Deployment, Endpoint]:
    """The fleet's gateway, asked for ``model``, as one that has the engine of those who serve it."""
    deployment, endpoint = reach_fresh(context, name)
    fleet = deployment.gateway_of or (name if reach_fleet(context, name) else "")
    if not fleet:
        raise UsageError(f"{name} is no fleet, and serves {deployment.served_model} alone", hint=f"leave /{model} out")
    there = [one for one in live(context)[0] if one.fleet == fleet]
    worker = next((one for one in there if one.served_model == model), None)
    if worker is None:
        served = ", ".join(f"{fleet}/{one}" for one in sorted({one.served_model for one in there}))
        raise NotFound(f"no worker of {fleet} serves {model!r}", hint=f"there is {served or 'no worker'}")
    told = replace(deployment, engine=worker.engine, model=worker.model, served_model=model)
    return told, replace(endpoint, served_model=model)


def open_endpoint(context: Context, deployment: Deployment) -> Endpoint:
    """Asks for the deployment's preview link and remembers it.

    Raises:
        Conflict: the sandbox doesn't run.
    """
    check_started(deployment)
    sandboxes = context.sandboxes(deployment.place)
    link = sandboxes.link(deployment)
    key = sandboxes.engine_key(deployment) or "EMPTY"
    endpoint = token_endpoint(link.url, link.token, deployment.served_model, api_key=key)
    context.cache.remember(Remembered(deployment=deployment, endpoint=endpoint, api_url=sandboxes.place.api_url))
    return endpoint


def local_endpoint(port: int, deployment: Deployment) -> Endpoint:
    """The endpoint of a deployment as ``connect`` serves it on ``port`` of this machine: it asks for nothing."""
    return signed_endpoint(f"http://127.0.0.1:{port}", deployment.served_model)
