"""The last step of ``up``: what a script gets on stdout, and what a person reads below it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gpuserve.cli.output import Output
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.records import Deployment, Endpoint
    from gpuserve.serving.up import Deployed


def check_format(form: str) -> None:
    """Raises ``UsageError`` for a hand-off format that doesn't exist, before anything is created."""
    from gpuserve.access import FORMATS

    if form not in FORMATS:
        raise UsageError(f"unknown output format {form!r}", hint="one of " + ", ".join(FORMATS))


def hand_off(output: Output, deployed: Deployed, form: str) -> None:
    """Prints the endpoint. In JSON mode ``{"data": …}``; else as ``form`` says, then what to do next."""
    from gpuserve.access import as_dict

    deployment, endpoint = deployed.deployment, deployed.endpoint
    until = None if deployed.until is None else deployed.until.isoformat()
    more = {
        "ready": deployed.ready,
        "shared_until": until,
        "log_file": deployed.log_file,
        "seconds": round(deployed.seconds, 3),
    }
    output.data({**as_dict(endpoint, deployment), **more})
    print_endpoint(output, endpoint, deployment, form)
    _next(output, deployed)


def print_endpoint(output: Output, endpoint: Endpoint, deployment: Deployment, form: str) -> None:
    """The endpoint on stdout, as ``form`` says; nothing in JSON mode."""
    from gpuserve.access import render

    if output.as_json:
        return
    if form == "github":
        _to_github(output, endpoint, deployment)
    else:
        output.result(render(endpoint, deployment, form))


def _to_github(output: Output, endpoint: Endpoint, deployment: Deployment) -> None:
    """Masks on stdout first, then the outputs, into the step's file if there is one."""
    from gpuserve.access import github

    export = github(endpoint, deployment)
    output.result(export.masks)
    target = os.environ.get("GITHUB_OUTPUT")
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(export.outputs)
    else:
        output.result(export.outputs)


def _next(output: Output, deployed: Deployed) -> None:
    from gpuserve.access import describe, preview_token
    from gpuserve.serving.ways import key_words

    one = deployed.deployment
    name = shlex.quote(one.name)
    sentences = describe(
        one,
        token=bool(preview_token(deployed.endpoint)),
        shared_until=[deployed.until] if deployed.until else [],
        uncovered=key_words(one.engine) if one.keyed else "",
    )
    for sentence in sentences:
        output.say("access", sentence)
    if not deployed.ready:
        output.say("next", f"gpuserve status {name}     gpuserve logs -f {name}")
        return
    output.say("next", f'gpuserve query "hello"     gpuserve share --expires 1h     gpuserve down {name}')
