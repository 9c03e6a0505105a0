"""What went wrong at the Hub, in our words.

The Hub says what it means in the header ``X-Error-Code``; the status alone misleads: without a token it answers 401
for a repository that doesn't exist. The library's own classes of errors depend on ``https`` and on its version, so the
answer itself is read here. Nothing that a server wrote is repeated: it might repeat the token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuserve.catalog.hubfacts import HubSilence, model_id, shown
from gpuserve.errors import GpuserveError, NotAuthenticated, NotFound, UsageError
from gpuserve.redaction import shown_url

#: The Hub itself, when neither a caller nor HF_ENDPOINT says otherwise.
PUBLIC_HUB = "https://huggingface.co"

_CODES = {"RepoNotFound": "missing", "RevisionNotFound": "revision", "GatedRepo": "gated", "EntryNotFound": "entry"}
_DISABLED = "Access to this resource is disabled."
_REF = re.compile(r"[\w./+-]{1,100}", re.ASCII)
_SECONDS = re.compile(r"(?:^|[;,\s])t=(\d{1,6})(?:$|[;,\s])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of which Hub. ``model`` is without a quantisation, ``endpoint`` without a slash at its end."""

    model: str
    revision: str
    endpoint: str
    token: str = field(repr=False)

    @property
    def page(self) -> str:
        """The model's page, for a person."""
        return shown_url(f"{self.endpoint}/{self.model}")

    @property
    def token_page(self) -> str:
        """Where a person's tokens are made and changed."""
        return shown_url(f"{self.endpoint}/settings/tokens")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request failed.

    ``kind``: "missing", "revision", "gated", "entry", "bad_token", "forbidden", "disabled", "name" (no ID that the Hub
    could have), or "silent", which carries the ``silence``. ``status`` is that of HTTP; ``said`` is what the
    server wrote, to be looked at and never shown.
    """

    kind: str
    status: int = 0
    said: str = field(default="", repr=False)
    silence: HubSilence = field(default_factory=lambda: HubSilence(""))


def read(error: Exception, asked: Asked) -> Fault:
    """What ``error``, raised by the Hub's library or on the way to it, means."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):
        return _unanswered(error, asked)
    headers = getattr(response, "headers", {})
    code, said = str(headers.get("X-Error-Code", "")), str(headers.get("X-Error-Message", ""))
    if said == _DISABLED:
        return Fault("disabled", status)
    if code in _CODES:
        return Fault(_CODES[code], status, said)
    if status in (401, 403):
        return _refused(status, said, asked)
    if status == 404 and asked.endpoint == PUBLIC_HUB:
        return Fault("missing", status)
    return Fault("silent", status, silence=_no_answer(status, headers, asked))


def _refused(status: int, said: str, asked: Asked) -> Fault:
    """For a 401 or 403 without a code."""
    if status == 401:
        if asked.token:
            return Fault("bad_token", status)
        return Fault("missing" if asked.endpoint == PUBLIC_HUB else "forbidden", status)
    if said:
        return Fault("forbidden", status, said)
    where = shown_url(asked.endpoint)
    return Fault("silent", status, silence=HubSilence(f"something before {where} answers with status 403"))


def _no_answer(status: int, headers: Mapping[str, str], asked: Asked) -> HubSilence:
    where = shown_url(asked.endpoint)
    if status == 429:
        after, found = headers.get("Retry-After", ""), _SECONDS.search(headers.get("RateLimit", ""))
        wait = found[1] if found else after if after.isascii() and after.isdigit() and len(after) < 7 else ""
        again = f"; it takes requests again in {wait} s" if wait else ""
        return HubSilence(f"{where} answers no more requests for now (status 429){again}", "rate_limited")
    if status >= 500 or status == 408:
        return HubSilence(f"{where} is in trouble (status {status})", "down")
    return HubSilence(f"{where} answers as no Hub does (status {status}); is HF_ENDPOINT right?")


def _unanswered(error: Exception, asked: Asked) -> Fault:
    """For an error without an answer. By name, since the library's HTTP client depends on its version."""
    names = {kind.__name__ for kind in type(error).__mro__}
    where = shown_url(asked.endpoint)
    if "HFValidationError" in names:
        return Fault("name")
    if "OfflineModeIsEnabled" in names:
        return Fault("silent", silence=HubSilence("HF_HUB_OFFLINE is set", "offline"))
    if names & {"TimeoutError", "TimeoutException"}:
        return Fault("silent", silence=HubSilence(f"{where} didn't answer in time", "timed_out"))
    if names & {"ConnectError", "NetworkError", "ConnectionError", "ProxyError"}:
        return Fault("silent", silence=HubSilence(f"{where} can't be reached", "unreachable"))
    return Fault("silent", silence=HubSilence(f"{where} gave an answer that can't be read ({type(error).__name__})"))


