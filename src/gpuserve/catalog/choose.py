"""Which GPU to take for a model; and where none will do, what would."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from gpuserve.catalog.facts import GpuSpec, ModelShape
from gpuserve.catalog.fit import LEAST_CONTEXT, Fit, estimate
from gpuserve.catalog.shapes import gpu, gpus, shapes
from gpuserve.errors import DoesNotFit

#: Tried first where the user names neither GPU types nor prices: what both guides use and the platform is known to
#: offer. The rest follow by growing memory.
FIRST = ("H100", "RTX-PRO-6000")

#: Words at the end of a model's name that say how its weights are stored.
_STORED = re.compile(
    r"[-_.](?:fp8|nvfp4|mxfp4|awq|gptq|int[48]|w[48]a(?:4|8|16)|bf16|fp16|[48]bit|dynamic|block|quantized|gguf)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What fits, what doesn't and, where nothing does, what would.

    ``options`` are the fits in the order to try them; ``refused`` the rest, one a GPU type, with the most GPUs that
    were allowed. Where there are no options: ``siblings`` are fits of the same model with smaller weights on the types
    asked for, ``bigger`` fits of the model on other types, ``more`` a fit on more GPUs than were allowed, ``shorter``
    a fit with a shorter context than was asked for.
    """

    model: str
    engine: str
    options: tuple[Fit, ...]
    refused: tuple[Fit, ...]
    siblings: tuple[Fit, ...] = ()
    bigger: tuple[Fit, ...] = ()
    more: Fit | None = None
    shorter: Fit | None = None

    @property
    def best(self) -> Fit | None:
        """The first option; None if nothing fits."""
        return self.options[0] if self.options else None

    @property
    def together(self) -> tuple[Fit, ...]:
        """The options that one request can name together: as many GPUs each as the best, and flags that agree."""
        chosen: list[Fit] = []
        flags: dict[str, str] = {}
        for option in self.options:
            own = _pairs(option.flags)
            same = option.gpu_count == self.options[0].gpu_count
            if same and all(flags.get(name, value) == value for name, value in own.items()):
                flags |= own
                chosen.append(option)
        return tuple(chosen)

    @property
    def types(self) -> tuple[str, ...]:
        """The GPU types of ``together``, in order."""
        return tuple(option.gpu for option in self.together)

    @property
    def flags(self) -> tuple[str, ...]:
        """The engine's flags with which the model fits on each of ``types``."""
        merged: dict[str, str] = {}
        for option in self.together:
            merged |= _pairs(option.flags)
        return tuple(part for pair in merged.items() for part in pair)

    @property
    def env(self) -> Mapping[str, str]:
        """The engine's environment with which the model fits on each of ``types``."""
        merged: dict[str, str] = {}
        for option in self.together:
            merged |= option.env
        return merged


def choose(
    shape: ModelShape,
    engine: str,
    *,
    types: Sequence[str] = (),
    prices: Mapping[str, float] | None = None,
    max_count: int = 1,
    least_count: int = 1,
    context: int | None = None,
    concurrency: int | None = None,
    weight_gib: float | None = None,
) -> Choice:
    """The GPU types on which ``shape`` fits, in the order to try them.

    ``types`` are those that may be taken, in order of preference (none: all that the stock images run on); ``prices``
    the user's own, for an hour of one GPU, in any currency. Priced types come first, the cheapest first; then the
    order of ``types``, or where none are named ``FIRST`` and the rest by memory. ``least_count`` to ``max_count`` GPUs
    in one sandbox are planned, as tensor parallel, each number twice the one before, each type with the fewest that
    do. For ``context``, ``concurrency`` and ``weight_gib`` see ``estimate``.

    Raises:
        UsageError: an engine without arithmetic, or a figure out of range.
        KeyError: an unknown GPU type.
    """
    asked = _Asked(engine, context, concurrency, least_count)
    allowed = [gpu(name) for name in types] or _default_order()
    tried = [asked.smallest(shape, spec, max_count, weight_gib) for spec in allowed]
    options = sorted((fit for fit in tried if fit.fits), key=lambda fit: _rank(fit, prices or {}))
    refused = tuple(fit for fit in tried if not fit.fits)
    if options:
        return Choice(model=shape.hf, engine=engine, options=tuple(options), refused=refused)
    named = {spec.name for spec in allowed}
    others = [spec for spec in _default_order() if spec.name not in named]
    shorter = replace(asked, context=None) if (context or 0) > LEAST_CONTEXT else None
    return Choice(
        model=shape.hf,
        engine=engine,
        options=(),
        refused=refused,
        siblings=_first_fits(asked, siblings(shape), allowed, max_count),
        bigger=tuple(
            sorted(_fitting(asked.smallest(shape, spec, max_count, weight_gib) for spec in others), key=_size)
        ),
        more=next(iter(_fitting(asked.smallest(shape, spec, 8, weight_gib) for spec in allowed)), None),
        shorter=next(iter(_fitting(shorter.smallest(shape, spec, max_count, weight_gib) for spec in allowed)), None)
        if shorter
        else None,
    )


