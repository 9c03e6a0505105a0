"""How much a model shall reason: from one word to what its family and its engine understand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gpuserve import engines
from gpuserve.catalog.shapes import FamilyFacts, family_of
from gpuserve.engines.base import Reasons
from gpuserve.errors import UsageError

#: What ``--reasoning-effort`` takes.
EFFORTS = ("none", "low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Effort:
    """What to add to a request's body, and a sentence for a person where that isn't quite what was asked for."""

    body: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    note: str = ""


def effort_for(engine_name: str, model: str, effort: str | None) -> Effort:
    """What a request for ``model`` on this engine needs so that it reasons with ``effort``; nothing for None.

    A model of no known family is asked in the engine's own way.

    Raises:
        UsageError: an unknown effort, an engine that can't be told, or a model that can't do it; says what it can.
    """
    if effort is None:
        return Effort()
    if effort not in EFFORTS:
        raise UsageError(f"unknown reasoning effort {effort!r}", hint="one of " + ", ".join(EFFORTS))
    engine = engines.load(engine_name)
    if not isinstance(engine, Reasons):
        raise UsageError(f"{engine_name} can't be told how much to reason", hint="leave --reasoning-effort out")
    family = family_of(model)
    if family is None:
        return Effort(engine.reasoning_body(effort))
    if family.reasoning_default == "none":
        return Effort(note="" if effort == "none" else f"{model} doesn't reason: --reasoning-effort changes nothing")
    if effort == "none":
        return _off(engine, family, model, family.engine(engine_name).switch)
    return _on(engine, family, model, effort, family.engine(engine_name).switch)


def opens_thinking(model: str) -> bool:
    """Whether the model always thinks, in which case its template writes the opening mark into the prompt."""
    family = family_of(model)
    return family is not None and family.reasoning_default == "always"


def _off(engine: Reasons, family: FamilyFacts, model: str, switch: str) -> Effort:
    if family.reasoning_default == "always":
        raise UsageError(f"{model} always reasons", hint="give it room: --max-tokens of some thousands")
    if family.budget_variable and "none" in family.efforts:
        return Effort({"chat_template_kwargs": {family.budget_variable: int(family.efforts["none"])}})
    if family.thinking_variable:
        return Effort(_body(engine, "none", {family.thinking_variable: False}))
    if family.reasoning_default == "off":
        return Effort()
    if family.efforts:
        least = next(iter(family.efforts))
        raise UsageError(f"{model} always reasons", hint=f"the least is --reasoning-effort {least}")
    raise _by_other_means(model, switch)


def _on(engine: Reasons, family: FamilyFacts, model: str, effort: str, switch: str) -> Effort:
    word = family.efforts.get(effort, "")
    if family.budget_variable and word:
        note = f"{model} may think for {word} tokens"
        return Effort({"chat_template_kwargs": {family.budget_variable: int(word)}}, note)
    variables = {family.thinking_variable: True} if family.thinking_variable else {}
    if family.efforts:
        note = "" if word == effort else f"{model} has no {effort!r}: it reasons with {word!r}"
        return Effort(_body(engine, word, variables, exact=word not in EFFORTS), note)
    if variables:
        return Effort(_body(engine, effort, variables), f"{model} has no levels of reasoning: it reasons")
    if family.reasoning_default == "off":
        raise _by_other_means(model, switch)
    return Effort(note=f"{model} has no levels of reasoning: it reasons as it always does")


def _body(
    engine: Reasons, effort: str, variables: Mapping[str, object], *, exact: bool = False
) -> Mapping[str, object]:
    """The engine's own way to say ``effort``, and the template's variables; ``exact``: a word of the model's own."""
    body = dict(engine.reasoning_body("high" if exact else effort))
    given = body.get("chat_template_kwargs")
    merged = {**(given if isinstance(given, Mapping) else {}), **variables}
    if exact:
        if "reasoning_effort" in body:
            body["reasoning_effort"] = effort
        if "reasoning_effort" in merged:
            merged["reasoning_effort"] = effort
    return {**body, **({"chat_template_kwargs": merged} if merged else {})}


def _by_other_means(model: str, switch: str) -> UsageError:
    if switch:
        return UsageError(f"a request can't switch the reasoning of {model}", hint=f"it is switched by {switch}")
    return UsageError(f"nothing is known that switches the reasoning of {model}", hint="leave --reasoning-effort out")
