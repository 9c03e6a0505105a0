"""What can be known before a GPU is paid for: asked of the Hub and the platform at once, and judged.

``look`` asks; ``judged`` is pure: from a request and what was seen it decides GPUs and flags, or says why it can't be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from gpuserve import catalog
from gpuserve.catalog import hub, hubjudge
from gpuserve.catalog.choose import FIRST, Choice, choose, does_not_fit
from gpuserve.catalog.facts import GIB, ModelShape
from gpuserve.catalog.fit import PARALLEL, Fit, parallel_flags
from gpuserve.catalog.hub import HubFacts, HubSilence
from gpuserve.errors import QuotaExceeded, UsageError
from gpuserve.records import ModelFacts, ServeRequest
from gpuserve.sandboxes.manager import Place
from gpuserve.sandboxes.survey import PlatformFacts, survey
from gpuserve.serving.context import Context
from gpuserve.serving.defaults import LOCAL_MODEL, default_target
from gpuserve.serving.gpucount import MOST_GPUS, check_count, spread_by_user

#: GPU types that one create request names where the user named none: the platform takes the first that is free.
MOST_TYPES = 2
_NO_PRICES: Mapping[str, float] = MappingProxyType({})
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Seen:
    """What was asked and answered. None: not asked."""

    hub: HubFacts | HubSilence | None = None
    platform: PlatformFacts | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How a request is judged: where it runs, what the user left open, what they insist on, what GPUs cost them."""

    place: str
    any_gpu: bool = False
    any_count: bool = True
    force: bool = False
    prices: Mapping[str, float] = field(default_factory=lambda: _NO_PRICES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The request with its GPUs decided, the engine's facts with the flags that make it fit, and the reasons."""

    request: ServeRequest
    facts: ModelFacts
    fit: Fit | None
    notes: tuple[str, ...]


def look(request: ServeRequest, place: Place | None, *, hf_token: str, embedded: bool) -> Seen:
    """Asks the Hub about the model, and the platform (None: don't) about room for it, at the same time.

    Raises:
        NotFound, NotAuthenticated, UsageError: what the Hub says can't be served.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        platform = pool.submit(survey, place, request.target) if place is not None and request.gpus else None
        asked = None
        if not embedded and not request.model.startswith("/"):
            cache = hub.default_cache()
            endpoint = request.env.get("HF_ENDPOINT", "")
            asked = hub.look_up(
                request.model,
                revision=request.revision,
                token=request.env.get("HF_TOKEN", "") or hf_token,
                endpoint=endpoint,
                cache=cache,
                engine=request.engine,
            )
        return Seen(asked, platform.result() if platform is not None else None)


def checked(request: ServeRequest, context: Context) -> Seen:
    """As ``look``, for the places and settings of ``context``; nothing is asked about the embedded model.

    The platform is asked where there is one to ask: a dry run without a key asks the Hub alone.
    """
    local = context.only_local
    request = replace(request, target=request.target or default_target("local" if local else "daytona"))
    embedded = local and request.model == LOCAL_MODEL
    token = context.settings.hf_token.get_secret_value()
    return look(request, context.place_to_ask(), hf_token=token, embedded=embedded)


def judged(request: ServeRequest, seen: Seen, rules: Rules) -> Verdict:
    """Decides what the request leaves open.

    Raises:
        UsageError: the engine can't serve this model, or its repository holds nothing to serve.
        DoesNotFit: no GPU that may be taken holds it, and ``force`` is off.
        QuotaExceeded: the platform says that it would refuse.
    """
    notes: list[str] = []
    if not rules.force:
        check_count(request)
        _check_support(request)
    notes += _hub_notes(request, seen.hub)
    facts = catalog.lookup(request.model, request.engine, remote_code=rules.place == "daytona")
    request, allowed_notes = _allowed(request, seen.platform, rules)
    choice = _choice(request, seen, rules)
    if choice is not None and choice.best is None and not rules.force:
        raise does_not_fit(choice)
    if choice is None or choice.best is None:
        facts = _with_flags(facts, request, parallel_flags(request.engine, request.gpu_count if request.gpus else 1))
        why = "" if choice is None else f"{does_not_fit(choice).message} Started all the same, since --force was given."
        return Verdict(request, facts, None, _joined(facts.notes, notes, allowed_notes, why))
    several = choice.best.gpu_count > request.gpu_count
    request = _with_gpus(request, choice, rules)
    if several:
        notes.append(f"no single GPU holds it: planned as tensor parallel over {request.gpu_count}, within the quota")
    facts = _with_flags(facts, request, choice.flags, choice.env)
    platform_notes = _capacity_notes(request, seen.platform)
    return Verdict(
        request, facts, choice.best, _joined(facts.notes, notes, allowed_notes, *choice.best.reasons, *platform_notes)
    )


def _joined(*parts: Any) -> tuple[str, ...]:
    """All sentences, each once, in order; a part is one sentence or several."""
    said: list[str] = []
    for part in parts:
        said += [part] if isinstance(part, str) else list(part)
    return tuple(dict.fromkeys(sentence for sentence in said if sentence))


def _check_support(request: ServeRequest) -> None:
    trouble = None if request.image else catalog.unsupported(request.model, request.engine)
    if trouble is not None:
        raise UsageError(trouble.cause, hint=f"{trouble.remedy} --force starts it all the same.")


def _hub_notes(request: ServeRequest, seen: HubFacts | HubSilence | None) -> list[str]:
    if seen is None:
        return []
    if isinstance(seen, HubSilence):
        return [f"the model wasn't checked on the Hub: {seen.reason}"]
    known = None if request.image else hubjudge.architectures(request.engine)
    return [*seen.notes, *hubjudge.judge(seen, request.engine, known)]


def _allowed(request: ServeRequest, platform: PlatformFacts | None, rules: Rules) -> tuple[ServeRequest, list[str]]:
    """The request without GPU types that the platform would refuse; its warnings."""
    if platform is None or not request.gpus:
        return request, []
    notes = list(platform.warnings)
    if platform.regions and request.target and request.target not in platform.regions:
        notes.append(f"region {request.target} is not among those listed: {', '.join(platform.regions)}")
    if not rules.force:
        _check_quota(request, platform, rules)
    return request, notes


def _check_quota(request: ServeRequest, platform: PlatformFacts, rules: Rules) -> None:
    quota, used = platform.gpu_quota, platform.gpus_used or 0
    if quota is not None and used + request.gpu_count > quota:
        raise QuotaExceeded(
            f"the organisation's GPU limit is {quota:g}, and {used:g} are in use",
            hint="delete what is not needed (gpuserve status), or ask for a higher limit",
        )
    allowed = platform.allowed_gpus
    usable = allowed if rules.any_gpu else set(request.gpus) & set(allowed or ())
    if allowed is not None and not usable:
        offered = ", ".join(allowed) or "none"
        raise QuotaExceeded(
            f"none of {', '.join(request.gpus)} is allowed in this region (allowed: {offered})",
            hint=f"--gpu {allowed[0]}" if allowed else "choose another --target",
        )


def _capacity_notes(request: ServeRequest, platform: PlatformFacts | None) -> list[str]:
    if platform is None or platform.capacity is None:
        return []
    free = {gpu: platform.capacity[gpu].on_demand for gpu in request.gpus if gpu in platform.capacity}
    if any(free.values()):
        return []
    return [f"no {' or '.join(request.gpus)} is free now: the sandbox will wait for one"]


def _choice(request: ServeRequest, seen: Seen, rules: Rules) -> Choice | None:
    """The GPUs that hold the model; None where there is no GPU to choose, or nothing is known of the model's size."""
    shape = _shape(request, seen.hub)
    if shape is None or not request.gpus:
        return None
    exact = seen.hub.weight_for(request.engine) if isinstance(seen.hub, HubFacts) else 0
    try:
        return choose(
            shape,
            request.engine,
            types=_candidates(seen.platform) if rules.any_gpu else request.gpus,
            prices=rules.prices,
            max_count=_most_gpus(request, seen.platform, rules),
            least_count=request.gpu_count,
            weight_gib=exact / GIB if exact else None,
        )
    except UsageError:
        return None  # an engine of somebody else's: nothing is known of its memory


def _candidates(platform: PlatformFacts | None) -> tuple[str, ...]:
    """The types that the platform allows, those of the guides first; none where it names no limit: then all count."""
    allowed = () if platform is None or platform.allowed_gpus is None else platform.allowed_gpus
    by_memory = [spec.name for spec in catalog.shapes.gpus() if spec.name in allowed]
    return (*(gpu for gpu in FIRST if gpu in by_memory), *(gpu for gpu in by_memory if gpu not in FIRST))


def _most_gpus(request: ServeRequest, platform: PlatformFacts | None, rules: Rules) -> int:
    """How many GPUs one sandbox may get: as many as were asked for, or where nobody did, as the quota leaves free."""
    if (
        not (rules.any_gpu and rules.any_count)
        or request.gpu_count > 1
        or platform is None
        or platform.gpu_quota is None
    ):
        return request.gpu_count
    return max(1, min(MOST_GPUS, int(platform.gpu_quota - (platform.gpus_used or 0))))


def _shape(request: ServeRequest, seen: HubFacts | HubSilence | None) -> ModelShape | None:
    """The model's figures: the catalogue's, else those of its own configuration on the Hub."""
    name = request.model.partition(":")[0]
    known = catalog.shapes.shape_of(name)
    if known is not None or not isinstance(seen, HubFacts) or not seen.shape:
        return known
    params = (seen.parameters or 0) / 1e9
    return ModelShape(hf=seen.model, family="", params_b=params, active_b=params, **seen.shape)


def _with_gpus(request: ServeRequest, choice: Choice, rules: Rules) -> ServeRequest:
    assert choice.best is not None
    types = choice.types
    if rules.any_gpu and not rules.prices:
        first = tuple(gpu for gpu in types if gpu in FIRST)
        types = first or types[:MOST_TYPES]
    elif rules.any_gpu:
        types = types[:MOST_TYPES]
    return replace(request, gpus=types, gpu_count=choice.best.gpu_count)


def _with_flags(
    facts: ModelFacts, request: ServeRequest, added: Sequence[str], env: Mapping[str, str] = _NOTHING
) -> ModelFacts:
    """The facts with the flags and variables that make it fit, where neither the row nor the user sets them already."""
    flags, theirs = facts.flags, PARALLEL.values() if spread_by_user(request) else ()
    for name, value in zip(added[::2], added[1::2], strict=True):
        if name not in flags and name not in theirs:
            flags += (name, value)
    return replace(facts, flags=flags, env={**env, **facts.env})