def siblings(shape: ModelShape) -> tuple[ModelShape, ...]:
    """The same model in smaller weights, as the catalogue knows them: FP8, NVFP4, AWQ and so on; the biggest first."""
    base = base_name(shape.hf)
    same = (other for other in shapes() if other.hf != shape.hf and base_name(other.hf) == base)
    smaller = (other for other in same if other.weight_gib < shape.weight_gib)
    return tuple(sorted(smaller, key=lambda other: -other.weight_gib))


def base_name(model_id: str) -> str:
    """A model's name without its owner and without what says how its weights are stored, in small letters."""
    name = model_id.rpartition("/")[2].lower().replace("_", ".")
    while _STORED.search(name):
        name = _STORED.sub("", name)
    return name


def does_not_fit(choice: Choice) -> DoesNotFit:
    """The error that says why ``choice`` has no option, and what to do instead. The caller raises it."""
    why = " ".join(dict.fromkeys(fit.reasons[0] for fit in _nearest(choice.refused)))
    hints = list(_hints(choice))
    hints.append("--force starts it all the same")
    return DoesNotFit(f"{choice.model} doesn't fit with {choice.engine}. {why}".strip(), hint="; or ".join(hints))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What every estimate of one choice has in common."""

    engine: str
    context: int | None
    concurrency: int | None
    least: int

    def smallest(self, shape: ModelShape, spec: GpuSpec, max_count: int, weight_gib: float | None = None) -> Fit:
        """The fit with the fewest GPUs; if none fits, the one with the most."""
        doublings = max(max_count // self.least, 1).bit_length()
        counts = [self.least * 2**power for power in range(doublings)]
        fits = (
            estimate(
                shape,
                spec,
                self.engine,
                gpu_count=count,
                context=self.context,
                concurrency=self.concurrency,
                weight_gib=weight_gib,
            )
            for count in counts
        )
        last: Fit | None = None
        for fit in fits:
            last = fit
            if fit.fits:
                break
        assert last is not None, "there is at least one count"
        return last


def _default_order() -> list[GpuSpec]:
    """All types that the stock images run on: ``FIRST``, then by growing memory."""
    stock = [spec for spec in gpus() if spec.arch.startswith("sm")]
    return [gpu(name) for name in FIRST] + [spec for spec in stock if spec.name not in FIRST]


def _rank(fit: Fit, prices: Mapping[str, float]) -> tuple[int, float]:
    """Priced types by what they cost in all, then the rest by how many GPUs they take; equal ones keep their order."""
    price = prices.get(fit.gpu)
    return (1, float(fit.gpu_count)) if price is None else (0, price * fit.gpu_count)


def _size(fit: Fit) -> float:
    return gpu(fit.gpu).memory_mib * fit.gpu_count


def _fitting(fits: Iterable[Fit]) -> list[Fit]:
    return [fit for fit in fits if fit.fits]


def _first_fits(
    asked: _Asked, models: Iterable[ModelShape], allowed: Sequence[GpuSpec], max_count: int
) -> tuple[Fit, ...]:
    """For each of ``models`` its first fit."""
    found = (_fitting(asked.smallest(model, spec, max_count) for spec in allowed) for model in models)
    return tuple(fits[0] for fits in found if fits)


def _pairs(flags: Sequence[str]) -> dict[str, str]:
    """Flags as name to value; all that the fit adds have one."""
    return {name: value for name, value in pairwise(flags) if name.startswith("--")}


def _nearest(refused: Sequence[Fit]) -> list[Fit]:
    """The refusal that misses least: one is enough to explain why."""
    return [max(refused, key=lambda fit: fit.margin_gib)] if refused else []


def _hints(choice: Choice) -> Iterable[str]:
    for fit in choice.siblings[:2]:
        yield f"--model {fit.model}, which fits on {_where(fit)}"
    for fit in choice.bigger[:1]:
        count = f" --gpu-count {fit.gpu_count}" if fit.gpu_count > 1 else ""
        yield f"--gpu {fit.gpu}{count}"
    if choice.shorter is not None:
        yield f"a context of at most {choice.shorter.max_context:,} tokens on {_where(choice.shorter)}"
    if choice.more is not None:
        yield f"--gpu {choice.more.gpu} --gpu-count {choice.more.gpu_count}, where the platform's quota allows it"


def _where(fit: Fit) -> str:
    return fit.gpu if fit.gpu_count == 1 else f"{fit.gpu_count}x {fit.gpu}"
