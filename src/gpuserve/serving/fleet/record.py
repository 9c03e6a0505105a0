"""What this machine remembers of the fleets whose gateway runs here: one directory each, for its owner's eyes only.

Who belongs to a fleet is no part of it: that is in the labels of the sandboxes.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from gpuserve.records import Deployment, Endpoint, ModelFacts, ServeRequest, check_name
from gpuserve.serving.fleet.files import write_private as write_private
from gpuserve.settings import state_directory

_FILE = "fleet.json"
Kind = TypeVar("Kind", ServeRequest, ModelFacts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A fleet as its gateway's machine knows it.

    ``key`` is what clients show, ``control_key`` what commands show the injector. ``keep`` is the number of workers
    to which lost ones are replaced, None for no replacing; ``lost_after`` is for how many seconds a worker may fail
    before it counts as lost. ``until`` is when the workers that somebody asked for will have ended, in seconds since
    the epoch: no replacement lives longer, and None means that nothing ends them.

    ``request`` is what a new worker is asked for with, empty where this machine doesn't know; it may hold secrets.
    ``facts`` are those of the catalogue that its command is made with.
    """

    name: str
    place: str
    engine: str
    model: str
    served_model: str
    port: int
    injector_port: int
    metrics_port: int
    key: str = field(repr=False)
    control_key: str = field(repr=False)
    keep: int | None = None
    lost_after: float = 60.0
    until: float | None = None
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        """The fleet as clients see it."""
        return Endpoint(url=self.url, served_model=self.served_model, api_key=self.key)

    @property
    def deployment(self) -> Deployment:
        """The fleet where a deployment is wanted: its gateway, on this machine."""
        return Deployment(
            name=self.name,
            sandbox_id=f"fleet-{self.name}",
            place=self.place,
            state="started",
            engine=self.engine,
            model=self.model,
            served_model=self.served_model,
            port=self.port,
            session="",
            run_id="",
            access="key",
            keyed=True,
        )


def as_json(one: ServeRequest | ModelFacts) -> dict[str, Any]:
    """A request or facts, field by field; ``from_json`` reads it."""
    return {each.name: _plain(getattr(one, each.name)) for each in fields(one)}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_json(kind: type[Kind], content: Mapping[str, Any]) -> Kind:
    """What ``as_json`` wrote of a record of ``kind``."""
    names = {one.name for one in fields(kind)}
    read = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    return kind(**{name: value for name, value in read.items() if name in names})  # type: ignore[arg-type]  # checked by the record itself


def new_addresses(port: int) -> dict[str, int | str]:
    """Ports and keys of a new fleet, as fields of a ``Record``; ``port`` 0 takes a free one for the gateway."""
    from gpuserve.serving.plan import free_port

    ports: list[int] = [port] if port else []
    while len(ports) < 3:
        if (free := free_port()) not in ports:
            ports.append(free)
    keys = {name: f"{stem}-{secrets.token_urlsafe(24)}" for name, stem in (("key", "fleet"), ("control_key", "ctl"))}
    return {"port": ports[0], "injector_port": ports[1], "metrics_port": ports[2], **keys}


def directory(name: str) -> Path:
    """Where the fleet's files are. Raises ``UsageError`` for what can't be a name."""
    check_name(name)
    return state_directory() / "fleets" / name


def save(record: Record) -> None:
    """Writes it: the old or the new is there, whole, readable by its owner only."""
    place = directory(record.name)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(place / _FILE, json.dumps(asdict(record), indent=1))


def load(name: str) -> Record | None:
    """What is remembered; None if nothing is, or nothing that can be read."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        content = json.loads((directory(name) / _FILE).read_text(encoding="utf-8"))
        known = {one.name for one in fields(Record)}
        return Record(**{key: value for key, value in content.items() if key in known})
    return None


def remembered(name: str) -> bool:
    """Whether anything is remembered, even what can't be read."""
    return (directory(name) / _FILE).exists()


def change(name: str, **values: Any) -> Record | None:
    """The record with other values, written; None if there is none."""
    known = load(name)
    if known is None:
        return None
    changed = replace(known, **values)
    save(changed)
    return changed


def known() -> list[Record]:
    """Every fleet that is remembered, by name."""
    try:
        names = sorted(one.name for one in (state_directory() / "fleets").iterdir())
    except OSError:
        return []
    return [found for name in names if (found := load(name)) is not None]


def forget(name: str) -> None:
    """Deletes all that is remembered of the fleet."""
    shutil.rmtree(directory(name), ignore_errors=True)
