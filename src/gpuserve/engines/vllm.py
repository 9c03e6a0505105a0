"""vLLM, checked against 0.22.1, and by ``pytest -m vllm`` against 0.32.0 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

from gpuserve.engines import _faults, _launch, _logs
from gpuserve.engines._logs import COUNT, NUMBER, fault, line
from gpuserve.engines.base import KeyCheck, MetricNames, Wanted, schema_body
from gpuserve.errors import UsageError
from gpuserve.records import BootFact, Diagnosis, KeyPass, LaunchPlan, ModelFacts, ServeRequest

#: What the OpenAI route of 0.22.1 takes.
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
#: The short spellings of --optimization-level.
_LEVELS = ("-O", "-O0", "-O1", "-O2", "-O3")
#: How ``vllm serve`` starts the engine's process: "spawn" if nothing is said, which has Python import everything anew.
_START = "VLLM_WORKER_MULTIPROC_METHOD"
#: Which of vLLM's two model runners it takes: by itself the newer one, for dense Qwen3 in 0.22.1, for nearly all later.
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


class VLLM:
    """Plans, reads and diagnoses ``vllm serve``."""

    name = "vllm"
    title = "vLLM"
    default_image = "vllm/vllm-openai:v0.22.1"
    metrics = MetricNames(
        running="vllm:num_requests_running", waiting="vllm:num_requests_waiting", kv_usage="vllm:kv_cache_usage_perc"
    )
    reasoning_field = "reasoning"
    text_route = "completions"
    fast_boot = "compilation, CUDA graphs and tuning of kernels"
    # Seen on 0.22.1 and 0.32.0: /invocations serves chat completions to whoever comes without a key.
    key_check = KeyCheck(
        KeyPass("VLLM_API_KEY"),
        "vLLM's key guards /v1 only: /invocations answers chat requests without it, and /metrics, /tokenize and /docs "
        "are open too, so it keeps out nobody who knows that.",
    )

    def plan(self, request: ServeRequest, facts: ModelFacts) -> LaunchPlan:
        """How vLLM serves ``request.model``; raises ``UsageError`` if the user's arguments break the plan."""
        flags = _launch.Flags(request.engine_args, abbreviates=True)
        _launch.refuse_fixed(flags, served=("--served-model-name",), model=("--model",))
        flags.add("--host", _launch.LOOPBACK)
        flags.add("--port", str(request.port))
        flags.add("--served-model-name", _launch.served_name(request))
        if facts.tool_parser or flags.given("--tool-call-parser"):
            # A parser alone does nothing: without this flag vLLM refuses tool_choice "auto".
            flags.add("--enable-auto-tool-choice", also=("--no-enable-auto-tool-choice",))
        _launch.add_parsers(flags, self, request, facts)
        flags.add("--enable-prefix-caching", also=("--no-enable-prefix-caching",))
        flags.add("--enable-prompt-tokens-details", also=("--no-enable-prompt-tokens-details",))
        if request.fast_boot:
            flags.add("--enforce-eager", also=("--no-enforce-eager",))
            # Eager mode alone still has FlashInfer try its kernels at the start; level 0 doesn't.
            flags.add("--optimization-level", "0", also=_LEVELS)
        env = _sooner(request, flags) if request.fast_boot else {}
        flags.add_each(facts.flags)
        if request.revision:
            flags.add("--revision", request.revision)
        program = ("vllm", "serve", request.model)
        return _launch.finish(self, request, facts, program=program, flags=flags, health_path="/health", env=env)

    def read(self, line: str) -> BootFact | None:
        """What one line of vLLM's log says of its boot."""
        return _logs.read(_LINES, line)

    def diagnose(self, log: str) -> Diagnosis | None:
        """Why vLLM failed, from the root cause, which is seldom the last line."""
        return _logs.diagnose(_FAULTS, log)

    def reasoning_body(self, effort: str) -> Mapping[str, object]:
        """``reasoning_effort``, which also sets the template's ``enable_thinking``: false for "none", else true.

        gpt-oss refuses "none" with an error: its reasoning can't be switched off, only be "low".
        """
        if effort not in _EFFORTS:
            raise UsageError(f"unknown reasoning effort {effort!r}", hint="vLLM takes " + ", ".join(_EFFORTS))
        return {"reasoning_effort": effort}

    def constraint_body(self, wanted: Wanted) -> Mapping[str, object]:
        """The schema as everywhere, all else in ``structured_outputs``: 0.22.1 ignores the older guided_… silently."""
        if wanted.kind == "schema":
            return schema_body(wanted.document)
        values = {"regex": wanted.regex, "choice": list(wanted.choices), "grammar": wanted.grammar}
        return {"structured_outputs": {wanted.kind: values[wanted.kind]}}

    def text_body(self, wanted: Wanted) -> Mapping[str, object]:
        """As of a chat request."""
        return self.constraint_body(wanted)


