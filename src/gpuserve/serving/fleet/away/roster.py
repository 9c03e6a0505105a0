"""The file that tells a gateway in a sandbox who its workers are, and with what each is entered: a secret.

It is written whole by whoever changes the fleet, from what the platform lists, and read by the gate there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuserve.records import Deployment, Endpoint

#: Names in the gateway's folder: the roster, what the gate tells, how new workers are asked for, the program.
ROSTER, STATUS, ORDER, PROGRAM = "roster.json", "status.json", "order.json", "gpuserve-gateway.pyz"
_HEALTH = "gpuserve/health"


@dataclass(frozen=True, slots=True)
class Entry:
    """One worker: what the gate needs to know of it, and the way in."""

    deployment: Deployment
    endpoint: Endpoint = field(repr=False)
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Roster:
    """All workers. ``stamp`` tells one writing from another: the gate repeats the one that it goes by."""

    stamp: str
    entries: tuple[Entry, ...]

    def as_text(self) -> str:
        """For the file."""
        return json.dumps({"version": 1, "stamp": self.stamp, "workers": [_dump(one) for one in self.entries]})


def read(text: str) -> Roster:
    """What ``as_text`` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = json.loads(text)
        if content["version"] != 1:
            raise ValueError("a roster of another version")
        return Roster(str(content["stamp"]), tuple(_load(one) for one in content["workers"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no roster: {type(error).__name__}") from error


def _dump(entry: Entry) -> dict[str, Any]:
    one, endpoint = entry.deployment, entry.endpoint
    return {
        "name": one.name,
        "sandbox_id": one.sandbox_id,
        "model": one.served_model,
        "health": one.labels.get(_HEALTH, ""),
        "draining": entry.draining,
        "url": endpoint.url,
        "headers": dict(endpoint.headers),
        "api_key": endpoint.api_key,
    }


def _load(row: Mapping[str, Any]) -> Entry:
    deployment = Deployment(
        name=str(row["name"]),
        sandbox_id=str(row["sandbox_id"]),
        place="",
        state="started",
        engine="",
        model="",
        served_model=str(row["model"]),
        port=0,
        session="",
        run_id="",
        labels={_HEALTH: str(row["health"])},
    )
    headers = {str(name): str(value) for name, value in row["headers"].items()}
    endpoint = Endpoint(
        url=str(row["url"]), served_model=deployment.served_model, headers=headers, api_key=str(row["api_key"])
    )
    return Entry(deployment, endpoint, bool(row["draining"]))
