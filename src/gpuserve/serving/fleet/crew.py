"""Brings several workers up at once. A failure of one doesn't stop the others; Ctrl-C ends them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from gpuserve.errors import GpuserveError, Interrupted
from gpuserve.serving.context import Context
from gpuserve.serving.events import Event
from gpuserve.serving.fleet.look import at_place
from gpuserve.serving.plan import Plan
from gpuserve.serving.up import Deployed, Options, up
from gpuserve.state import Cache

#: Gets each worker's name with each of its events.
EmitFor = Callable[[str, Event], None]


@dataclass(frozen=True, slots=True)
class Raised:
    """What became of one worker: either ``deployed``, or ``error`` says why not."""

    name: str
    deployed: Deployed | None = None
    error: GpuserveError | None = None


def raise_crew(context: Context, plans: Sequence[Plan], *, emit: EmitFor, options: Options = Options()) -> list[Raised]:
    """Brings all of ``plans`` up at once; what became of each, in their order.

    Raises:
        Interrupted: Ctrl-C. Every sandbox of ``plans`` has been deleted, or is told of as left.
    """
    if not plans:
        return []
    stop, one_at_a_time = threading.Event(), threading.Lock()

    def tell(name: str, event: Event) -> None:
        if stop.is_set():
            raise Interrupted("the others were stopped too")
        with one_at_a_time:
            emit(name, event)

    pool = ThreadPoolExecutor(len(plans), thread_name_prefix="up")
    futures = [pool.submit(_one, context, plan, partial(tell, plan.name), options) for plan in plans]
    try:
        while wait(futures, timeout=0.5).not_done:
            pass
    except KeyboardInterrupt:
        stop.set()
        _undo(context, plans, futures)
        raise Interrupted("interrupted; the workers that were coming up were deleted") from None
    finally:
        pool.shutdown(wait=False)
    return [one.result() for one in futures]


def came_up(made: Sequence[Raised]) -> list[str]:
    """The names of those that came up."""
    return [one.name for one in made if one.deployed is not None]


def _one(context: Context, plan: Plan, emit: Callable[[Event], None], options: Options) -> Raised:
    """One worker, by a client of its own: those of the platform's SDK aren't made to be shared while they wait."""
    own = Context(context.settings, Cache(context.cache.path), context.local)
    try:
        at_place(own, plan.place)
        return Raised(plan.name, deployed=up(plan, own, emit=emit, options=options))
    except GpuserveError as error:
        return Raised(plan.name, error=error)


def _undo(context: Context, plans: Sequence[Plan], futures: Sequence[Future[Raised]]) -> None:
    """Deletes the sandboxes of these plans until nobody makes one any more."""
    names = {plan.name for plan in plans}
    sandboxes = context.sandboxes(plans[0].place)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        over = not wait(futures, timeout=0.2).not_done
        with suppress(GpuserveError):  # asked again, until the deadline
            left = [one for one in sandboxes.deployments() if one.name in names]
            for one in left:
                sandboxes.delete(one.sandbox_id)
            if over and not left:
                return
