"""A ``llama-server`` look-alike over the xllamacpp wheel: the embedded engine of the local target.

Run as ``python -m gpuserve.host.llama_server``. Behind it is llama.cpp's own HTTP server with real
weights. Flags and messages are llama-server's; these defaults differ, for a developer's machine: it lets
no web page call it (``--cors-origins``), keeps at most 512 MiB of idle prompts (``--cache-ram``), and
leaves a core free (``--threads``).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from gpuserve.host import llama_flags, llama_models, weights

_NO_LIBRARY = "the xllamacpp package isn't installed: pip install 'gpuserve[local]'"


class ServerFailed(Exception):
    """The server can't start. The message says why."""


class Stopped(Exception):
    """A signal asked for the end while there was nothing yet to shut down."""


class Stop:
    """Remembers that SIGTERM or SIGINT came; while ``raises`` is set, it interrupts what is going on.

    llama.cpp can't be interrupted while it loads a model: a signal then takes effect once it has loaded.
    """

    def __init__(self) -> None:
        self.raises = True
        self._asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.set()
        if self.raises:
            raise Stopped

    def wait(self) -> None:
        """Returns once a signal came. Looks every second, for a signal that another thread received."""
        while not self._asked.wait(1.0):
            pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status, 0 after those and 1 after an error."""
    try:
        options = llama_flags.parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        if options.help or options.version:
            sys.stdout.write(llama_flags.parser().format_help() if options.help else _version())
            return 0
        _serve(options, Stop())
    except Stopped:
        return 0
    except (llama_flags.BadArgument, llama_models.ModelNotFound, weights.WeightsError, ServerFailed) as error:
        say(f"error: {error}")
        return 1
    return 0


def say(text: str) -> None:
    """A line of the log. It goes where llama.cpp writes its own."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _serve(options: Namespace, stop: Stop) -> None:
    check_port(options.host, options.port)
    model = llama_models.find(options, say)
    try:
        import xllamacpp
    except ImportError as error:
        raise ServerFailed(_NO_LIBRARY) from error
    parameters = _parameters(xllamacpp, options, model)
    stop.raises = False
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:  # llama.cpp's log has said why, the exception doesn't
        raise ServerFailed(f"failed to serve '{model}', see the lines above") from error
    stop.wait()
    say("stopping")
    del server  # ends the requests that are running and joins llama.cpp's threads


def check_port(host: str, port: int) -> None:
    """Raises ``ServerFailed`` unless ``host`` and ``port`` can be listened on: loading a model may take minutes."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServerFailed(
            f"couldn't bind HTTP server socket, hostname: {host}, port: {port}: {reason.lower()}"
        ) from error


def _version() -> str:
    """The wheel's version; its last part is llama.cpp's build number."""
    try:
        wheel = version("xllamacpp")
    except PackageNotFoundError as error:
        raise ServerFailed(_NO_LIBRARY) from error
    return f"version: {wheel.rpartition('.')[2]} (xllamacpp {wheel})\n"


def _parameters(library: Any, options: Namespace, model: Path) -> Any:
    """llama.cpp's parameters for the options."""
    made = library.CommonParams()
    made.model.path = str(model)
    made.model_alias = {name.strip() for name in options.alias.split(",") if name.strip()}
    made.hostnames, made.port = [options.host], options.port
    made.api_keys, made.cors_origins = options.api_keys, options.cors_origins
    made.endpoint_metrics, made.endpoint_slots, made.endpoint_props = options.metrics, options.slots, options.props
    made.n_ctx, made.n_parallel, made.kv_unified = options.ctx_size, options.parallel, bool(options.kv_unified)
    made.n_batch, made.n_ubatch, made.n_predict = options.batch_size, options.ubatch_size, options.predict
    made.cpuparams.n_threads, made.cpuparams_batch.n_threads = options.threads, options.threads_batch
    made.n_threads_http = options.threads_http
    made.n_gpu_layers = options.gpu_layers
    made.n_cache_reuse, made.cache_ram_mib = options.cache_reuse, options.cache_ram
    made.warmup, made.verbosity = options.warmup, options.verbosity
    _template(library, made, options)
    _sampling(made, options)
    attention = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}[options.flash_attn]
    made.flash_attn_type = getattr(library.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    return made


def _template(library: Any, made: Any, options: Namespace) -> None:
    made.use_jinja = options.jinja
    if options.chat_template:
        made.chat_template = options.chat_template
    made.default_template_kwargs = options.chat_template_kwargs
    name = options.reasoning_format.upper().replace("-", "_")
    made.reasoning_format = getattr(library.common_reasoning_format, f"COMMON_REASONING_FORMAT_{name}")


def _sampling(made: Any, options: Namespace) -> None:
    made.sampling.seed = options.seed % 2**32
    for name, value in (("temp", options.temperature), ("top_k", options.top_k), ("top_p", options.top_p)):
        if value is not None:
            setattr(made.sampling, name, value)


if __name__ == "__main__":
    sys.exit(main())
