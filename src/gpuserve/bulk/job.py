"""What one batch is: from which file to which, asked of whom, and how. Told as JSON to a runner in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gpuserve.errors import UsageError

#: The formats of an input; "" means by the file's name, then by its first line.
FORMS = ("openai", "jsonl", "csv", "tsv", "text")
ORDERS = ("input", "prefix")
OUTPUT_ORDERS = ("answered", "input")
#: Requests in flight for an engine that batches, and at most, where ``concurrency`` is 0 (adaptive).
START, MOST = 256, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One batch. ``timeout`` is in seconds without a byte; ``concurrency`` 0 means adaptive, beginning at ``start``.

    ``defaults`` go into the body of every chat request that doesn't set them itself. ``model`` is sent in the place of
    a row's own model unless ``keep_model``. ``headers`` hold credentials.
    """

    source: str
    output: str
    url: str
    model: str
    form: str = ""
    template: str = ""
    system: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    keep_model: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    concurrency: int = 0
    start: int = START
    order: str = "input"
    output_order: str = "answered"
    retry_failed: bool = False
    retries: int = 6
    timeout: float = 600.0
    stream: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.form, ("", *FORMS)),
            ("order", self.order, ORDERS),
            ("output order", self.output_order, OUTPUT_ORDERS),
        ):
            if value not in known:
                raise UsageError(f"unknown {name} {value!r}", hint="one of " + ", ".join(filter(None, known)))
        if self.concurrency < 0 or self.retries < 0 or not self.timeout > 0:
            raise UsageError("concurrency and retries can't be negative, nor a time-out nothing")

    def as_dict(self) -> dict[str, Any]:
        """All of it, credentials too, as ``from_dict`` takes it."""
        return asdict(self)


def from_dict(content: Mapping[str, Any]) -> Job:
    """The job that ``as_dict`` told; fields that this version doesn't know are left out."""
    known = {one.name for one in fields(Job)}
    return Job(**{name: value for name, value in content.items() if name in known})
