"""What is live, and how it is doing: the platform's state, the engine's health and its own counters."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gpuserve import engines
from gpuserve.access import describe
from gpuserve.client.health import HealthState, Prober
from gpuserve.client.metrics import Load, read_load
from gpuserve.engines.base import ReportsMetrics
from gpuserve.errors import GpuserveError
from gpuserve.records import Deployment, Endpoint
from gpuserve.sandboxes import labels
from gpuserve.serving.context import Context
from gpuserve.serving.cost import UNKNOWN, Cost, cost_of, deadline_problem
from gpuserve.serving.defaults import prices as prices_of
from gpuserve.serving.find import find, live
from gpuserve.serving.idle import Uses
from gpuserve.serving.reach import open_endpoint
from gpuserve.serving.ways import uncovered

#: Seconds for one look at an engine's health.
PROBE_TIMEOUT = 5.0
#: How the probe's outcome is called in ``status``.
WORDS = {
    HealthState.READY: "ready",
    HealthState.NOT_YET: "not ready",
    HealthState.REFUSED: "refused",
    HealthState.GONE: "gone",
    HealthState.UNREACHABLE: "unreachable",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One deployment at one moment. ``health`` is a word of ``WORDS`` or "" where the sandbox doesn't run.

    ``cost`` is None without a GPU, or without a price for it. ``links`` are the ends of the signed URLs that were
    handed out from this machine and still work; the platform lists none.
    """

    deployment: Deployment
    moment: datetime
    health: str = ""
    detail: str = ""
    url: str = ""
    load: Load | None = None
    cost: Cost | None = None
    idle_since: datetime | None = None
    links: tuple[datetime, ...] = ()

    @property
    def idle_seconds(self) -> float | None:
        """For how long, at the least, nobody used the engine; None while it works or where that isn't known."""
        return None if self.idle_since is None else max(0.0, (self.moment - self.idle_since).total_seconds())

    @property
    def idle_limit(self) -> int | None:
        """Seconds without a request after which the platform deletes it; None where it doesn't look."""
        return labels.asked(self.deployment.labels, labels.IDLE)

    @property
    def who(self) -> tuple[str, ...]:
        """Who can reach what, a sentence for each way in."""
        left_open = uncovered(self.deployment)
        return describe(self.deployment, shared_until=self.links, uncovered=left_open, now=self.moment)

    @property
    def warning(self) -> str:
        """What is wrong with its deadline; "" if nothing is."""
        return deadline_problem(self.deployment)

    def as_dict(self) -> dict[str, object]:
        """As ``status --json`` prints it; times in seconds and in ISO 8601 UTC; no secret."""
        one = self.deployment
        return {
            "name": one.name,
            "sandbox_id": one.sandbox_id,
            "place": one.place,
            "state": one.state,
            "health": self.health or None,
            "detail": self.detail or one.error or None,
            "engine": one.engine,
            "model": one.model,
            "served_model": one.served_model,
            "image": one.image,
            "gpu": one.gpu or None,
            "target": one.target,
            "port": one.port,
            "public": one.public,
            "access": one.access,
            "engine_key": one.keyed,
            "live_links": len(self.links),
            "who": list(self.who),
            "endpoint": self.url or None,
            "created_at": one.created_at.isoformat() if one.created_at else None,
            "age_seconds": _whole(one.age(self.moment)),
            "expires_at": one.expires_at.isoformat() if one.expires_at else None,
            "seconds_left": _whole(one.time_left(self.moment)),
            "running": self.load.running if self.load else None,
            "waiting": self.load.waiting if self.load else None,
            "kv_usage": self.load.kv_usage if self.load else None,
            **(UNKNOWN if self.cost is None else self.cost.as_dict()),
            "idle_since": self.idle_since.isoformat() if self.idle_since else None,
            "idle_seconds": _whole(self.idle_seconds),
            "idle_limit_seconds": self.idle_limit,
            "warning": self.warning or None,
            "fleet": one.fleet or one.gateway_of or None,
            "run_id": one.run_id,
            "labels": {key: value for key, value in one.labels.items() if not key.startswith(labels.PREFIX)},
        }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def survey(context: Context) -> tuple[list[Report], list[GpuserveError]]:
    """Every live deployment, newest first, and the errors of places that did not answer."""
    deployments, errors = live(context)
    return inspect_all(context, deployments), errors


def inspect(context: Context, wanted: str) -> Report:
    """One deployment.

    Raises:
        NotFound, Conflict: ``wanted`` means none, or several.
    """
    return inspect_all(context, [find(context, wanted)])[0]


def inspect_all(context: Context, deployments: Sequence[Deployment]) -> list[Report]:
    """The reports, in the order given; engines are asked all at once.

    Raises:
        ConfigError: the prices can't be read.
    """
    if not deployments:
        return []
    known = {one.deployment.sandbox_id: one.endpoint for one in context.cache.all() if one.endpoint}
    for deployment in deployments:
        context.sandboxes(deployment.place)  # opened here: the threads below only use it
    prices = prices_of(context.settings)
    with ThreadPoolExecutor(max_workers=min(16, len(deployments))) as pool:
        reports = list(pool.map(lambda one: _report(context, one, known.get(one.sandbox_id)), deployments))
    shares = context.cache.all_shares()
    uses = Uses(context.cache.path.with_name("uses.json"))
    whole = [
        replace(
            one,
            cost=cost_of(one.deployment, prices, one.moment),
            idle_since=uses.idle_since(one.deployment, one.load, one.moment),
            links=tuple(link.expires_at for link in shares.get(one.deployment.sandbox_id, ()) if link.lives),
        )
        for one in reports
    ]
    uses.save()
    return whole


def _report(context: Context, deployment: Deployment, endpoint: Endpoint | None) -> Report:
    moment = datetime.now(UTC)
    if deployment.state != "started":
        return Report(deployment, moment)
    try:
        endpoint = endpoint or open_endpoint(context, deployment)
    except GpuserveError as error:
        return Report(deployment, moment, detail=error.message)
    routes = labels.routes(deployment.labels)
    with Prober(endpoint, routes.health, timeout=PROBE_TIMEOUT) as prober:
        probe = prober.probe()
    load = _load(deployment, endpoint, routes.metrics) if probe.ready else None
    ended = _end(context, deployment) if probe.state is HealthState.NOT_YET else ""
    return Report(deployment, moment, WORDS[probe.state], ended or probe.detail, endpoint.url, load)


def _end(context: Context, deployment: Deployment) -> str:
    """That the engine has ended, where it has; "" where it runs, and where that can't be told."""
    try:
        session = context.sandboxes(deployment.place).session(deployment)
        code = session.exit_code() if session.attach() else None
    except GpuserveError:
        return ""  # a detail beside others: that it is missing is no error
    return "" if code is None else f"the engine ended with exit code {code}; why: gpuserve wait {deployment.name}"


def _load(deployment: Deployment, endpoint: Endpoint, path: str) -> Load | None:
    try:
        engine = engines.load(deployment.engine)
    except GpuserveError:
        return None  # an engine of somebody else's plug-in: its counters stay unread
    if not path or not isinstance(engine, ReportsMetrics):
        return None
    return read_load(endpoint, path, engine.metrics)