def _sooner(request: ServeRequest, flags: _launch.Flags) -> dict[str, str]:
    """The variables of a fast boot, but for those that the user set.

    One has vLLM fork the engine's process. vLLM itself goes back to "spawn" where forking can't work: CUDA is in use
    already, WSL, no GPU, ``--numa-bind``. With ``--mm-tensor-ipc=torch_shm`` it stops instead, so that flag leaves the
    variable alone. The other has it take its older model runner: the newer one runs Triton kernels before it serves,
    which are compiled for that, 14 to 16 s (docs/gpu-run.md).
    """
    wanted = {
        _START: ("fork", "forks the engine's process instead of starting Python anew"),
        _RUNNER: ("0", "runs the model without Triton kernels to be compiled first"),
    }
    if flags.given("--mm-tensor-ipc"):
        del wanted[_START]
    env = {name: value for name, (value, _) in wanted.items() if name not in request.env}
    flags.notes += [f"--fast-boot: vLLM {wanted[name][1]} ({name}={value})." for name, value in env.items()]
    return env


_LINES = (
    line(
        "downloading",
        rf"Time spent downloading weights for \S{{1,200}}: (?P<seconds>{NUMBER}) seconds",
        "weights downloaded in {seconds} s",
    ),
    *_logs.HUB_LINES,
    line("loading", rf"Using max model len (?P<max_context>{COUNT})", "context of {max_context} tokens"),
    line("loading", r"Starting to load model (?P<model>\S+?)\.\.\.", "loading {model}"),
    line("loading", rf"Checkpoint size: (?P<weights_gib>{NUMBER}) GiB", "{weights_gib} GiB of weights"),
    _logs.SHARDS_LINE,
    line("loading", rf"Loading weights took (?P<seconds>{NUMBER}) seconds", "weights read in {seconds} s"),
    line(
        "loading",
        rf"Model loading took (?P<weights_gib>{NUMBER}) GiB (?:memory )?and (?P<seconds>{NUMBER}) seconds",
        "{weights_gib} GiB loaded in {seconds} s",
    ),
    line("compiling", rf"Dynamo bytecode transform time: (?P<seconds>{NUMBER}) s", "graph traced in {seconds} s"),
    line("compiling", rf"torch\.compile took (?P<seconds>{NUMBER}) s in total", "compiled in {seconds} s"),
    line("compiling", r"Using cache directory: \S+ for vLLM's torch\.compile", "compiling the model"),
    line("compiling", r"Warming up model for the compilation", "compiling the model"),
    line("kv_cache", rf"Available KV cache memory: (?P<kv_cache_gib>{NUMBER}) GiB", "{kv_cache_gib} GiB of KV cache"),
    line("kv_cache", rf"Explicitly set \((?P<kv_cache_gib>{NUMBER})/", "{kv_cache_gib} GiB of KV cache"),
    line(
        # 0.32.0 tells both in one line, 0.22.1 in two.
        "kv_cache",
        rf"KV cache size: (?P<kv_cache_tokens>{COUNT}) tokens, Maximum concurrency for (?P<max_context>{COUNT}) tokens"
        rf" per request: (?P<requests>{NUMBER})x",
        "{kv_cache_tokens} tokens of KV cache, room for {requests} requests of {max_context} tokens",
    ),
    line("kv_cache", rf"KV cache size: (?P<kv_cache_tokens>{COUNT}) tokens", "{kv_cache_tokens} tokens of KV cache"),
    line(
        "kv_cache",
        rf"Maximum concurrency for (?P<max_context>{COUNT}) tokens per request: (?P<requests>{NUMBER})x",
        "room for {requests} requests of {max_context} tokens",
    ),
    line("graphs", r"Capturing CUDA graphs[^:\n]*:\s+(?P<percent>\d+)%", "capturing CUDA graphs, {percent}%"),
    line("graphs", rf"Graph capturing finished in (?P<seconds>{NUMBER}) secs", "graphs captured in {seconds} s"),
    line("serving", r"Starting vLLM (?:API )?server[^\n]* on http", "opening the port"),
    line("serving", r"Application startup complete", "answering"),
)

