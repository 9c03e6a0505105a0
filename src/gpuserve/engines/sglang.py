"""SGLang, checked against 0.5.12.post1."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gpuserve.engines import _faults, _launch, _logs
from gpuserve.engines._logs import COUNT, NUMBER, fault, line
from gpuserve.engines.base import KeyCheck, MetricNames, Wanted, schema_body
from gpuserve.errors import UsageError
from gpuserve.records import KEY_FILE, BootFact, Diagnosis, KeyPass, LaunchPlan, ModelFacts, ServeRequest

#: What the OpenAI route of 0.5.12.post1 takes.
_EFFORTS = ("none", "low", "medium", "high", "max")
#: The configuration file that carries its key, as the shell writes it.
_CONFIG = '"${HOME:-/tmp}"/.gpuserve-sglang.yaml'

_GRPC_ABOVE, _LAST_PORT = 10_000, 65_535


class SGLang:
    """Plans, reads and diagnoses ``python3 -m sglang.launch_server``."""

    name = "sglang"
    title = "SGLang"
    default_image = "lmsysorg/sglang:v0.5.12.post1-cu130"
    metrics = MetricNames(
        running="sglang:num_running_reqs", waiting="sglang:num_queue_reqs", kv_usage="sglang:token_usage"
    )
    reasoning_field = "reasoning_content"
    text_route = "generate"
    fast_boot = "CUDA graphs"
    # It reads a key from its arguments only, which every list of processes shows, or from the file that --config names.
    key_check = KeyCheck(
        KeyPass(
            before=f'(umask 077; printf \'api-key: "%s"\\n\' "$(cat {KEY_FILE})" >{_CONFIG})',
            after=f" --config {_CONFIG}",
        ),
        "SGLang's key guards every route but /health, /health_generate and /metrics.",
    )

    def plan(self, request: ServeRequest, facts: ModelFacts) -> LaunchPlan:
        """How SGLang serves ``request.model``; raises ``UsageError`` if the user's arguments break the plan."""
        if ":" in request.model and not request.model.startswith("/"):
            raise UsageError(
                f"SGLang takes no quantisation after a model ID: {request.model}",
                hint="leave out what follows the colon, or use --engine llamacpp for a GGUF repository",
            )
        flags = _launch.Flags(request.engine_args, abbreviates=True)
        _launch.refuse_fixed(flags, served=("--served-model-name",), model=("--model", "--model-path"))
        if request.api_key:
            why = "SGLang takes one such file, and its key comes in that"
            flags.refuse("--config", why=why, hint="give its settings as engine arguments")
        flags.add("--served-model-name", _launch.served_name(request))
        flags.add("--host", _launch.LOOPBACK)
        flags.add("--port", str(request.port))
        _launch.add_parsers(flags, self, request, facts)
        flags.add("--enable-cache-report")
        flags.add("--enable-metrics")
        if request.fast_boot:
            flags.add("--disable-cuda-graph")
            flags.add("--disable-piecewise-cuda-graph")
        flags.add_each(facts.flags)
        if request.revision:
            flags.add("--revision", request.revision)
        program = ("python3", "-m", "sglang.launch_server", "--model-path", request.model)
        return _launch.finish(
            self, request, facts, program=program, flags=flags, health_path="/health_generate", env=_grpc(request.port)
        )

    def read(self, line: str) -> BootFact | None:
        """What one line of SGLang's log says of its boot."""
        return _logs.read(_LINES, line)

    def diagnose(self, log: str) -> Diagnosis | None:
        """Why SGLang failed, from the root cause; its exit code is 137 for nearly everything."""
        return _logs.diagnose(_FAULTS, log)

    def reasoning_body(self, effort: str) -> Mapping[str, object]:
        """The effort, and the template's switch beside it: low to max never switch thinking on by themselves here.

        gpt-oss refuses "none" with an error: its reasoning can't be switched off, only be "low".
        """
        if effort not in _EFFORTS:
            raise UsageError(f"unknown reasoning effort {effort!r}", hint="SGLang takes " + ", ".join(_EFFORTS))
        return {"reasoning_effort": effort, "chat_template_kwargs": {"enable_thinking": effort != "none"}}

    def constraint_body(self, wanted: Wanted) -> Mapping[str, object]:
        """The chat route of 0.5.12.post1 takes ``regex`` and ``ebnf`` as its native route does; a choice is a regex.

        Raises:
            UsageError: a grammar in Lark's notation, which SGLang doesn't read.
        """
        if wanted.kind == "schema":
            return schema_body(wanted.document)
        if wanted.kind == "grammar":
            if wanted.lark:
                raise UsageError("SGLang doesn't read Lark's notation", hint='write GBNF: root ::= "yes" | "no"')
            return {"ebnf": wanted.grammar}
        return {"regex": wanted.regex}

    def text_body(self, wanted: Wanted) -> Mapping[str, object]:
        """The same on the native route, but that a schema is text there."""
        if wanted.kind == "schema":
            return {"json_schema": json.dumps(wanted.document)}
        return self.constraint_body(wanted)


def _grpc(port: int) -> dict[str, str]:
    """A port for SGLang's gRPC, which nobody asked for, where its own choice is none.

    0.5.12.post1 checks it though it is off: without this variable it is ``--port`` plus 10,000, at most 65,535.
    """
    return {} if port + _GRPC_ABOVE <= _LAST_PORT else {"SGLANG_GRPC_PORT": str(port - _GRPC_ABOVE)}


