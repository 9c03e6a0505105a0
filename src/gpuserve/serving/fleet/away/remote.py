"""A fleet whose gateway runs in a sandbox, as commands see it: found on the platform, by whoever has the account's key.

Nothing of it is remembered here. How it does is read from a file that the gate writes there; who its workers are is
told by a file that is written from the platform's own list.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from gpuserve.errors import Conflict, GpuserveError, NetworkError, NotFound, TimedOut
from gpuserve.records import GONE, Deployment, Endpoint
from gpuserve.redaction import SECRET_NAME
from gpuserve.sandboxes.gatehouse import Gatehouse
from gpuserve.serving.context import Context
from gpuserve.serving.fleet.away.roster import ORDER, ROSTER, STATUS, Entry, Roster
from gpuserve.serving.fleet.record import Record, change
from gpuserve.serving.reach import open_endpoint

#: Seconds after which a gate that has told nothing counts as ended, and within which it must go by a new file.
SILENT, TAKEN = 15.0, 20.0
#: What a keeper would tell, and nobody does here: no number is kept, nobody is being started.
_NOBODY: dict[str, Any] = {"problem": "", "keep": None, "starting": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote(Record):
    """A fleet with its gateway in the sandbox ``gate``; ``way`` is how the gateway is entered, or handed out."""

    context: Context = field(repr=False, compare=False)
    gate: Deployment
    house: Gatehouse = field(repr=False, compare=False)
    way: Endpoint

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return self.way.url

    @property
    def endpoint(self) -> Endpoint:
        """The fleet as clients see it."""
        return self.way

    @property
    def deployment(self) -> Deployment:
        """The gateway's sandbox."""
        return self.gate

    # -- how it does -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the gate told last.

        Raises:
            NetworkError: it hasn't told anything for ``SILENT`` seconds: it doesn't run.
        """
        told, clock = self.house.content(STATUS)
        if told is None or clock - float(told["at"]) > SILENT or not told["answers"]:
            raise NetworkError(
                f"the gateway of {self.name} doesn't run in its sandbox", hint=f"gpuserve fleet start {self.name}"
            )
        return {**_NOBODY, **told}

    def states(self) -> dict[str, str]:
        """The gateway's own word on each worker, by name; empty where it doesn't answer."""
        try:
            return {row["name"]: row["gateway"] for row in self.status()["workers"]}
        except NetworkError:
            return {}

    def ask(self, order: str, **fields: Any) -> dict[str, Any]:
        """As ``daemon.ask``, of the gate there."""
        if order == "status":
            return self.status()
        told = self.status()
        draining = {row["name"] for row in told["workers"] if row["state"] == "draining"}
        if order == "drain":
            more = draining | set(fields["names"])
            return told if more == draining else self.push(more)
        return self.push(draining)

    # -- who belongs to it -----------------------------------------------------------------------------------------

    def workers(self) -> list[Deployment]:
        """As the platform lists them, those that run."""
        mine = self.context.sandboxes(self.place).deployments()
        return [one for one in mine if one.fleet == self.name and one.state == "started"]

    def push(self, draining: Iterable[str] = (), *, fresh: bool = False) -> dict[str, Any]:
        """Tells the gate of the workers that the platform lists now; its status once it goes by that.

        ``draining`` names those that get no new requests. ``fresh`` asks the platform for every credential anew.

        Raises:
            TimedOut: it doesn't take it.
        """
        leaving, workers = set(draining), self.workers()
        while True:
            told = self._write(workers, leaving, fresh=fresh)
            known, workers = {one.sandbox_id for one in workers}, self.workers()
            if known == {one.sandbox_id for one in workers}:  # somebody else may have written meanwhile
                return told

    def _write(self, workers: Sequence[Deployment], leaving: set[str], *, fresh: bool) -> dict[str, Any]:
        stamp = secrets.token_hex(8)
        entries = [replace(one, draining=one.deployment.name in leaving) for one in self._entries(workers, fresh=fresh)]
        self.house.put(Roster(stamp, tuple(entries)).as_text().encode(), ROSTER)
        deadline = time.monotonic() + TAKEN
        while True:
            told, _ = self.house.content(STATUS)
            if told is not None and told["stamp"] == stamp:
                return {**_NOBODY, **told}
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"the gateway of {self.name} doesn't take its new list of workers",
                    hint=f"gpuserve fleet start {self.name}; gpuserve logs {self.name}",
                )
            time.sleep(0.2)

    def _entries(self, workers: Sequence[Deployment], *, fresh: bool) -> list[Entry]:
        context = self.context
        known = {} if fresh else {one.deployment.sandbox_id: one.endpoint for one in context.cache.all()}

        def entry(one: Deployment) -> Entry | None:
            try:
                return Entry(one, known.get(one.sandbox_id) or open_endpoint(context, one))
            except (NotFound, Conflict):  # it went meanwhile
                return None

        context.sandboxes(self.place)  # opened here: the threads below only use it
        with ThreadPoolExecutor(8) as pool:
            return [found for found in pool.map(entry, workers) if found is not None]

    # -- what new workers are asked for with -----------------------------------------------------------------------

    def noted(self, **values: Any) -> Remote:
        """The fleet with other values of its record, written there.

        ``until`` also moves its gateway's own end, which comes no sooner than that of any worker.
        """
        changed = replace(self, **values)
        if "until" in values:
            ends = [changed.until, *(_end(one) for one in self.workers())]
            known = [one for one in ends if one is not None]
            seconds = None if len(known) < len(ends) else max(60, int(max(known) - time.time()))
            changed = replace(changed, gate=self.context.sandboxes(self.place).set_ttl(self.gate, seconds))
        if values.keys() & {"request", "facts"}:
            self.house.put(_as_order(changed), ORDER)
        return changed


def _end(one: Deployment) -> float | None:
    return None if one.expires_at is None else one.expires_at.timestamp()


def noted(record: Record, **values: Any) -> Record:
    """The record with other values, remembered where the fleet's gateway is."""
    return record.noted(**values) if isinstance(record, Remote) else change(record.name, **values) or record