_FAULTS = (
    fault(
        r"^vllm[^:\n]*: error: unrecognized arguments: (?P<flags>[^\n]+)",
        "vLLM doesn't know the argument {flags}.",
        "Check it against vLLM 0.22.1's own help, or take an image of the version that has it with --image.",
    ),
    fault(
        r"^vllm[^:\n]*: error: (?P<why>[^\n]+)", "vLLM refused its arguments: {why}.", "Correct the engine arguments."
    ),
    fault(
        r"invalid tool call parser: (?P<parser>\S+) \(chose from \{(?P<known>[^}\n]*)\}",
        "vLLM has no tool-call parser {parser}.",
        "Name one that it has with --engine-arg=--tool-call-parser=…: {known}.",
    ),
    fault(
        r"Reasoning parser '(?P<parser>[^'\n]*)' not found\. Available parsers: (?P<known>[^\"\n]*)",
        "vLLM has no reasoning parser {parser}.",
        "Name one that it has with --engine-arg=--reasoning-parser=…: {known}.",
    ),
    fault(
        r"--enable-auto-tool-choice requires --tool-call-parser",
        "--enable-auto-tool-choice was given without a tool-call parser.",
        "Add --engine-arg=--tool-call-parser=… with the parser of the model's family.",
    ),
    fault(
        r"(?P<parser>\w+) reasoning parser could not locate think start/end tokens",
        "The reasoning parser ({parser}) doesn't suit the model: its tokenizer lacks the tokens that mark reasoning.",
        "Serve the model without it, or name the parser of its own family with --engine-arg=--reasoning-parser=….",
    ),
    fault(
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len"
        r" \(max_position_embeddings=(?P<most>\d+)",
        "A context of {asked} tokens was asked for; the model takes {most}.",
        "Use --engine-arg=--max-model-len={most} or less.",
    ),
    fault(
        rf"model's max seq len \((?P<asked>\d+)\), \((?P<need>{NUMBER}) GiB KV cache is needed, which is larger than"
        rf" the available KV cache memory \((?P<have>{NUMBER}) GiB\)"
        r"[^\n]*?estimated maximum model length is (?P<fits>\d+)",
        "One request of the full {asked} tokens needs {need} GiB of KV cache, and {have} GiB are left.",
        "Use --engine-arg=--max-model-len={fits} (or =auto), or a GPU with more memory.",
    ),
    fault(
        r"To serve at least one request with the model's max seq len",
        "The memory that is left for the KV cache doesn't hold one request of the model's full context.",
        "Use --engine-arg=--max-model-len=auto, or a GPU with more memory.",
        general=True,
    ),
    fault(
        r"No available memory for the cache blocks",
        "Nothing is left for the KV cache once the weights are loaded.",
        "Raise --engine-arg=--gpu-memory-utilization=… (0.92 by default), or take a GPU with more memory.",
    ),
    fault(
        r"Available memory on node \d+ \((?P<have>[\d./]+) GiB\) on kv cache allocation is less than requested memory"
        rf" for kv \((?P<asked>{NUMBER}) GiB\)",
        "{asked} GiB of KV cache were asked for, and {have} GiB of memory are free.",
        "Ask for less: VLLM_CPU_KVCACHE_SPACE or --kv-cache-memory-bytes.",
    ),
    fault(
        r"Free memory on device (?P<device>\S+) \((?P<have>[\d./]+) GiB\) on startup is less than desired GPU memory"
        r" utilization",
        "Of the memory of {device} only {have} GiB are free, less than vLLM wants to take.",
        "Stop what else uses the GPU, or lower --engine-arg=--gpu-memory-utilization=….",
    ),
    fault(
        r"object has no attribute 'ggml_dequantize'",
        "This build of vLLM can't read GGUF files.",
        "Serve the file with --engine llamacpp, or the model's safetensors repository with vLLM.",
    ),
    fault(
        r"ZMQError: ipc path \"(?P<path>[^\"\n]{1,400})/[^/\"\n]{1,60}\" is longer than (?P<most>\d{1,4}) characters",
        "vLLM can't make its sockets in {path}: a socket's path has {most} characters at most.",
        "Name a directory of a shorter path with --env VLLM_RPC_BASE_PATH=/tmp.",
    ),
    _faults.nvcc_fault(
        "Go without it, --env VLLM_USE_FLASHINFER_SAMPLER=0, or take an image that has the CUDA toolkit with --image."
    ),
    *_faults.model_faults("vLLM", tokenizer_flag="--tokenizer"),
    *_faults.HUB_FAULTS,
    *_faults.CUDA_FAULTS,
    _faults.PORT_FAULT,
    _faults.WEIGHTS_FAULT,
    *_faults.gpu_memory_faults(
        "Take a GPU with more memory with --gpu or a quantised model; if it came after the weights were loaded,"
        " lower --engine-arg=--gpu-memory-utilization=… (0.92 by default)."
    ),
    fault(
        # Only where no inner process wrote an error of its own: that would be the cause.
        r"\A(?![\s\S]*?\((?:EngineCore|Worker)[^)\n]*\) ERROR)[\s\S]*?EngineDeadError: EngineCore encountered an issue",
        "vLLM's engine process died without writing a reason, as it does when it is killed from outside.",
        "Start it again; if it dies again, give the sandbox more main memory with --memory.",
        general=True,
    ),
)
