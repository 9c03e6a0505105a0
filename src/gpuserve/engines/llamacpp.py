"""llama.cpp's server, checked against build b11549 (the xllamacpp wheel 2026.10.11549)."""

from __future__ import annotations

from collections.abc import Mapping

from gpuserve.engines import _faults, _launch, _logs
from gpuserve.engines._logs import COUNT, NUMBER, fault, line
from gpuserve.engines.base import KeyCheck, MetricNames, Wanted, schema_body
from gpuserve.errors import UsageError
from gpuserve.records import BootFact, Diagnosis, KeyPass, LaunchPlan, ModelFacts, ServeRequest

_EFFORTS = ("none", "low", "medium", "high")
_MODEL_FLAGS = ("--model", "-m", "--hf-repo", "-hf", "-hfr", "--model-url", "-mu", "--docker-repo", "-dr")


class LlamaCpp:
    """Plans, reads and diagnoses ``llama-server``. Tool calls and reasoning follow from the model's own template."""

    name = "llamacpp"
    title = "llama.cpp"
    default_image = "ghcr.io/ggml-org/llama.cpp:server-cuda"
    metrics = MetricNames(running="llamacpp:requests_processing", waiting="llamacpp:requests_deferred")
    reasoning_field = "reasoning_content"
    text_route = "completions"
    key_check = KeyCheck(KeyPass("LLAMA_API_KEY"), "llama.cpp's key guards every route but /health.")

    def plan(self, request: ServeRequest, facts: ModelFacts) -> LaunchPlan:
        """How llama-server serves ``request.model``, a repository of GGUF files or the path of one.

        Raises:
            UsageError: a path that is no GGUF file, a revision, or user's arguments that break the plan.
        """
        flags = _launch.Flags(request.engine_args, abbreviates=False)
        _launch.refuse_fixed(flags, served=("--alias", "-a"), model=_MODEL_FLAGS)
        if request.revision:
            raise UsageError(
                "llama-server can't pin a revision", hint="leave --revision out, or serve a file by its path"
            )
        flags.add("--alias", _launch.served_name(request))
        flags.add("--host", _launch.LOOPBACK)
        flags.add("--port", str(request.port))
        flags.add("--metrics")
        flags.add("--jinja", also=("--no-jinja",))
        flags.add_each(facts.flags)
        flags.notes += _notes(request)
        program = ("llama-server", *_source(request.model))
        # The image keeps the program in /app and doesn't put it on PATH.
        return _launch.finish(self, request, facts, program=program, flags=flags, health_path="/health", path=("/app",))

    def read(self, line: str) -> BootFact | None:
        """What one line of llama-server's log says of its boot."""
        return _logs.read(_LINES, line)

    def diagnose(self, log: str) -> Diagnosis | None:
        """Why llama-server failed."""
        return _logs.diagnose(_FAULTS, log)

    def reasoning_body(self, effort: str) -> Mapping[str, object]:
        """The effort and the switch as variables of the chat template, which is what decides here.

        gpt-oss has no "none": its template would take the word as it stands, so ask it for "low".
        """
        if effort not in _EFFORTS:
            raise UsageError(f"unknown reasoning effort {effort!r}", hint="llama.cpp takes " + ", ".join(_EFFORTS))
        return {"chat_template_kwargs": {"enable_thinking": effort != "none", "reasoning_effort": effort}}

    def constraint_body(self, wanted: Wanted) -> Mapping[str, object]:
        """The schema as everywhere, all else as a grammar. One in Lark's notation must say so in its first line.

        llama-server has no field for a regular expression, and llguidance, which reads them, isn't in every build:
        what was asked for is written as GBNF, which says the same.

        Raises:
            UsageError: a grammar in Lark's notation that llama-server would take for GBNF.
        """
        if wanted.kind == "schema":
            return schema_body(wanted.document)
        if wanted.lark and not wanted.grammar.startswith("%llguidance"):
            raise UsageError(
                "llama.cpp takes a grammar for GBNF unless it begins with %llguidance",
                hint="begin it with the line %llguidance {}, or write GBNF",
            )
        return {"grammar": wanted.grammar if wanted.kind == "grammar" else wanted.gbnf}

    def text_body(self, wanted: Wanted) -> Mapping[str, object]:
        """The same for bare text, but that a schema has a field of llama-server's own there."""
        return {"json_schema": dict(wanted.document)} if wanted.kind == "schema" else self.constraint_body(wanted)


def _source(model: str) -> tuple[str, str]:
    """The flag that names the model: a file by its path, a repository by its ID and quantisation."""
    if not model.startswith("/"):
        return ("-hf", model)
    if not model.lower().endswith(".gguf"):
        raise UsageError(
            f"llama.cpp serves GGUF files, and {model} is none",
            hint="give the path of a .gguf file, or use --engine vllm for a folder of safetensors",
        )
    return ("-m", model)