def _as_order(remote: Remote) -> bytes:
    """What new workers are asked for with, for the file: their environment without what looks like a secret.

    That is on the platform anyway, in the environment of the workers that there are.
    """
    env = remote.request["env"]
    kept = {name: value for name, value in env.items() if not SECRET_NAME.search(name)}
    left_out = sorted(env.keys() - kept.keys())
    request = {**remote.request, "env": kept}
    return json.dumps({"request": request, "facts": dict(remote.facts), "secrets": left_out}).encode()


def find_remote(context: Context, name: str) -> Remote | None:
    """The fleet, if its gateway is in a sandbox; None where no sandbox of that name is a gateway.

    Raises:
        Conflict: the sandbox doesn't run.
        GpuserveError: a place that might have it doesn't answer.
    """
    gate = find_gate(context, name)
    return None if gate is None else as_remote(context, gate)


def find_gate(context: Context, name: str) -> Deployment | None:
    """The sandbox of the fleet's gateway; as ``find_remote``, but it need not run."""
    errors: list[GpuserveError] = []
    for place in context.places():
        try:
            found = context.sandboxes(place).find(name)
        except GpuserveError as error:
            errors.append(error)
        else:
            if found is not None and found.gateway_of == name and found.state not in GONE:
                return found
    if errors:
        raise errors[0]
    return None


def as_remote(context: Context, gate: Deployment) -> Remote:
    """The fleet of a gateway's sandbox. Raises as ``find_remote``."""
    endpoint = open_endpoint(context, gate)
    house = context.sandboxes(gate.place).gatehouse(gate)
    order, _ = house.content(ORDER)
    remote = Remote(
        name=gate.gateway_of,
        place=gate.place,
        engine=gate.engine,
        model=gate.model,
        served_model=gate.served_model,
        port=gate.port,
        injector_port=0,
        metrics_port=0,
        key=endpoint.api_key,
        control_key="",
        context=context,
        gate=gate,
        house=house,
        way=endpoint,
    )
    return remote if order is None else replace(remote, request=_request(remote, order), facts=order["facts"])


def _request(remote: Remote, order: Mapping[str, Any]) -> dict[str, Any]:
    """The request, with the secrets that were left out of the file; empty if nobody has them any more."""
    request, missing = dict(order["request"]), list(order["secrets"])
    if not missing:
        return request
    workers = remote.workers()
    there = remote.context.sandboxes(remote.place).environment(workers[0]) if workers else {}
    token = remote.context.settings.hf_token.get_secret_value()
    have = {**({"HF_TOKEN": token} if token else {}), **there}
    if not all(name in have for name in missing):
        return {}
    return {**request, "env": {**request["env"], **{name: have[name] for name in missing}}}


def away_state(context: Context, gate: Deployment) -> tuple[Remote | None, bool, str]:
    """The fleet of a gateway's sandbox, whether its gateway runs, and what is wrong with that; it never raises ours."""
    try:
        remote = as_remote(context, gate)
        remote.status()
    except GpuserveError as error:
        return None, False, error.message
    return remote, True, ""
