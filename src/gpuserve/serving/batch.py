"""``batch``: thousands of requests from a file to a deployment, or to any endpoint."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuserve.bulk.events import Said
from gpuserve.bulk.job import MOST, START, Job
from gpuserve.bulk.rows import guess
from gpuserve.client import constraints
from gpuserve.client.faults import fault_error, read_fault
from gpuserve.client.transport import request_headers
from gpuserve.errors import GpuserveError, UsageError
from gpuserve.records import Deployment, Endpoint
from gpuserve.serving.batch_form import check_of, form_body
from gpuserve.serving.reasoning import EFFORTS, effort_for

if TYPE_CHECKING:
    from gpuserve.bulk.events import Emit
    from gpuserve.bulk.run import Check, Judge
    from gpuserve.client.constraints import Constraint
    from gpuserve.serving.context import Context

#: Requests in flight at the beginning, for an engine that answers only a few at a time.
_START_FEW = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What was asked for; ``gpuserve batch --help`` says what each means. "" and None leave it to the default."""

    source: str
    output: str = ""
    form: str = ""
    template: str = ""
    system: str = ""
    schema: str | None = None
    choice: str | None = None
    regex: str | None = None
    reasoning_effort: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    keep_model: bool = False
    concurrency: int = 0
    order: str = "input"
    output_order: str = "answered"
    retry_failed: bool = False
    retries: int = 6
    timeout: float = 600.0
    stream: bool = False

    @property
    def target(self) -> str:
        """The output's file: as told, else beside the input."""
        if self.output:
            return self.output
        if is_pipe(self.source):
            raise UsageError("rows from a pipe need a name for the output", hint="add -o OUT.jsonl")
        return str(Path(self.source).with_suffix("")) + ".out.jsonl"


