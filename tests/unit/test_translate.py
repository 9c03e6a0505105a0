"""The SDK's real error classes, and the platform's real sentences, become ours."""

import pytest
import urllib3
from daytona.common import errors as sdk

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
from gpuserve.sandboxes.translate import translate, translated

CASES: list[tuple[Exception, type[GpuserveError]]] = [
    (sdk.DaytonaAuthenticationError("Failed to get sandbox: Invalid credentials", status_code=401), NotAuthenticated),
    (sdk.DaytonaForbiddenError("Region x is not available to the organization", status_code=403), NotAuthenticated),
    (sdk.DaytonaNotFoundError("Sandbox with ID or name X not found", status_code=404), NotFound),
    (sdk.DaytonaConflictError("Sandbox with name X already exists", status_code=409), Conflict),
    (sdk.DaytonaRateLimitError("ThrottlerException: Too Many Requests", status_code=429), RateLimited),
    (sdk.DaytonaQueueTimeoutError("Sandbox X was destroyed after waiting 1 minutes for a runner"), NoCapacity),
    (sdk.DaytonaSpotEvictedError("Sandbox X was evicted"), BootFailed),
    (sdk.DaytonaTimeoutError("Failed to create sandbox: Function 'create' exceeded timeout of 5 seconds"), TimedOut),
    (sdk.DaytonaConnectionTimeoutError("read timed out"), NetworkError),
    (sdk.DaytonaConnectionError("connection refused"), NetworkError),
    (sdk.DaytonaInternalServerError("oops", status_code=500), PlatformError),
    (sdk.DaytonaBadGatewayError("", status_code=502), PlatformError),
    (sdk.DaytonaTimeoutError("Gateway Timeout", status_code=504), PlatformError),
    (sdk.DaytonaServiceUnavailableError("Service is currently under maintenance.", status_code=503), PlatformError),
    (sdk.DaytonaBadRequestError("No available runners with GPU type: H100.", status_code=400), NoCapacity),
    (sdk.DaytonaBadRequestError("Total GPU limit exceeded. Maximum allowed: 1.", status_code=400), QuotaExceeded),
    (sdk.DaytonaBadRequestError("No GPU types are allowed in this region.", status_code=400), QuotaExceeded),
    (sdk.DaytonaBadRequestError("expiresInSeconds must be between 1 second and 24 hours", status_code=400), UsageError),
    (sdk.DaytonaError("something new"), PlatformError),
]


@pytest.mark.parametrize(("error", "expected"), CASES, ids=lambda case: type(case).__name__ if case else "")
def test_each_kind(error: Exception, expected: type[GpuserveError]) -> None:
    assert type(translate(error, "testing")) is expected


def test_a_transport_error_hidden_in_a_plain_one_is_found() -> None:
    """The sync SDK wraps urllib3's MaxRetryError in a plain DaytonaError."""
    cause = urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("127.0.0.1", 1), "/", None)
    with pytest.raises(NetworkError, match="can't be reached"), translated("testing"):
        raise sdk.DaytonaError("Failed to list sandboxes: Max retries exceeded") from cause


def test_prefixes_are_taken_off_and_the_deed_is_named() -> None:
    error = sdk.DaytonaError(
        "Failed to create sandbox: Failure during waiting for sandbox to start: Sandbox 1 entered error state\nmore"
    )
    assert (
        translate(error, "creating the sandbox").message == "Sandbox 1 entered error state (while creating the sandbox)"
    )


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), translated("testing"):
        raise ZeroDivisionError