_LINES = (
    *_logs.HUB_LINES,
    line("loading", r"Load weight begin\.", "loading weights"),
    _logs.SHARDS_LINE,
    line(
        "loading",
        # SGLang writes GB and counts in GiB.
        rf"Load weight end\. elapsed=(?P<seconds>{NUMBER}) s[^\n]*mem usage=(?P<weights_gib>{NUMBER}) GB",
        "{weights_gib} GiB loaded in {seconds} s",
    ),
    # On a CPU the usage is what the whole machine lost meanwhile: where others let go of more, it is below zero.
    line("loading", rf"Load weight end\. elapsed=(?P<seconds>{NUMBER}) s", "loaded in {seconds} s"),
    line(
        "kv_cache",
        rf"KV Cache is allocated\. #tokens: (?P<kv_cache_tokens>{COUNT})",
        "{kv_cache_tokens} tokens of KV cache",
    ),
    line("graphs", r"Capture (?:piecewise )?(?:cuda|CUDA) graph begin", "capturing CUDA graphs"),
    line(
        "graphs",
        r"(?:Capturing batches|Compiling num tokens)[^%\n]*?:\s+(?P<percent>\d+)%",
        "capturing CUDA graphs, {percent}%",
    ),
    line(
        "graphs",
        rf"Capture (?:piecewise )?(?:cuda|CUDA) graph end\. Time elapsed: (?P<seconds>{NUMBER}) s",
        "graphs captured in {seconds} s",
    ),
    line(
        "kv_cache",
        rf"max_total_num_tokens=(?P<kv_cache_tokens>{COUNT})[^\n]*context_len=(?P<max_context>{COUNT})",
        "{kv_cache_tokens} tokens of KV cache, context of {max_context}",
    ),
    line("serving", r"Uvicorn running on http", "port open, warming up"),
    line("serving", r"The server is fired up and ready to roll", "answering"),
)

_FAULTS = (
    fault(
        r"error: argument --tool-call-parser: invalid choice: '(?P<parser>[^'\n]*)' \(choose from (?P<known>[^)\n]*)\)",
        "SGLang has no tool-call parser {parser}.",
        "Name one that it has with --engine-arg=--tool-call-parser=…: {known}.",
    ),
    fault(
        r"error: argument --reasoning-parser: invalid choice: '(?P<parser>[^'\n]*)' \(choose from (?P<known>[^)\n]*)\)",
        "SGLang has no reasoning parser {parser}.",
        "Name one that it has with --engine-arg=--reasoning-parser=…: {known}.",
    ),
    fault(
        r"^(?:sglang|launch_server)[^:\n]*: error: unrecognized arguments: (?P<flags>[^\n]+)",
        "SGLang doesn't know the argument {flags}.",
        "Check it against SGLang 0.5.12.post1's own help, or take an image of the version that has it with --image.",
    ),
    fault(
        r"^(?:sglang|launch_server)[^:\n]*: error: (?P<why>[^\n]+)",
        "SGLang refused its arguments: {why}.",
        "Correct the engine arguments.",
    ),
    fault(
        r"SGLANG_GRPC_PORT \((?P<port>-?\d+)\) must be between",
        "SGLang's gRPC port is {port}, and that is none: it adds 10000 to --port.",
        "Name another with --env SGLANG_GRPC_PORT=…, or take a --port up to 55535.",
    ),
    fault(
        r"Not enough memory\. Please try (?:to increase|increasing) --mem-fraction-static",
        "Nothing is left for the KV cache once the weights are loaded.",
        "Raise --engine-arg=--mem-fraction-static=…, or take a GPU with more memory.",
    ),
    fault(
        r"think_end_token '(?P<token>[^'\n]*)' must encode to exactly one token",
        "The reasoning parser doesn't suit the model: its tokenizer has no token {token}.",
        "Serve the model without it, or name the parser of its own family with --engine-arg=--reasoning-parser=….",
    ),
    fault(
        r"xgrammar_backend\.py[^\n]*\n[^\n]*\n(?:[^\n]*\n)?RuntimeError: Unsupported device: (?P<device>\w+)",
        "The grammar backend (xgrammar) can't constrain output on {device}; a request that asked for it ended SGLang.",
        "Use --engine-arg=--grammar-backend=llguidance.",
    ),
    fault(
        r"Subprocess (?P<what>[a-z]{1,40})\w{0,20} \(pid=\d+\) crashed with exit code -9\b",
        "SGLang's {what} was killed from outside (signal 9), as Linux does where main memory runs out.",
        "Give the sandbox more main memory with --memory, in GiB.",
        general=True,
    ),
    fault(
        r"Subprocess (?P<what>[a-z]{1,40})\w{0,20} \(pid=\d+\) crashed with exit code -(?P<signal>\d+)",
        "SGLang's {what} crashed (signal {signal}).",
        "Take another version of the image with --image.",
        general=True,
    ),
    _faults.nvcc_fault(
        "Go without it, --engine-arg=--sampling-backend=pytorch --engine-arg=--attention-backend=triton,"
        " or take an image that has the CUDA toolkit with --image."
    ),
    *_faults.model_faults("SGLang", tokenizer_flag="--tokenizer-path"),
    *_faults.HUB_FAULTS,
    *_faults.CUDA_FAULTS,
    _faults.PORT_FAULT,
    _faults.WEIGHTS_FAULT,
    *_faults.gpu_memory_faults(
        "Take a GPU with more memory with --gpu or a quantised model; if it came after the weights were loaded,"
        " lower --engine-arg=--mem-fraction-static=…."
    ),
)
