"""``gpuserve exec``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from gpuserve.cli.command import Run, command
from gpuserve.cli.signals import terminable
from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from gpuserve.sandboxes.inside import Piece

EPILOG = (
    "Examples: gpuserve exec gpt-oss-20b-7f3c -- nvidia-smi · gpuserve exec ID -- sh -c 'ls | wc -l' · "
    "gpuserve exec ID --python batch.py -- --limit 10 · gpuserve exec ID --stdin -- wc -c < data.jsonl. "
    "There OPENAI_BASE_URL points at the model and OPENAI_MODEL names it: no credential is needed, except for the key "
    "of an engine or of a fleet's gateway that wants one: it lies in ~/.gpuserve-key there. "
    "With --json: {data: {exit_code, stdout, stderr, seconds}}."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="exec", epilog=EPILOG)(execute)


def execute(
    run: Run,
    which: Annotated[str, typer.Argument(metavar="ID", help="Name, sandbox ID or a unique prefix.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND…]", help="After --: the command, or the script's arguments."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="FILE", help="Run this Python file there; - reads it from stdin.")
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", "-i", help="Give it what stdin holds, read to its end first.")
    ] = False,
    cwd: Annotated[str, typer.Option("--cwd", "-C", help="Directory in the sandbox.")] = "",
) -> None:
    """Run a command in a deployment's sandbox, next to the model.

    Its stdout, stderr and exit status become this command's own, byte for byte, as they are written. It ends with this
    command.
    """
    import time

    from gpuserve.serving.inside import Job
    from gpuserve.serving.inside import execute as core

    script = None if python is None else _read(python)
    if stdin and python == "-":
        raise UsageError("stdin can't be both the script and its input", hint="put the script into a file")
    job = Job(argv=words or (), script=script, stdin=sys.stdin.buffer.read() if stdin else b"", cwd=cwd)
    kept: tuple[list[bytes], list[bytes]] = ([], [])

    def show(piece: Piece) -> None:
        for stream, data, store in ((sys.stdout, piece.out, kept[0]), (sys.stderr, piece.err, kept[1])):
            if run.output.as_json:
                store.append(data)
            elif data:
                _write(stream.buffer, data)

    began = time.monotonic()
    with terminable():
        code = core(run.context, which, job, show)
    out, err = (b"".join(parts).decode("utf-8", "replace") for parts in kept)
    seconds = round(time.monotonic() - began, 3)
    run.output.data({"exit_code": code, "stdout": out, "stderr": err, "seconds": seconds})
    raise typer.Exit(code)


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}", hint="name a Python file") from error
