"""``down``: deletes deployments and makes sure that they are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from gpuserve.errors import ConfigError, GpuserveError, NotFound
from gpuserve.records import Deployment
from gpuserve.serving import defaults
from gpuserve.serving.context import Context
from gpuserve.serving.cost import Cost, cost_of
from gpuserve.serving.find import find


@dataclass(frozen=True, slots=True)
class Gone:
    """What became of one deployment: ``error`` None means that it no longer exists.

    ``cost`` is from its creation to its end; None without a GPU or a price.
    """

    name: str
    sandbox_id: str
    existed: bool
    error: GpuserveError | None = None
    cost: Cost | None = None


def named(context: Context, wanted: Sequence[str], *, ignore_not_found: bool) -> tuple[list[Deployment], list[str]]:
    """The deployments meant, each once, and the names that mean none (only with ``ignore_not_found``).

    Of a fleet whose gateway is in a sandbox that is the gateway: without its fleet it must not go.

    Nothing is deleted before every name is understood.

    Raises:
        NotFound, Conflict: a name means no deployment, or several.
    """
    found: dict[str, Deployment] = {}
    missing = []
    for one in wanted:
        try:
            deployment = find(context, one)
        except NotFound:
            if not ignore_not_found:
                raise
            missing.append(one)
        else:
            found[deployment.sandbox_id] = deployment
    return list(found.values()), missing


def delete(context: Context, deployments: Sequence[Deployment]) -> list[Gone]:
    """Deletes all of them at once, and waits until each is gone. An error of one doesn't stop the others.

    Prices that can't be read stop no deletion: there is no cost then.
    """
    if not deployments:
        return []
    prices: dict[str, float] = {}
    for deployment in deployments:
        context.sandboxes(deployment.place)  # opened here: the threads below only use it
    with suppress(ConfigError):
        prices = defaults.prices(context.settings)
    with ThreadPoolExecutor(max_workers=min(8, len(deployments))) as pool:
        return list(pool.map(lambda one: _delete(context, one, prices), deployments))


def _delete(context: Context, deployment: Deployment, prices: Mapping[str, float]) -> Gone:
    try:
        existed = context.sandboxes(deployment.place).delete(deployment.sandbox_id)
    except GpuserveError as error:
        return Gone(deployment.name, deployment.sandbox_id, existed=True, error=error)
    context.cache.forget(deployment.sandbox_id)
    cost = cost_of(deployment, prices) if existed else None
    return Gone(deployment.name, deployment.sandbox_id, existed, cost=cost)
