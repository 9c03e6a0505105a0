"""What gpuserve knows of models: what an engine wants for a model, and what the model needs of a GPU.

``lookup`` and ``unsupported`` are about a model and an engine; ``shapes`` holds the look-ups of sizes and GPU types.
The rows are in the TOML files beside this one, and in the user's own ``catalog.toml``, which comes first.
"""

from __future__ import annotations

from dataclasses import replace

from gpuserve.catalog import book, rows, shapes
from gpuserve.catalog.facts import FamilyFacts
from gpuserve.catalog.rows import CONFIDENCES, REMOTE_CODE_FLAG
from gpuserve.catalog.shapes import family_of
from gpuserve.records import Diagnosis, ModelFacts

__all__ = [
    "CONFIDENCES",
    "REMOTE_CODE_FLAG",
    "families",
    "family_of",
    "lookup",
    "parse",
    "shapes",
    "supporting",
    "unsupported",
]

#: What the makers of an engine call it, for sentences; the catalogue knows an engine by its name only.
_TITLES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}


def lookup(model: str, engine: str, *, remote_code: bool = False) -> ModelFacts:
    """What ``engine`` wants for ``model``, from the first row that matches; empty facts if none does.

    ``remote_code`` asks for the flag that runs Python out of the model's repository, where the family needs it and the
    repository is one of its makers' own. Ask only where something other than the user's own machine isolates it. With
    or without, ``notes`` say what was done about it.

    Raises:
        ConfigError: the user's own catalogue can't be read.
    """
    family = family_of(model)
    if family is None:
        return ModelFacts()
    facts = family.engine(engine)
    flags = facts.flags + (family.owner_flags.get(engine, ()) if family.owns(model) else ())
    notes = list(facts.notes)
    if facts.remote_code:
        trusted = remote_code and family.owns(model)
        flags += (REMOTE_CODE_FLAG,) if trusted else ()
        notes.append(_remote_code_note(model, family, asked=remote_code, trusted=trusted))
    if facts.support == "untested":
        asked_for = f"; its recipe asks for {facts.minimum_version}" if facts.minimum_version else ""
        notes.append(f"{family.id} is untested with the version of {_title(engine)} that gpuserve uses{asked_for}.")
    if facts.packages:
        notes.append(
            f"{_title(engine)}'s image lacks {', '.join(facts.packages)}, which the parsers for {family.id} need."
        )
    return replace(facts, flags=flags, notes=tuple(notes))


def unsupported(model: str, engine: str) -> Diagnosis | None:
    """Why the pinned version of ``engine`` can't serve ``model``, and what can; None where nothing speaks against it.

    The remedy names a newer image where the version is known, and the engines that do have the architecture. It is
    the caller's to leave this out where the user named an image of their own.
    """
    family = family_of(model)
    if family is None or family.engine(engine).support != "none":
        return None
    version = family.engine(engine).minimum_version
    ways = [f"--image with {_title(engine)} {version} or newer"] if version else []
    ways += [f"--engine {other}" for other in supporting(model) if other != engine]
    cause = f"The version of {_title(engine)} that gpuserve uses doesn't know the architecture of {model}."
    return Diagnosis(cause, f"Use {' or '.join(ways)}." if ways else "Use an image of a newer version with --image.")


def supporting(model: str) -> tuple[str, ...]:
    """The engines whose pinned versions are known to serve ``model``; none for a model of no known family."""
    family = family_of(model)
    if family is None:
        return ()
    return tuple(name for name, facts in family.engines.items() if facts.support == "native")


def families() -> tuple[FamilyFacts, ...]:
    """The built-in rows, in the order in which they are tried."""
    return book.builtin().families


def parse(text: str, where: str) -> tuple[FamilyFacts, ...]:
    """The families in ``text``, a catalogue in TOML; ``where`` is what errors call it.

    Raises:
        ConfigError: no TOML, or a row with a wrong, missing or unknown field; the message names the row.
    """
    return rows.parse(text, where).families


def _title(engine: str) -> str:
    return _TITLES.get(engine, engine)


def _remote_code_note(model: str, family: FamilyFacts, *, asked: bool, trusted: bool) -> str:
    if trusted:
        return f"{REMOTE_CODE_FLAG} runs Python from the repository {model} in the sandbox: {family.id} needs it."
    why = (
        f"{model} is not its makers' own repository"
        if asked
        else "it would run the repository's Python on this machine"
    )
    return (
        f"{family.id} may need {REMOTE_CODE_FLAG}, left out since {why}; add it with --engine-arg={REMOTE_CODE_FLAG}."
    )
