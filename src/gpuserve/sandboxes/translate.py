"""Daytona's errors become ours, here and nowhere else.

The SDK's classes are told apart first, then what the platform says in words: capacity and quota come as
plain 400s. Texts as in Daytona's server v0.190 and the SDK 0.226.1.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gpuserve.errors import (
    BootFailed,
    Conflict,
    GpuserveError,
    NetworkError,
    NoCapacity,
    NotAuthenticated,
    NotFound,
    PlatformError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
    UsageError,
)

_PREFIX = re.compile(r"^(?:Failed? (?:to|during)|Failure during) [^:]{3,60}: ")
_CAPACITY = re.compile(r"no available runners|no runner", re.IGNORECASE)
_QUOTA = re.compile(
    r"limit exceeded|exceeds maximum allowed|not permitted in this region|no gpu types are allowed", re.IGNORECASE
)
T = TypeVar("T")
#: Statuses of a gateway that got no answer in time: the SDK takes them for a deadline of the caller's.
_GATEWAY_TIMEOUTS = (408, 504)
#: Seconds within which one short call of the platform, or of a sandbox, must be answered.
CALL_TIMEOUT = 20
#: Seconds before something is asked again, at first and at most.
_PAUSE, _LONGEST_PAUSE = 0.25, 4.0
_NO_CONNECTION = ("NewConnectionError", "ConnectTimeoutError")
_TRANSPORT = ("MaxRetryError", "ProtocolError", "NewConnectionError", "ConnectionError", "OSError", "HTTPError")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Runs a block that talks to Daytona; ``doing`` completes "while …" for the message."""
    from daytona.common.errors import DaytonaError

    try:
        yield
    except DaytonaError as error:
        raise translate(error, doing) from error


def repeated(call: Callable[[], T], *, patience: float) -> T:
    """The result of ``call``, asked again for ``patience`` seconds while the platform fails or can't be reached.

    Only for what may be done twice. A ``Retry-After`` is waited for if it ends within the patience.

    Raises:
        NetworkError, PlatformError: the last one. Other errors are raised at once.
    """
    deadline = time.monotonic() + patience
    pause = _PAUSE
    while True:
        try:
            return call()
        except (NetworkError, PlatformError) as error:
            wait = max(pause, retry_after(error.__cause__))
            if time.monotonic() + wait > deadline:
                raise
        time.sleep(wait)
        pause = min(pause * 2, _LONGEST_PAUSE)


def retry_after(error: object) -> float:
    """The seconds that an answer's ``Retry-After`` asks for; 0 without one, or where it is a date."""
    headers = getattr(error, "headers", None) or {}
    text = next((str(value) for name, value in headers.items() if name.lower() == "retry-after"), "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def translate(error: Exception, doing: str) -> GpuserveError:
    """Our error for one of the SDK's."""
    from daytona.common import errors as sdk

    said = _said(error)
    message = f"{said} (while {doing})"
    if isinstance(error, sdk.DaytonaBadRequestError | sdk.DaytonaUnprocessableEntityError):
        return _bad_request(said, message)
    if isinstance(error, sdk.DaytonaForbiddenError):
        return NotAuthenticated(message, hint="check the key's permissions and the organisation's regions and quotas")
    if isinstance(error, sdk.DaytonaAuthenticationError):
        return NotAuthenticated(
            f"Daytona refuses the API key (while {doing})", hint="set DAYTONA_API_KEY to a valid key, or use --local"
        )
    if isinstance(error, sdk.DaytonaRateLimitError):
        wait = retry_after(error)
        return RateLimited(message, hint=f"try again in {wait:.0f} s" if wait else "try again in a minute")
    if getattr(error, "status_code", None) in _GATEWAY_TIMEOUTS:
        return PlatformError(message, hint="try again; --debug shows the whole error")
    for kind, build in _by_class(sdk):
        if isinstance(error, kind):
            return build(message)
    if _is_transport(error):
        why = _unreached(error) or said
        return NetworkError(f"Daytona can't be reached (while {doing}): {why}", hint="check the network and try again")
    return PlatformError(message, hint="try again; --debug shows the whole error")


def _by_class(sdk: object) -> tuple[tuple[type, type[GpuserveError]], ...]:
    rows = (
        ("DaytonaQueueTimeoutError", NoCapacity),
        ("DaytonaSpotEvictedError", BootFailed),
        ("DaytonaNotFoundError", NotFound),
        ("DaytonaGoneError", NotFound),
        ("DaytonaConflictError", Conflict),
        ("DaytonaConnectionTimeoutError", NetworkError),
        ("DaytonaTimeoutError", TimedOut),
        ("DaytonaConnectionError", NetworkError),
    )
    return tuple((getattr(sdk, name), build) for name, build in rows)


def _bad_request(said: str, message: str) -> GpuserveError:
    if _CAPACITY.search(said):
        return NoCapacity(message, hint="try again later, or name more types: --gpu H100,RTX-PRO-6000,H200")
    if _QUOTA.search(said):
        return QuotaExceeded(message, hint="delete what is not needed (gpuserve status), or ask for a higher limit")
    return UsageError(message)


def _said(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    while (shorter := _PREFIX.sub("", text)) != text:
        text = shorter
    return text.splitlines()[0][:500]


def never_sent(error: BaseException | None) -> bool:
    """Whether the request failed before a byte of it left: no connection came about, so it can have done nothing."""
    failed = _gave_up(error)
    return failed is not None and any(kind.__name__ in _NO_CONNECTION for kind in type(failed.reason).__mro__)


def _gave_up(error: BaseException | None) -> Any | None:
    """urllib3's MaxRetryError among the causes, with ``reason`` and ``pool``."""
    return next((one for one in _chain(error) if type(one).__name__ == "MaxRetryError"), None)


def _unreached(error: BaseException) -> str:
    """What kept a connection from coming about, without urllib3's names for it; "" where that isn't known."""
    failed = _gave_up(error)
    if failed is None or not never_sent(error):
        return ""
    root = next((one for one in _chain(failed.reason) if isinstance(one, OSError) and one.strerror), None)
    said = root.strerror if root is not None else "no connection in time"
    return f"{failed.pool.host}:{failed.pool.port}: {said}"


def _is_transport(error: BaseException) -> bool:
    """Whether the chain of causes holds a transport error: the sync SDK hides urllib3's in a plain DaytonaError."""
    return any(kind.__name__ in _TRANSPORT for one in _chain(error) for kind in type(one).__mro__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
