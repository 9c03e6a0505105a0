"""How many GPUs one sandbox is asked for: the number that was said, or none at all."""

from __future__ import annotations

import re

from gpuserve.catalog.fit import PARALLEL
from gpuserve.errors import UsageError
from gpuserve.records import ServeRequest

#: GPUs that one sandbox is planned with at most: what one machine of the platform's kinds holds.
MOST_GPUS = 8
#: How the engines' users say themselves how a model is spread; tensor, pipeline and data parallel multiply.
_OWN = re.compile(r"--?(?:(?:tensor|pipeline|data)[-_]parallel[-_]size|(?:tp|pp|dp)(?:[-_]size)?)(?:=.*)?")


def spread_by_user(request: ServeRequest) -> bool:
    """Whether the engine arguments say how the model is spread over the GPUs."""
    return any(_OWN.fullmatch(argument) for argument in request.engine_args)


def check_count(request: ServeRequest) -> None:
    """Refuses a number of GPUs that couldn't be planned as it was asked for.

    Raises:
        UsageError: there is no GPU to count, or too many for one machine, or a number that no model's heads divide by.
    """
    count = request.gpu_count
    if count == 1:
        return
    if not request.gpus:
        raise UsageError(f"{count} GPUs are asked for, but no GPU is", hint="name a type, such as --gpu H100")
    if count > MOST_GPUS:
        raise UsageError(
            f"{count} GPUs in one sandbox can't be planned: at most {MOST_GPUS}",
            hint="several sandboxes behind one address: gpuserve fleet up; --force asks the platform all the same",
        )
    flag = PARALLEL.get(request.engine)
    if flag and count & (count - 1) and not spread_by_user(request):
        raise UsageError(
            f"a model can't be spread evenly over {count} GPUs",
            hint=f"use 2, 4 or 8; or say how yourself, as in --engine-arg={flag}={count}; or --force",
        )
