"""``gpuserve models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gpuserve.cli.command import Run, command

if TYPE_CHECKING:
    from gpuserve.serving.models import Known

EPILOG = (
    "Examples: gpuserve models · gpuserve models qwen3 · gpuserve models gpt-oss --json. "
    "With --json: {data: [{model, weight_gib, max_context, engines: {vllm: {gpu, tool_parser, …}}, …}]}."
)
COLUMNS = ("MODEL", "PARAMS", "WEIGHTS", "CONTEXT", "VLLM ON", "SGLANG ON", "TOOLS", "REASONING", "GATED")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, name="models", epilog=EPILOG)(models)


def models(
    run: Run, query: Annotated[str | None, typer.Argument(help="Part of a model's ID or family.")] = None
) -> None:
    """List known models: sizes, parsers, and the smallest GPU that each fits on.

    A model that isn't listed is served all the same: without parsers, and its size is read from the Hub.
    """
    from gpuserve.serving.models import known

    found = known(query or "")
    run.output.data([one.as_dict() for one in found])
    if not run.output.as_json:
        run.output.table(COLUMNS, [row(one) for one in found])


def row(one: Known) -> tuple[str, ...]:
    """One line of the table; parsers as vLLM names them."""
    shape, facts = one.shape, None if one.family is None else one.family.engine("vllm")
    size = f"{shape.params_b:g}B" if shape.params_b == shape.active_b else f"{shape.params_b:g}B/{shape.active_b:g}B"
    return (
        shape.hf,
        f"{size} {shape.precision}",
        f"{shape.weight_gib:.1f} GiB",
        f"{shape.max_context // 1024}k",
        *("-" if fit is None else fit.gpu for fit in one.fits.values()),
        (facts.tool_parser if facts else "") or "-",
        (facts.reasoning_parser if facts else "") or "-",
        one.family.gated if one.family else "unknown",
    )