def refusal(fault: Fault, asked: Asked, *, gated: str = "", near: Sequence[str] = ()) -> GpuserveError:
    """The error for a fault that isn't silence. ``near`` are models, or for a revision branches and tags."""
    if fault.kind == "revision":
        return NotFound(f"{asked.model} has no revision {shown(asked.revision)!r}", hint=_revisions(near, asked))
    if fault.kind == "gated":
        return _gated(fault, asked, gated)
    if fault.kind == "bad_token":
        hint = f"set HF_TOKEN to a token that is alive ({asked.token_page}), or leave it out for a public model"
        return NotAuthenticated("the Hub refuses the HF_TOKEN: it is mistyped, expired or revoked", hint=hint)
    if fault.kind == "forbidden":
        return _forbidden(asked)
    if fault.kind == "disabled":
        return NotFound(f"the Hub has disabled {asked.model}", hint=f"see {asked.page}, or choose another model")
    if fault.kind == "name":
        return UsageError(f"{asked.model!r} can't be the ID of a model", hint="write one such as openai/gpt-oss-20b")
    return _missing(asked, near)


def _missing(asked: Asked, near: Sequence[str]) -> NotFound:
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    if asked.token:
        hint = f"{meant}A private repository needs an HF_TOKEN of an account that may read it"
        return NotFound(f"the Hub has no model {asked.model}, or hides it from this HF_TOKEN", hint=hint)
    hint = f"{meant}For a private repository set HF_TOKEN; without one the Hub doesn't tell missing from private"
    return NotFound(f"the Hub has no public model {asked.model}", hint=hint)


def _revisions(near: Sequence[str], asked: Asked) -> str:
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"leave --revision out for the newest, or choose one from {asked.page}/tree/main"


def _gated(fault: Fault, asked: Asked, gated: str) -> NotAuthenticated:
    by_hand = "; its owners look at each request by hand" if gated == "manual" else ""
    if not asked.token:
        return NotAuthenticated(
            f"{asked.model} is gated: only accounts that accepted its terms can download it",
            hint=f"accept the terms at {asked.page} and set HF_TOKEN to a token of that account{by_hand}",
        )
    said = fault.said.lower()
    if "fine-grained" in said:
        return NotAuthenticated(
            f"this HF_TOKEN may not read gated models, and {asked.model} is one",
            hint=f"allow it to read public gated repositories at {asked.token_page}",
        )
    if "awaiting" in said:
        return NotAuthenticated(
            f"{asked.model} is gated, and the request of this HF_TOKEN's account waits for its owners",
            hint=f"wait for them; {asked.page} shows the state",
        )
    if "rejected" in said:
        return NotAuthenticated(
            f"{asked.model} is gated, and its owners rejected the request of this HF_TOKEN's account",
            hint="use the token of another account, or choose another model",
        )
    return NotAuthenticated(
        f"{asked.model} is gated, and the account of this HF_TOKEN has no access to it",
        hint=f"accept the terms with that account at {asked.page}{by_hand}",
    )


def _forbidden(asked: Asked) -> NotAuthenticated:
    if asked.token:
        return NotAuthenticated(
            f"this HF_TOKEN may not read {asked.model}", hint=f"widen its permissions at {asked.token_page}"
        )
    where = shown_url(asked.endpoint)
    return NotAuthenticated(f"{where} shows {asked.model} to nobody without a token", hint="set HF_TOKEN")


def closest(wanted: str, names: Iterable[str], n: int = 3) -> list[str]:
    """Up to ``n`` of ``names`` that are written nearly like ``wanted``, the closest first; not ``wanted`` itself."""
    from difflib import SequenceMatcher

    def likeness(name: str) -> float:
        whole = SequenceMatcher(None, wanted.lower(), name.lower()).ratio()
        tail, other = wanted.rpartition("/")[2].lower(), name.rpartition("/")[2].lower()
        return max(whole, 0.95 * SequenceMatcher(None, tail, other).ratio())

    rated = {name: likeness(name) for name in dict.fromkeys(names) if name != wanted}
    least = max(0.7, max(rated.values(), default=0) - 0.06)  # beside a near miss, far ones only distract
    return [name for name in sorted(rated, key=lambda name: -rated[name]) if rated[name] >= least][:n]


def is_ref(name: object) -> bool:
    """Whether ``name`` is one that a branch or tag can have, fit to be shown."""
    return isinstance(name, str) and bool(_REF.fullmatch(name))


def known_near(model: str, found: Iterable[object]) -> list[str]:
    """Models called nearly like ``model``, from the catalogue and from what the Hub's search ``found``."""
    from gpuserve.catalog.shapes import near

    return closest(model, [*near(model), *filter(None, map(model_id, found))])
