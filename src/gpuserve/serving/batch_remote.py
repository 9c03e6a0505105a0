"""A batch beside its engine: the same code, packed into one file, asks localhost and goes on when this machine goes.

The input is checked here first. Then go up: the runner, the input, what was answered before. The runner works in a
session of the sandbox's; this side only follows, and fetches the output at the end. The same command finds it again:
its folder is named after the input and the settings.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuserve.bulk.events import Emit, Progress, Said
from gpuserve.bulk.index import Index
from gpuserve.bulk.job import Job
from gpuserve.bulk.output import OutputFile, succeeded
from gpuserve.bulk.prepare import prepare, put_in_order
from gpuserve.bulk.rows import Source, id_digest
from gpuserve.client.constraints import Constraint
from gpuserve.errors import EngineError, GpuserveError, Interrupted, UsageError
from gpuserve.records import Deployment
from gpuserve.sandboxes import labels
from gpuserve.sandboxes.workshop import Workshop
from gpuserve.serving.batch_form import Found, checked_lines, split_lines
from gpuserve.serving.context import Context

#: Seconds between two looks at how far it is.
LOOK_EVERY = 1.0
_RUNNER, _INPUT, _OUTPUT, _JOB = "gpuserve-batch.pyz", "input", "output.jsonl", "job.json"
#: What a Python must be for the runner; vLLM's and SGLang's images have one, llama.cpp's has none at all.
_TEST = "import sys, sqlite3, aiohttp; sys.exit(sys.version_info < (3, 11))"


def run_there(
    context: Context, deployment: Deployment, job: Job, emit: Emit, constraint: Constraint | None
) -> dict[str, Any]:
    """Runs ``job``, whose ``url`` is as the sandbox sees it, inside ``deployment``'s sandbox; returns the summary.

    Whether answers are as ``constraint`` says is found out here, when they have come: but for rows of an OpenAI batch,
    each of which may ask for a form of its own.

    Raises:
        UsageError: the input isn't valid, or the image has no Python that could run it.
        Conflict: the output is another batch's, or another run holds it.
        Interrupted: by Ctrl-C; the batch goes on in the sandbox.
        GpuserveError: what ended the batch there.
    """
    with closing(Source(job)) as source:
        job = replace(job, form=source.form)
        with closing(OutputFile(Path(job.output))) as output:
            with closing(Index()) as index:
                tally = prepare(job, source, output, index, emit)
            summary: dict[str, Any] = {"output": job.output, **tally.summary()}
            if tally.left:
                shop = context.sandboxes(deployment.place).workshop(deployment, _name(job))
                held = None if job.form == "openai" else constraint
                summary = _work(shop, deployment, job, output, emit, held)
        if job.output_order == "input":
            put_in_order(job, source, emit)
    return {**summary, "output": job.output}


def _work(
    shop: Workshop, deployment: Deployment, job: Job, output: OutputFile, emit: Emit, constraint: Constraint | None
) -> dict[str, Any]:
    if shop.running():
        emit(Said("it is running in the sandbox already: following it"))
    elif shop.text("result.json"):
        emit(Said("it has ended in the sandbox: fetching the answers"))
    else:
        _start(shop, deployment, job, output, emit)
    try:
        result = _follow(shop, emit)
    except KeyboardInterrupt:
        raise Interrupted(
            "the batch goes on in the sandbox", hint="the same command follows it again and fetches the answers"
        ) from None
    found, lines = Found(), split_lines(shop.chunks(_OUTPUT))
    output.replace(with_ours(lines if constraint is None else checked_lines(lines, constraint, found), output))
    shop.clear()
    if "error" in result:
        raise _error(result["error"])
    return found.correct(result["data"])


def with_ours(lines: Iterator[bytes], output: OutputFile) -> Iterator[bytes]:
    """``lines`` from the sandbox, and those of ``output`` that they lack: some may have been asked from here since."""
    with closing(Index()) as ours:
        if not ours.add_output(output.answers()):
            yield from lines
            return
        for line in lines:
            row = json.loads(line)
            which = id_digest(row["custom_id"])
            if succeeded(row) or not ours.success(which):
                ours.forget(which)
                yield line
        yield from output.lines(ours.kept(in_order=False, failed=True))


def _start(shop: Workshop, deployment: Deployment, job: Job, output: OutputFile, emit: Emit) -> None:
    here = (sys.executable,) if deployment.place == "local" else ()
    python = shop.python(("python3", "python", *here), _TEST)
    if not python:
        raise UsageError(
            f"{deployment.name} has no Python with aiohttp in its sandbox, as llama.cpp's image has none",
            hint="leave --in-sandbox out",
        )
    emit(Said(f"uploading the input ({Path(job.source).stat().st_size / 1e6:.1f} MB)"))
    shop.put(job.source, _INPUT)
    shop.put(runner(), _RUNNER)
    if output.size > shop.size(_OUTPUT):
        shop.put(job.output, _OUTPUT)
    there = replace(job, source=_INPUT, output=_OUTPUT, retry_failed=False, output_order="answered")
    shop.put(json.dumps(there.as_dict()).encode(), _JOB)
    shop.start(f"{python} {_RUNNER} {_JOB}")
    emit(Said("running in the sandbox: Ctrl-C only stops following it"))
    if labels.asked(deployment.labels, labels.IDLE) is not None:
        emit(Said("the idle limit counts requests from outside only: without anybody following, it ends the sandbox"))


def _follow(shop: Workshop, emit: Emit) -> dict[str, Any]:
    """Waits for the end of the program, telling how far it is; returns what it left."""
    last = ""
    while True:
        runs = shop.running()  # asked first: what it leaves, it leaves before it ends
        if result := shop.text("result.json"):
            found: dict[str, Any] = json.loads(result)
            return found
        if not runs:
            raise EngineError(
                f"the batch died in the sandbox: {shop.output()}", hint="the same command goes on where it stopped"
            )
        told = shop.text("progress.json")
        if told and told != last:
            last = told
            _tell(json.loads(told), emit)
        time.sleep(LOOK_EVERY)


def _tell(told: dict[str, Any], emit: Emit) -> None:
    if told.pop("kind") == "Progress":
        told.pop("at")
        emit(Progress(**told))


def _error(content: dict[str, Any]) -> GpuserveError:
    """The error of the runner's, as if it had happened here."""

    def kinds(base: type[GpuserveError]) -> list[type[GpuserveError]]:
        return [base, *(found for one in base.__subclasses__() for found in kinds(one))]

    kind = next((one for one in kinds(GpuserveError) if one.code == content.get("code")), GpuserveError)
    return kind(f"in the sandbox: {content.get('message')}", hint=str(content.get("hint", "")))


def _name(job: Job) -> str:
    """The same for the same input and questions, whatever file the answers go to."""
    told = json.dumps([job.url, job.model, job.form, job.template, job.system, job.defaults, job.keep_model])
    sums = hashlib.blake2b(told.encode(), digest_size=8)
    with Path(job.source).open("rb") as file:
        while chunk := file.read(1 << 20):
            sums.update(chunk)
    return f"batch-{sums.hexdigest()}"


def runner() -> bytes:
    """The room ``bulk`` and the errors it raises, as one file that Python runs."""
    import gpuserve.bulk

    rooms = Path(gpuserve.bulk.__file__).parent
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", "import sys\n\nfrom gpuserve.bulk.__main__ import main\n\nsys.exit(main())\n")
        archive.writestr("gpuserve/__init__.py", "")
        archive.write(rooms.parent / "errors.py", "gpuserve/errors.py")
        for path in sorted(rooms.glob("*.py")):
            archive.write(path, f"gpuserve/bulk/{path.name}")
    return packed.getvalue()
