"""Whether an engine can serve what the Hub has: formats, adapters, architectures."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from gpuserve.catalog.hubfacts import HubFacts
from gpuserve.errors import UsageError

_TITLES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}
# Both engines make an embedding or scoring model of any class that they know without these endings.
_POOLING = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "RewardModel", "Model")
_OTHER = {"vllm": "sglang", "sglang": "vllm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architectures:
    """The classes of models that one version of an engine serves.

    ``generating`` it has code of its own for; ``fallback`` it can run with the code of the ``transformers`` library.
    ``pooling`` models give embeddings or scores and ``drafts`` only help another model; ``former`` ones were dropped,
    with the last version that had them.
    """

    engine: str
    version: str
    generating: frozenset[str]
    fallback: frozenset[str]
    pooling: frozenset[str]
    drafts: frozenset[str]
    former: dict[str, str]
    source: str
    date: str


@cache
def architectures(engine: str) -> Architectures | None:
    """What the pinned version of ``engine`` serves; None for an engine of which no list is kept."""
    text = files("gpuserve.catalog").joinpath("architectures.toml").read_text(encoding="utf-8")
    row = tomllib.loads(text)["engine"].get(engine)
    if row is None:
        return None
    return Architectures(
        engine=engine,
        version=row["version"],
        generating=frozenset(row["generating"]),
        fallback=frozenset(row["fallback"]),
        pooling=frozenset(row["pooling"]),
        drafts=frozenset(row["drafts"]),
        former=row["former"],
        source=row["source"],
        date=row["date"],
    )


def judge(facts: HubFacts, engine: str, supported_archs: Architectures | None) -> list[str]:
    """Whether ``engine`` can serve the repository: warnings for a person, one sentence each.

    ``supported_archs`` belongs to the version that will run; None where that isn't known (an image of the user's own),
    and then architectures aren't judged. Engines other than the built-in ones are judged by the architecture only.

    Raises:
        UsageError: it can't; the hint names what can.
    """
    _check_is_model(facts)
    if engine == "llamacpp":
        return _judge_gguf(facts)
    notes = _judge_files(facts, engine) if engine in _OTHER else []
    return notes + (_judge_architecture(facts, engine, supported_archs) if supported_archs else [])


def _check_is_model(facts: HubFacts) -> None:
    if set(facts.formats) - {"adapter"}:
        return
    if "adapter" in facts.formats:
        base = f" of {facts.base_model}" if facts.base_model else ""
        raise UsageError(
            f"{facts.model} is an adapter{base}, not a model of its own",
            hint=f"serve the base model: --model {facts.base_model}" if base else "serve the model that it adapts",
        )
    if facts.library == "diffusers":
        raise UsageError(f"{facts.model} makes images (library diffusers)", hint="choose a language model")
    raise UsageError(
        f"{facts.model} holds no weights that an engine can load",
        hint="check the revision, or look for the repository that this one points to",
    )


def _judge_gguf(facts: HubFacts) -> list[str]:
    if not facts.gguf:
        others = f"; of the same model: --model {' or '.join(facts.gguf_siblings)}" if facts.gguf_siblings else ""
        raise UsageError(
            f"{facts.model} holds no GGUF files, and llama.cpp serves nothing else",
            hint=f"use --engine vllm{others}" if others else "use --engine vllm, or name a repository of GGUF files",
        )
    if not facts.quant:
        raise UsageError(
            f"{facts.model} has no GGUF file of {facts.asked_quant}", hint=f"it has {_some(list(facts.gguf))}"
        )
    if facts.asked_quant or len(facts.gguf) == 1:
        return []
    return [f"llama.cpp will take {facts.quant} of {len(facts.gguf)} quantisations; name one as {facts.model}:QUANT"]


def _judge_files(facts: HubFacts, engine: str) -> list[str]:
    title = _TITLES[engine]
    if not {"safetensors", "pytorch"} & set(facts.formats):
        raise UsageError(f"{facts.model} holds only GGUF files, which are llama.cpp's", hint="use --engine llamacpp")
    if not facts.described:
        raise UsageError(
            f"{facts.model} holds weights but no config.json, without which {title} can't tell what they are",
            hint="check the revision, or look for the original repository",
        )
    if facts.library == "mlx" and facts.quantization == "mlx":
        raise UsageError(
            f"{facts.model} is quantised for MLX, which runs on Apple's chips only",
            hint=f"use {facts.base_model or 'the original model'} or a quantised one made for {title}",
        )
    notes = []
    if facts.missing:
        notes.append(f"the index of {facts.model} names files that aren't there: {_some(list(facts.missing))}")
    if "safetensors" not in facts.formats:
        notes.append(f"{facts.model} has only pickled weights (.bin), which can run code when they are loaded")
    return notes


def _judge_architecture(facts: HubFacts, engine: str, known: Architectures) -> list[str]:
    names = facts.architectures
    if not names or known.generating & set(names):
        return []
    which = f"{_TITLES.get(engine, engine)} {known.version}"
    said = " or ".join(names)
    if known.drafts & set(names):
        raise UsageError(
            f"{facts.model} is a draft for speculative decoding ({said}), not a model to serve",
            hint="serve the model that it drafts for",
        )
    if known.pooling & set(names) or all(name.endswith(_POOLING) for name in names):
        return [f"{facts.model} gives embeddings or scores ({said}): it will start, and answer no chat"]
    if known.fallback & set(names):
        return [f"{which} has no code of its own for {said}; it runs the slower code of the transformers library"]
    if facts.remote_code:
        return [f"{which} doesn't know {said}; it may run with the repository's own code: -- --trust-remote-code"]
    raise UsageError(
        f"{which} can't serve {facts.model}: it doesn't know {said}", hint=_elsewhere(names, engine, known)
    )


def _elsewhere(names: tuple[str, ...], engine: str, known: Architectures) -> str:
    """What could serve it: another engine, an older or a newer version."""
    other = architectures(_OTHER.get(engine, ""))
    if other and other.generating & set(names):
        return f"use --engine {other.engine}, whose {other.version} serves it"
    last = next((known.former[name] for name in names if name in known.former), "")
    if last:
        return f"{known.engine} served it up to {last}: name that version's image by --image"
    return f"name a newer image by --image, if a newer {_TITLES.get(engine, engine)} serves it"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
