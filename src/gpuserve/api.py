"""The Python API: what the command line does, as one call.

import gpuserve

with gpuserve.up(model="openai/gpt-oss-20b", engine="sglang") as endpoint:
    endpoint.openai().chat.completions.create(model=endpoint.served_model, messages=[...])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from gpuserve.bulk.answers import Batch
from gpuserve.records import DEFAULT_BOOT_TIMEOUT, DEFAULT_PORT, Deployment, Endpoint, ServeRequest

if TYPE_CHECKING:
    from gpuserve.bulk.events import Emit as BatchEmit
    from gpuserve.serving.context import Context
    from gpuserve.serving.events import Emit


class Live:
    """A deployment that is up. As a context manager it gives its endpoint, and deletes the deployment at the end."""

    def __init__(self, context: Context, deployment: Deployment, endpoint: Endpoint) -> None:
        self._context = context
        self.deployment = deployment
        self.endpoint = endpoint

    def __enter__(self) -> Endpoint:
        return self.endpoint

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def down(self) -> None:
        """Deletes the sandbox and makes sure that it is gone; nothing happens if it already is.

        Raises:
            GpuserveError: it may still exist.
        """
        from gpuserve.serving.down import delete

        for gone in delete(self._context, [self.deployment]):
            if gone.error is not None:
                raise gone.error


class BatchOptions(TypedDict, total=False):
    """What ``batch`` takes besides rows, output and target; ``gpuserve batch --help`` says what is left out.

    ``schema`` is a JSON schema, ``choice`` the answers to choose from, ``timeout`` in seconds without a byte,
    ``concurrency`` the number of requests in flight, 0 for as many as the engine takes. ``emit`` gets the events of
    ``gpuserve.bulk.events``.
    """

    form: str
    template: str
    system: str
    schema: Mapping[str, Any]
    choice: Sequence[str]
    regex: str
    reasoning_effort: str
    max_tokens: int
    temperature: float
    keep_model: bool
    concurrency: int
    order: str
    output_order: str
    retry_failed: bool
    retries: int
    timeout: float
    stream: bool
    in_sandbox: bool
    local: bool
    env_file: Path
    emit: BatchEmit


def batch(
    rows: str | Path | Iterable[Mapping[str, Any] | str],
    output: str | Path,
    to: Live | Endpoint | str | None = None,
    **options: Unpack[BatchOptions],
) -> Batch:
    """Asks a model all of ``rows`` and appends the answers to ``output``; the same call goes on where it stopped.

    ``rows`` are a file as the command takes it, or texts, or mappings: whole requests of an OpenAI batch, or the fields
    of the template, with a ``custom_id`` or ``id`` where they aren't to be named by their line. ``to`` is whom to ask:
    what ``up`` returned, an endpoint, the name of a deployment, or None for the only one that is live.

    Raises:
        GpuserveError: as the command of that name. Rows that failed raise nothing: see ``Batch.summary``.
    """
    from gpuserve.serving.batch import run_for_api

    return Batch(Path(output), run_for_api(rows, Path(output), _target(to), dict(options)))


def _target(to: Live | Endpoint | str | None) -> Deployment | Endpoint | str | None:
    return to.deployment if isinstance(to, Live) else to


class UpOptions(TypedDict, total=False):
    """What ``up`` takes besides the model; ``gpuserve up --help`` says what is left out.

    ``access`` is token, signed, key or open; the endpoint is then the one for others, so with "signed" it ends.
    ``ttl`` is a duration such as "2h" or "none", ``idle`` one such as "30m", ``timeout`` in seconds,
    ``queue_timeout`` in minutes, ``memory`` and ``disk`` in GiB; ``gpus`` an empty sequence means none. ``emit`` gets
    the events of ``gpuserve.serving.events``.
    """

    engine: str
    local: bool
    name: str
    served_as: str
    revision: str
    image: str
    port: int
    gpus: Sequence[str]
    gpu_count: int
    cpu: int
    memory: int
    disk: int
    target: str
    public: bool
    access: str
    ttl: str
    idle: str
    timeout: int
    queue_timeout: int
    env: Mapping[str, str]
    labels: Mapping[str, str]
    engine_args: Sequence[str]
    fast_boot: bool
    keep_failed: bool
    log_file: Path
    env_file: Path
    emit: Emit
    check: bool
    force: bool


def up(model: str = "", **options: Unpack[UpOptions]) -> Live:
    """Brings a model up and waits until it answers.

    Raises:
        GpuserveError: as the command of that name; nothing is left running unless ``keep_failed``.
    """
    from gpuserve.serving import defaults
    from gpuserve.serving.context import Context
    from gpuserve.serving.events import ignore
    from gpuserve.serving.plan import make_plan
    from gpuserve.serving.preflight import Rules, Seen, checked
    from gpuserve.serving.up import Options
    from gpuserve.serving.up import up as bring_up
    from gpuserve.settings import load
    from gpuserve.state import Cache

    context = Context(load(options.get("env_file")), Cache(), options.get("local", False))
    request = _request(model, options, context)
    place = "local" if context.only_local else "daytona"
    any_gpu = "gpus" not in options and not context.settings.gpu
    prices = defaults.prices(context.settings)
    any_count, force = "gpu_count" not in options, options.get("force", False)
    rules = Rules(place, any_gpu=any_gpu, any_count=any_count, force=force, prices=prices)
    seen = checked(request, context) if options.get("check", True) else Seen()
    plan = make_plan(request, place=place, any_port="port" not in options, seen=seen, rules=rules)
    context.sandboxes(context.place_for_up())
    how = Options(keep_failed=options.get("keep_failed", False), log_file=options.get("log_file"))
    deployed = bring_up(plan, context, emit=options.get("emit", ignore), options=how)
    return Live(context, deployed.deployment, deployed.endpoint)


def _request(model: str, options: UpOptions, context: Context) -> ServeRequest:
    """The checked request: what was said, then the settings, then the defaults."""
    from gpuserve.serving import defaults
    from gpuserve.serving.ways import chosen

    settings, local = context.settings, context.only_local
    engine, model = defaults.engine_and_model(options.get("engine", ""), model, settings, local=local)
    gpus = options.get("gpus")
    way = chosen(
        engine,
        options.get("access", ""),
        public=options.get("public", False),
        env=defaults.environment(options.get("env", {}), settings),
        engine_args=options.get("engine_args", ()),
        settings=settings,
    )
    return ServeRequest(
        model=model,
        engine=engine,
        name=options.get("name", ""),
        served_as=options.get("served_as", ""),
        revision=options.get("revision", ""),
        image=options.get("image", ""),
        port=options.get("port", DEFAULT_PORT),
        gpus=defaults.gpus("", settings, local=local) if gpus is None else tuple(gpus),
        gpu_count=options.get("gpu_count", 1),
        cpu=options.get("cpu"),
        memory=options.get("memory"),
        disk=options.get("disk"),
        target=options.get("target") or ("" if local else settings.region),
        public=way.public,
        access=way.access,
        api_key=way.api_key,
        ttl=defaults.ttl(options.get("ttl", ""), settings),
        idle=defaults.idle(options.get("idle", "")),
        timeout=options.get("timeout", DEFAULT_BOOT_TIMEOUT),
        queue_timeout=options.get("queue_timeout"),
        fast_boot=options.get("fast_boot", False),
        env=way.env,
        labels=options.get("labels", {}),
        engine_args=way.engine_args,
    )