def is_pipe(source: str) -> bool:
    """Whether ``source`` can be read only once: standard input, or what a shell gives as ``<(command)``."""
    path = Path(source)
    return source == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def make_job(request: BatchRequest, endpoint: Endpoint, extra: Mapping[str, object], *, start: int = START) -> Job:
    """The job that asks ``endpoint``; ``extra`` goes into every request that doesn't say otherwise itself.

    Raises:
        UsageError: an option that can't be right.
    """
    defaults: dict[str, Any] = dict(extra)
    if request.max_tokens is not None:
        defaults["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        defaults["temperature"] = request.temperature
    target = Path(request.target).absolute()
    if target.exists() and Path(request.source).exists() and target.samefile(request.source):
        raise UsageError("the output can't be the input", hint="name another file with -o")
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {target.parent} for the output", hint="make it, or choose with -o")
    return Job(
        source=str(Path(request.source).absolute()),
        output=str(target),
        url=endpoint.url,
        model=endpoint.served_model,
        form=request.form,
        template=request.template,
        system=request.system,
        defaults=defaults,
        keep_model=request.keep_model,
        headers=request_headers(endpoint),
        concurrency=request.concurrency,
        start=start,
        order=request.order,
        output_order=request.output_order,
        retry_failed=request.retry_failed,
        retries=request.retries,
        timeout=request.timeout,
        stream=request.stream,
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the options mean for one engine: additions to every request, and the form of every answer."""

    form: Mapping[str, object]
    effort: Mapping[str, object]
    constraint: Constraint | None
    start: int

    @property
    def extra(self) -> Mapping[str, object]:
        return {**self.effort, **self.form}

    @property
    def check(self) -> Check:
        from gpuserve.bulk.run import anything

        return anything if self.constraint is None else check_of(self.constraint, self.form)


def _terms(request: BatchRequest, engine: str, model: str, emit: Emit) -> _Terms:
    """``engine`` is "" if that isn't known."""
    constraint = constraints.read(schema=request.schema, choice=request.choice, regex=request.regex)
    effort = request.reasoning_effort
    body: Mapping[str, object] = {}
    if engine:
        told = effort_for(engine, model, effort)
        body = told.body
        if told.note:
            emit(Said(told.note))
    elif effort is not None:
        if effort not in EFFORTS:
            raise UsageError(f"unknown reasoning effort {effort!r}", hint="one of " + ", ".join(EFFORTS))
        body = {"reasoning_effort": effort}
    return _Terms(form_body(engine, constraint), body, constraint, _START_FEW if engine == "llamacpp" else START)


def batch_at(endpoint: Endpoint, request: BatchRequest, *, emit: Emit) -> dict[str, Any]:
    """Runs the batch against ``endpoint``, of which nothing else is known; returns the summary.

    Raises:
        UsageError, Conflict, Interrupted, NetworkError, TimedOut, NotAuthenticated: as ``bulk.run.run``.
        NotFound: the sandbox behind the endpoint is gone.
    """
    return _batch_from_here(endpoint, request, _terms(request, "", endpoint.served_model, emit), emit)


def _batch_from_here(endpoint: Endpoint, request: BatchRequest, terms: _Terms, emit: Emit) -> dict[str, Any]:
    from gpuserve.bulk.run import run

    with at_hand(request) as ready:
        job = make_job(ready, endpoint, terms.extra, start=terms.start)
        summary = run(job, emit=emit, judge=judge_of(endpoint), check=terms.check)
    return {**summary, "in_sandbox": False}


def batch(
    context: Context, wanted: str | None, request: BatchRequest, *, in_sandbox: bool = False, emit: Emit
) -> dict[str, Any]:
    """Runs the batch against the deployment that ``wanted`` means, from here or beside the engine.

    Raises:
        NotFound, Conflict: no such deployment, or several; and as ``batch_at``.
    """
    from gpuserve.serving.fleet.names import check_no_fleet
    from gpuserve.serving.reach import reach_fresh

    if in_sandbox:
        words = "its gateway runs on this machine, so there is no sandbox beside it to run in"
        check_no_fleet(context, wanted, words, "leave --in-sandbox out, or name one of its workers with --id")
    deployment, endpoint = reach_fresh(context, wanted)
    terms = _terms(request, deployment.engine, deployment.model, emit)
    if not in_sandbox:
        return _batch_from_here(endpoint, request, terms, emit)
    from gpuserve.serving.batch_remote import run_there

    with at_hand(request) as ready:
        job = make_job(ready, _beside(deployment, endpoint), terms.extra, start=terms.start)
        return {**run_there(context, deployment, job, emit, terms.constraint), "in_sandbox": True}


def _beside(deployment: Deployment, endpoint: Endpoint) -> Endpoint:
    """The endpoint as a process in the same sandbox sees it: no proxy, and no credential of the platform."""
    return Endpoint(
        url=f"http://127.0.0.1:{deployment.port}", served_model=endpoint.served_model, api_key=endpoint.api_key
    )


def judge_of(endpoint: Endpoint) -> Judge:
    """What ends a batch at once: a refused credential or a sandbox that is gone, told without any credential."""

    def judge(status: int, body: bytes) -> GpuserveError | None:
        fault = read_fault(status, body[:65536])
        return fault_error(fault, endpoint) if fault.refused or fault.sandbox_gone else None

    return judge


@contextmanager
def at_hand(request: BatchRequest) -> Iterator[BatchRequest]:
    """``request`` with its input in a file: rows that come through a pipe are read twice, so they are written down."""
    if not is_pipe(request.source):
        yield request
        return
    target = request.target
    with tempfile.NamedTemporaryFile(prefix="gpuserve-batch-") as file:
        with nullcontext(sys.stdin.buffer) if request.source == "-" else Path(request.source).open("rb") as pipe:
            shutil.copyfileobj(pipe, file)
        file.flush()
        path = Path(file.name)
        form = request.form or guess(path, "jsonl" if _begins_with_brace(path) else "text")
        yield replace(request, source=file.name, output=target, form=form)


def _begins_with_brace(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def check_concurrency(text: str) -> int:
    """The number in ``--concurrency``; 0 for "auto".

    Raises:
        UsageError: neither.
    """
    if text == "auto":
        return 0
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 64 * MOST:
        return int(text)
    raise UsageError(f"--concurrency {text!r} is neither auto nor a number from 1", hint="for example 256")


def run_for_api(
    rows: str | Path | Iterable[Mapping[str, Any] | str],
    output: Path,
    to: Deployment | Endpoint | str | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The Python API's way in: rows may be mappings, the schema a mapping, and an endpoint needs no context."""
    from gpuserve.bulk.events import ignore
    from gpuserve.serving.context import Context
    from gpuserve.settings import load
    from gpuserve.state import Cache

    emit = options.pop("emit", ignore)
    in_sandbox, local = options.pop("in_sandbox", False), options.pop("local", False)
    env_file = options.pop("env_file", None)
    for name in ("schema", "choice"):
        if name in options:
            options[name] = json.dumps(options[name])
    with _as_file(rows) as source:
        request = BatchRequest(source=source, output=str(output), **options)
        if isinstance(to, Endpoint):
            if in_sandbox:
                raise UsageError("in_sandbox needs a deployment, not an endpoint")
            return batch_at(to, request, emit=emit)
        context = Context(load(env_file), Cache(), local)
        wanted = to.sandbox_id if isinstance(to, Deployment) else to
        return batch(context, wanted, request, in_sandbox=in_sandbox, emit=emit)


@contextmanager
def _as_file(rows: str | Path | Iterable[Mapping[str, Any] | str]) -> Iterator[str]:
    if isinstance(rows, (str, Path)):
        yield str(rows)
        return
    with tempfile.NamedTemporaryFile("w", prefix="gpuserve-batch-", suffix=".jsonl", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row if isinstance(row, str) else dict(row)) + "\n")
        file.flush()
        yield file.name
