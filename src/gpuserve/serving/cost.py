"""What a deployment costs, and whether the platform will end it when it was asked to.

Prices are the user's own (``GPUSERVE_PRICES``, for one GPU and one hour, in whatever currency they think in).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gpuserve.durations import format_duration
from gpuserve.records import Deployment
from gpuserve.sandboxes import labels

#: Seconds by which the platform's deadline may be later than the one asked for: it counts in whole minutes.
DEADLINE_SLACK = 120

_GPU = re.compile(r"(?:(\d+)x )?(.+)")


@dataclass(frozen=True, slots=True)
class Cost:
    """In the currency of the prices: for an hour, and from creation until now (None if that time isn't known)."""

    per_hour: float
    so_far: float | None

    def as_dict(self) -> dict[str, object]:
        """As JSON has it, in hundredths."""
        return {
            "cost_per_hour": round(self.per_hour, 2),
            "cost": None if self.so_far is None else round(self.so_far, 2),
        }


#: The fields of ``Cost.as_dict`` where no price is known.
UNKNOWN: Mapping[str, object] = {"cost_per_hour": None, "cost": None}


def cost_of(deployment: Deployment, prices: Mapping[str, float], now: datetime | None = None) -> Cost | None:
    """Price x GPUs x age; None without a GPU, or without a price for its type. ``now`` is in UTC.

    The age is counted from the sandbox's creation; the platform may count from its start.
    """
    count, kind = gpus_of(deployment)
    price = prices.get(kind)
    if not count or price is None:
        return None
    age = deployment.age(now)
    return Cost(price * count, None if age is None else price * count * max(0.0, age) / 3600)


def gpus_of(deployment: Deployment) -> tuple[int, str]:
    """How many GPUs of which type; (0, "") where it has none."""
    found = _GPU.fullmatch(deployment.gpu)
    return (int(found[1] or 1), found[2]) if found else (0, "")


def deadline_problem(deployment: Deployment) -> str:
    """What is wrong with the deadline that the platform tells, beside what was asked for; "" if nothing is."""
    asked = labels.asked(deployment.labels, labels.TTL)
    if asked is None:
        return ""
    told = f"the platform did not take the time to live of {format_duration(asked)} for {deployment.name}"
    remedy = f"gpuserve extend {deployment.name} {format_duration(asked).replace(' ', '')}"
    if deployment.expires_at is None:
        return f"{told}: nothing deletes it; try {remedy}, or gpuserve down {deployment.name}"
    if deployment.created_at is None:
        return ""
    late = (deployment.expires_at - deployment.created_at).total_seconds() - asked
    if late <= DEADLINE_SLACK:
        return ""
    return f"{told}: it is deleted {format_duration(late)} later; try {remedy}"
