"""The Python API: what the command line does, as one call.

import gpuserve

with gpuserve.up(model="openai/gpt-oss-20b", engine="sglang") as endpoint:
    endpoint.openai().chat.completions.create(model=endpoint.served_model, messages=[...])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from gpuserve.records import DEFAULT_BOOT_TIMEOUT, DEFAULT_PORT, Deployment, Endpoint, ServeRequest

if TYPE_CHECKING:
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


def up(
    model: str = "",
    *,
    engine: str = "",
    local: bool = False,
    name: str = "",
    served_as: str = "",
    revision: str = "",
    image: str = "",
    port: int | None = None,
    gpus: Sequence[str] | None = None,
    gpu_count: int = 1,
    cpu: int | None = None,
    memory: int | None = None,
    disk: int | None = None,
    target: str = "",
    public: bool = False,
    ttl: str = "",
    timeout: int = DEFAULT_BOOT_TIMEOUT,
    queue_timeout: int | None = None,
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    engine_args: Sequence[str] = (),
    keep_failed: bool = False,
    log_file: Path | None = None,
    env_file: Path | None = None,
    emit: Emit | None = None,
) -> Live:
    """Brings a model up and waits until it answers; see ``gpuserve up --help`` for what is left out.

    ``ttl`` is a duration such as "2h" or "none", ``timeout`` in seconds, ``queue_timeout`` in minutes, ``memory``
    and ``disk`` in GiB. ``gpus`` None means the default, an empty sequence none. ``emit`` gets the events of
    ``gpuserve.serving.events``.

    Raises:
        GpuserveError: as the command of that name; nothing is left running unless ``keep_failed``.
    """
    from gpuserve.serving import defaults
    from gpuserve.serving.context import Context
    from gpuserve.serving.events import ignore
    from gpuserve.serving.plan import make_plan
    from gpuserve.serving.up import Options
    from gpuserve.serving.up import up as bring_up
    from gpuserve.settings import load
    from gpuserve.state import Cache

    settings = load(env_file)
    context = Context(settings, Cache(), local)
    local = context.only_local
    engine, model = defaults.engine_and_model(engine, model, settings, local=local)
    request = ServeRequest(
        model=model,
        engine=engine,
        name=name,
        served_as=served_as,
        revision=revision,
        image=image,
        port=DEFAULT_PORT if port is None else port,
        gpus=defaults.gpus("", settings, local=local) if gpus is None else tuple(gpus),
        gpu_count=gpu_count,
        cpu=cpu,
        memory=memory,
        disk=disk,
        target=target or ("" if local else settings.region),
        public=public,
        ttl=defaults.ttl(ttl, settings),
        timeout=timeout,
        queue_timeout=queue_timeout,
        env=defaults.environment(env or {}, settings),
        labels=labels or {},
        engine_args=tuple(engine_args),
    )
    plan = make_plan(request, place="local" if local else "daytona", any_port=port is None)
    context.sandboxes(context.place_for_up())
    deployed = bring_up(plan, context, emit=emit or ignore, options=Options(keep_failed=keep_failed, log_file=log_file))
    return Live(context, deployed.deployment, deployed.endpoint)