def _notes(request: ServeRequest) -> list[str]:
    notes = []
    if not request.model.startswith("/") and "gguf" not in request.model.lower():
        notes.append(
            f"llama.cpp loads GGUF files, and {request.model} isn't named as a repository of them;"
            " those usually end in -GGUF."
        )
    for argument in request.engine_args:
        if argument.startswith("--") and "=" in argument:
            flag, value = argument.split("=", 1)
            notes.append(
                f"llama-server takes a flag and its value as two arguments: {flag} {value}, not {flag}={value}."
            )
    return notes


_LINES = (
    line("downloading", r"downloading weights: (?P<what>[^\n]+)", "{what}"),
    line(
        "downloading",
        r"download(?:ing)? model from \S{1,300}/(?P<file>[^/\s]{1,120}) to \S",
        "{file}",
    ),
    line(
        "downloading",
        r"\[[=> ]{1,200}\] {1,4}(?P<percent>\d{1,3})% {1,4}\((?P<mib_done>\d+) MB / (?P<mib_all>\d+) MB\)",
        "model {mib_done}/{mib_all}",
        needs=" MB / ",
    ),
    *_logs.HUB_LINES,
    line("loading", r"load_model: loading model '(?P<file>[^'\n]*)'", "loading weights"),
    line("loading", rf"print_info: file size\s+= (?P<weights_mib>{NUMBER}) MiB", "{weights_mib} MiB of weights"),
    line("loading", rf"print_info: file size\s+= (?P<weights_gib>{NUMBER}) GiB", "{weights_gib} GiB of weights"),
    line("loading", r"load_tensors: loading model tensors", "loading weights"),
    line("loading", r"offloaded (?P<layers>\d+)/(?P<all>\d+) layers to GPU", "{layers} of {all} layers on the GPU"),
    line("loading", r"warming up the model with an empty run", "warming up"),
    line("kv_cache", rf"llama_context: n_ctx\s+= (?P<kv_cache_tokens>{COUNT})", "{kv_cache_tokens} tokens of KV cache"),
    line(
        "kv_cache",
        rf"initializing, n_slots = (?P<slots>\d+), n_ctx_slot = (?P<max_context>(?P<kv_cache_tokens>{COUNT})),"
        r" kv_unified = '?(?:true|1)",
        "{slots} slots share {max_context} tokens of context",
    ),
    line(
        "kv_cache",
        rf"initializing, n_slots = (?P<slots>\d+), n_ctx_slot = (?P<max_context>{COUNT})",
        "{slots} slots with {max_context} tokens of context each",
    ),
    line("serving", r"srv [^\n]*: listening on http|server is listening on http", "answering"),
)

_FAULTS = (
    fault(
        r"error: invalid argument: (?P<flag>--[\w-]+)=(?P<value>[^\n]*)",
        "llama-server takes no {flag}={value} in one argument.",
        "Pass two: --engine-arg={flag} --engine-arg={value}.",
    ),
    fault(
        r"error: invalid argument: (?P<flag>[^\n]+)",
        "llama-server doesn't know the argument {flag}.",
        "Check it against llama-server's own help.",
    ),
    fault(
        r"^error: (?P<why>(?:argument|expected value for|unknown value for) [^\n]+)",
        "llama-server refused its arguments: {why}.",
        "Correct the engine arguments.",
    ),
    fault(
        r"couldn't bind HTTP server socket, hostname: (?P<host>[^,\n]*), port: (?P<port>\d+)",
        "Port {port} is taken by another program.",
        "Choose another with --port.",
    ),
    fault(
        r"failed to open GGUF file '(?P<file>[^'\n]*)' \((?P<why>[^)\n]*)\)",
        "The model's file {file} can't be opened: {why}.",
        "Check the path; it is a path inside the sandbox.",
    ),
    fault(
        r"invalid magic characters: '[^\n]*', expected 'GGUF'",
        "The model's file is no GGUF file.",
        "Give a .gguf file, or use --engine vllm for safetensors.",
    ),
    fault(
        r"unknown model architecture: '(?P<arch>[^'\n]*)'",
        "This build of llama.cpp doesn't know the model's architecture, {arch}.",
        "Take a newer image with --image, or another engine.",
    ),
    fault(
        r"model is corrupted or incomplete",
        "The model's file is damaged or incomplete.",
        "Delete it and start again; a fresh sandbox does that by itself.",
    ),
    fault(
        r"^error: (?P<why>couldn't get the model [^\n]+)",
        "llama-server {why}",
        "Check the model ID and its quantisation, the network, and HF_TOKEN for a gated model.",
    ),
    fault(
        r"unable to allocate (?P<device>\w+) buffer|cudaMalloc failed: out of memory",
        "The GPU ran out of memory.",
        "Take a GPU with more memory with --gpu, a smaller quantisation, or a shorter context:"
        " --engine-arg=--ctx-size --engine-arg=….",
    ),
    fault(r"error loading model: (?P<why>[^\n]+)", "llama.cpp can't load the model: {why}.", "", general=True),
    *_faults.HUB_FAULTS,
)
