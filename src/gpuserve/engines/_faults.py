"""Failures that read the same in more engines than one: of the Hub, the disk, the port, the GPU and the model's files.

The real lines that the rows were written to are named in the tests.
"""

from __future__ import annotations

from gpuserve.engines._logs import NUMBER, Fault, fault

#: Failures of the Hugging Face Hub, the disk and the port, which read the same in vLLM and SGLang.
HUB_FAULTS = (
    fault(
        r"Access to model (?P<model>\S{1,200}) is restricted and you are not in the authorized list",
        "{model} is gated, and the Hugging Face account of your token has no access to it.",
        "Ask for access on the model's page; once it is granted, run the same command again.",
    ),
    fault(
        r"Access to model (?P<model>\S{1,200}) is restricted",
        "{model} is gated, and no valid Hugging Face token was sent.",
        "Accept the terms on the model's page and set HF_TOKEN to a token of that account.",
    ),
    fault(
        r"GatedRepoError|You are trying to access a gated repo",
        "The model is gated, and no Hugging Face token with access to it was sent.",
        "Accept the terms on the model's page and set HF_TOKEN to a token of that account.",
        general=True,
    ),
    fault(
        r"(?P<model>\S{1,200}) is not a local folder and is not a valid model identifier",
        "Hugging Face knows no model {model} that can be read with your token.",
        "Check the spelling; if the model is private, set HF_TOKEN to a token that may read it.",
    ),
    fault(
        r"Invalid repository ID or local directory specified: '(?P<model>[^'\n]*)'",
        "{model} is neither a model on Hugging Face nor a folder with a config.json.",
        "Check the spelling, or that the folder holds the whole model.",
    ),
    fault(
        r"RevisionNotFoundError",
        "The model's repository has no such revision.",
        "Give --revision a branch, tag or commit that the repository has.",
    ),
    fault(
        r"outgoing traffic has been disabled",
        "HF_HUB_OFFLINE is set and the model isn't in the cache.",
        "Leave HF_HUB_OFFLINE out, or download the model into the cache first.",
    ),
    fault(
        r"We couldn't connect to '(?P<hub>[^'\n]+)'",
        "The sandbox can't reach {hub} to download the model.",
        "Check its network access, or serve a model that is already on its disk.",
    ),
    fault(
        r"429 Client Error|HfHubHTTPError: 429|HTTP status client error \(429"
        r"|429 Too Many Requests(?: for url|: you have reached)",
        "The Hugging Face Hub refuses further requests for a while, since too many came from this address or account.",
        "Set HF_TOKEN, which raises the limit, and run the same command again after some minutes.",
    ),
    fault(
        # Also what Xet says of a full disk, which a row of its own tells.
        r"Data processing error: (?!.*No space left on device)(?P<why>[^\n]{1,200})",
        "Xet, which downloads the weights, failed: {why}.",
        "Run it again; if it fails again, go without Xet: --env HF_HUB_DISABLE_XET=1.",
    ),
    fault(
        r"An error occurred while downloading using `?hf_transfer",
        "hf_transfer, which downloads the weights, failed and keeps the reason to itself.",
        "Go without it: --env HF_HUB_ENABLE_HF_TRANSFER=0.",
    ),
    fault(
        r"No space left on device|Disk quota exceeded",
        "The disk is full.",
        "Ask for a larger one with --disk, in GiB.",
    ),
)

PORT_FAULT = fault(
    r"\[Errno 98\][^\n]*address already in use|\[Errno 98\] Address already in use",
    "The port is taken by another program.",
    "Choose another with --port.",
)

WEIGHTS_FAULT = fault(
    r"SafetensorError: (?P<why>[^\n]+)",
    "The model's weights are damaged or incomplete: {why}.",
    "Delete the downloaded files and start again; a fresh sandbox does that by itself.",
)

#: What CUDA says where it doesn't suit the driver or the GPU. A warning that says so need not be the end.
_NO_WARNING = r"^(?![^\n]{0,400}Warning)[^\n]*?"

CUDA_FAULTS = (
    fault(
        _NO_WARNING + r"(?:CUDA driver version is insufficient|The NVIDIA driver on your system is too old)",
        "The sandbox's NVIDIA driver is too old for the CUDA of this image.",
        "Take an image that was built for an older CUDA with --image, or another GPU with --gpu.",
    ),
    fault(
        _NO_WARNING + r"forward compatibility was attempted on non supported HW",
        "The image brings a newer CUDA than the sandbox's driver has, and this GPU can't do with that.",
        "Take an image that was built for an older CUDA with --image, or a data-centre GPU with --gpu.",
    ),
    fault(
        r"no kernel image is available for execution on the device",
        "The image holds no code for this type of GPU.",
        "Take another GPU with --gpu, or an image that was built for this one with --image.",
    ),
)


