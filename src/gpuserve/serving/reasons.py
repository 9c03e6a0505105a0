"""Why each flag of a launch command is there, for whoever reads a plan."""

from __future__ import annotations

from collections.abc import Mapping

from gpuserve.records import LaunchPlan, ServeRequest

_REASONS: Mapping[str, str] = {
    "--alias": "the name that clients pass as model",
    "--attention-backend": "this family needs it with the pinned version",
    "--chat-template": "tool calls of this family need a template of their own",
    "--cuda-graph-max-bs": "smaller CUDA graphs leave the room that the KV cache needs",
    "--disable-cuda-graph": "--fast-boot: no CUDA graphs are captured at the start",
    "--disable-piecewise-cuda-graph": "--fast-boot: no CUDA graphs are captured at the start",
    "--enable-auto-tool-choice": "the model may call tools when it sees fit",
    "--enable-cache-report": "answers say how many prompt tokens came from the prefix cache",
    "--enable-metrics": "status reads running and waiting requests and the KV cache's use",
    "--enable-prefix-caching": "prompts that begin alike are computed once, on hybrid models too",
    "--enable-prompt-tokens-details": "answers say how many prompt tokens came from the prefix cache",
    "--enforce-eager": "--fast-boot: nothing is compiled and no CUDA graphs are captured at the start",
    "--gpu-memory-utilization": "the default share leaves too little for the KV cache",
    "--host": "loopback only: the platform's proxy reaches it, nobody else does",
    "--jinja": "tool calls and reasoning follow from the model's own template",
    "--max-model-len": "the full context doesn't fit: the engine takes the longest that does",
    "--max-num-batched-tokens": "smaller batches leave the room that the KV cache needs",
    "--mem-fraction-static": "the default share leaves too little for the KV cache",
    "--metrics": "status reads running and waiting requests",
    "--optimization-level": "--fast-boot: no kernels are tuned at the start",
    "--port": "where the preview URL leads",
    "--reasoning-parser": "reasoning comes back apart from the answer",
    "--revision": "asked for",
    "--served-model-name": "the name that clients pass as model",
    "--tensor-parallel-size": "the model is spread over all GPUs of the sandbox",
    "--tool-call-parser": "tool calls come back parsed",
    "--tp-size": "the model is spread over all GPUs of the sandbox",
    "--trust-remote-code": "the model runs code out of its repository, in the sandbox",
}
_FAMILY = "the engine, or the catalogue's row for this family, asks for it"


def reasons(request: ServeRequest, launch: LaunchPlan) -> dict[str, str]:
    """Each flag that gpuserve set, with its reason, in the order of the command; the user's own are left out."""
    ours = launch.argv[: len(launch.argv) - len(request.engine_args)]
    return {word: _REASONS.get(word, _FAMILY) for word in ours if word.startswith("--") and word != "--model-path"}
