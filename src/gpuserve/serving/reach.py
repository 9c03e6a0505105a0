"""From a deployment to its endpoint: out of the cache where that will do, else from the platform."""

from __future__ import annotations

from gpuserve.access import signed_endpoint, token_endpoint
from gpuserve.errors import Conflict
from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.context import Context
from gpuserve.serving.find import find, find_known
from gpuserve.serving.fleet.names import reach_fleet
from gpuserve.state import Remembered


def reach(context: Context, wanted: str | None) -> tuple[Deployment, Endpoint, bool]:
    """The deployment and its endpoint, and whether both come from the cache, unasked. A fleet's is its gateway.

    Raises:
        NotFound, Conflict: as ``find``.
    """
    if fleet := reach_fleet(context, wanted):
        return *fleet, False
    known = find_known(context, wanted)
    if known is not None and known.endpoint is not None:
        return known.deployment, known.endpoint, True
    deployment, endpoint = reach_fresh(context, wanted)
    return deployment, endpoint, False


def reach_fresh(context: Context, wanted: str | None) -> tuple[Deployment, Endpoint]:
    """As ``reach``, but always as the platform tells it now; the cache is brought up to date."""
    if fleet := reach_fleet(context, wanted):
        return fleet
    deployment = find(context, wanted)
    return deployment, open_endpoint(context, deployment)


def open_endpoint(context: Context, deployment: Deployment) -> Endpoint:
    """Asks for the deployment's preview link and remembers it.

    Raises:
        Conflict: the sandbox doesn't run.
    """
    if deployment.state != "started":
        raise Conflict(f"{deployment.name} is {deployment.error or deployment.state}", hint="gpuserve status")
    sandboxes = context.sandboxes(deployment.place)
    link = sandboxes.link(deployment)
    key = sandboxes.engine_key(deployment) or "EMPTY"
    endpoint = token_endpoint(link.url, link.token, deployment.served_model, api_key=key)
    context.cache.remember(Remembered(deployment=deployment, endpoint=endpoint, api_url=sandboxes.place.api_url))
    return endpoint


def local_endpoint(port: int, deployment: Deployment) -> Endpoint:
    """The endpoint of a deployment as ``connect`` serves it on ``port`` of this machine: it asks for nothing."""
    return signed_endpoint(f"http://127.0.0.1:{port}", deployment.served_model)