def gpu_memory_faults(remedy: str) -> tuple[Fault, ...]:
    """The GPU's memory is full. ``remedy`` says what the engine can do about it."""
    return (
        fault(
            rf"OutOfMemoryError: CUDA out of memory\. Tried to allocate (?P<asked>{NUMBER} [KMG]iB)\."
            rf" GPU (?P<gpu>\d+) has a total capacity of (?P<all>{NUMBER} [KMG]iB)"
            rf" of which (?P<free>{NUMBER} [KMG]iB) is free",
            "The GPU ran out of memory: {asked} more were wanted, and of {all} {free} were free.",
            remedy,
        ),
        fault(r"CUDA out of memory[. ]", "The GPU ran out of memory.", remedy, general=True),
    )


def model_faults(title: str, *, tokenizer_flag: str) -> tuple[Fault, ...]:
    """The model's files don't suit the engine ``title``, whose flag for another tokenizer is ``tokenizer_flag``."""
    return (
        *_architecture_faults(title),
        fault(
            r"Loading (?P<model>\S{1,200}) requires you to execute the configuration file in that repo"
            r"|The repository (?:for )?(?P<other>\S{1,200}) contains custom code which must be executed",
            f"The model {{model}}{{other}} brings code of its own, which {title} doesn't run unless it is told to.",
            "Read that code; if you trust it, add --engine-arg=--trust-remote-code.",
        ),
        fault(
            r"Can't load tokenizer for '(?P<model>[^'\n]{1,200})'|Couldn't instantiate the backend tokenizer"
            r"|No tokenizer file found in directory|Unable to load vocabulary from file",
            f"The model's files hold no tokenizer that {title} can load.",
            f"Name the model that it was made from: --engine-arg={tokenizer_flag}=….",
        ),
        fault(
            r"Tokenizer class (?P<name>\w{1,80}) does not exist or is not currently imported",
            "The model wants a tokenizer, {name}, that the image's Transformers doesn't have.",
            f"Take a newer image with --image, or another tokenizer with --engine-arg={tokenizer_flag}=….",
        ),
        fault(
            # A request without a template is refused, which ends no engine: so only if nothing else is told.
            r"default chat template is no longer allowed, so you must provide a chat template",
            "The model has no chat template.",
            "Serve the variant that was made for chat, or give one with --engine-arg=--chat-template=….",
            general=True,
        ),
        *_quantisation_faults(title),
    )


def _architecture_faults(title: str) -> tuple[Fault, ...]:
    return (
        fault(
            # Further on such a log says that the architecture isn't supported, which isn't so.
            r"Error in inspecting model architecture '(?P<arch>[^'\n]{1,80})'",
            "The engine knows the architecture {arch}, but its code for it can't be loaded in this image.",
            "Take the image as its makers publish it with --image; the log's first traceback names what is missing.",
        ),
        fault(
            r"Model architectures \[(?P<arch>[^\]\n]{0,200})\] are not supported",
            f"This version of {title} doesn't know the model's architecture, {{arch}}.",
            "Take a newer image with --image, or another engine with --engine.",
        ),
        fault(
            r"model type `(?P<type>[^`\n]{1,80})` but Transformers does not recognize this architecture",
            "The image's Transformers doesn't know the model's type, {type}.",
            "Take a newer image with --image, or another engine with --engine.",
        ),
    )


def _quantisation_faults(title: str) -> tuple[Fault, ...]:
    return (
        fault(
            r"[Qq]uantization method (?P<name>[\w.-]{1,40}) is not supported for the current GPU\."
            r" Minimum capability: (?P<least>\d+)\. Current capability: (?P<has>\d+)",
            "The model's quantisation, {name}, needs a GPU of compute capability {least}; this one has {has}.",
            "Take a newer GPU with --gpu, or the model in another quantisation.",
        ),
        fault(
            r"Quantization scheme is not supported for[^\n]{0,40}the current GPU\."
            r"[^\n]{0,12}Min capability: (?P<least>\d+)",
            "The model's quantisation needs a GPU of compute capability {least} or more.",
            "Take a newer GPU with --gpu, or the model in another quantisation.",
        ),
        fault(
            r"Unknown quantization method: (?P<name>[\w.-]{1,40})",
            f"This version of {title} doesn't know the quantisation {{name}}.",
            "Take a newer image with --image, or the model in another quantisation.",
        ),
        fault(
            r"Quantization method specified in the model config \((?P<has>[\w.-]{1,40})\) does not match the"
            r" quantization method specified in the `quantization` argument \((?P<asked>[\w.-]{1,40})\)",
            "The model is quantised with {has}, and {asked} was asked for.",
            "Leave --engine-arg=--quantization=… out: the engine reads it from the model.",
        ),
    )


def nvcc_fault(remedy: str) -> Fault:
    """A kernel is to be compiled while the engine starts. ``remedy`` says how the engine does without."""
    return fault(
        r"Could not find nvcc|No such file or directory: '(?:[^'\n]{0,200}/)?nvcc'|nvcc: not found",
        "FlashInfer wants to compile a kernel, and the image has no CUDA compiler (nvcc).",
        remedy,
    )
