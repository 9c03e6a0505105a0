"""What is served, on what and with which environment, when the one who asks doesn't say.

Shared by the command line and the Python API, so that both mean the same by saying nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpuserve.durations import parse_duration
from gpuserve.errors import ConfigError, UsageError
from gpuserve.records import DEFAULT_TTL
from gpuserve.settings import Settings

#: GPU types tried when none is named, in this order: what both guides use.
GPUS = ("H100", "RTX-PRO-6000")
#: What ``--local`` serves when nothing is named: small, CPU-capable, Apache-2.0.
LOCAL_ENGINE, LOCAL_MODEL = "llamacpp", "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
#: The region that the guides call the current one for GPU sandboxes.
DEFAULT_TARGET = "us-east-1"
#: What Daytona gets when no engine is named.
ENGINE = "vllm"


def engine_and_model(engine: str, model: str, settings: Settings, *, local: bool) -> tuple[str, str]:
    """Both, from what was asked ("" for not said), then the settings, then the defaults.

    Raises:
        UsageError: no model is named, and there is none to fall back on.
    """
    engine, model = engine or settings.engine, model or settings.model
    if local and not engine:
        engine = LOCAL_ENGINE
    if local and not model and engine == LOCAL_ENGINE:
        model = LOCAL_MODEL
    if not model:
        raise UsageError("no model named", hint="gpuserve up --model openai/gpt-oss-20b, or gpuserve up --local")
    return engine or ENGINE, model


def gpus(asked: str, settings: Settings, *, local: bool) -> tuple[str, ...]:
    """GPU types in order of preference from a comma-separated text; "none" is a sandbox without GPU."""
    text = asked or settings.gpu
    if not text:
        return () if local else GPUS
    if text.lower() == "none":
        return ()
    return tuple(part.strip().upper().replace("_", "-") for part in text.split(","))


def default_target(place: str) -> str:
    """The region where none is named."""
    return "local" if place == "local" else DEFAULT_TARGET


def prices(settings: Settings) -> dict[str, float]:
    """The user's own prices for an hour of one GPU, by type; empty if none are set. None are made up.

    Raises:
        ConfigError: something that isn't ``TYPE=PRICE``.
    """
    found = {}
    for item in filter(None, (part.strip() for part in settings.prices.split(","))):
        name, _, price = item.partition("=")
        try:
            found[name.strip().upper().replace("_", "-")] = float(price)
        except ValueError:
            hint = "write GPUSERVE_PRICES=H100=3.95,RTX-PRO-6000=2.10"
            raise ConfigError(f"{item!r} in GPUSERVE_PRICES is no price", hint=hint) from None
    return found


def ttl(asked: str, settings: Settings) -> int | None:
    """Seconds until deletion; None only where "none" was said out loud."""
    text = asked or settings.ttl
    if text.lower() == "none":
        return None
    return parse_duration(text) if text else DEFAULT_TTL


def idle(asked: str) -> int | None:
    """Seconds without a request until deletion; None for "" and "none"."""
    return None if asked.lower() in ("", "none") else parse_duration(asked)


def environment(given: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The engine's environment: the Hugging Face token if there is one, then what was given."""
    token = settings.hf_token.get_secret_value()
    return {**({"HF_TOKEN": token} if token else {}), **given}
