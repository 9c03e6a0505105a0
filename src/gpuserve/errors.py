"""Every error that gpuserve raises on purpose.

The tree, with the machine-readable code and the exit status of each class:

    GpuserveError                                    error                1
    ├── UsageError            bad input              usage                2
    │   └── ConfigError       unreadable settings    config               2
    ├── NotAuthenticated      no key, refused key    not_authenticated    3
    ├── NotFound              no such deployment     not_found            4
    ├── Conflict              name or state taken    conflict             5
    ├── NoCapacity            no free GPU            no_capacity          6   retryable
    │   └── QuotaExceeded     organisation's limit   quota                7   retryable
    ├── DoesNotFit            model against GPU      does_not_fit         8
    ├── BootFailed            the engine died        boot_failed          9
    ├── TimedOut              a deadline passed      timed_out           10
    ├── EngineError           a live engine's error  engine_error        11
    │   └── BadReply          no usable answer       bad_reply           15
    ├── NetworkError          nobody answered        network             12   retryable
    ├── PlatformError         Daytona's own failure  platform_error      13   retryable
    │   └── RateLimited       too many requests      rate_limited        14   retryable
    └── Interrupted           Ctrl-C, SIGTERM        interrupted        130

Known errors reach the user as one line of what happened, one of what to type next, and the
exit status; only ``--debug`` shows a traceback. The table in the README is tested against this tree.
"""

from __future__ import annotations

from typing import ClassVar


class GpuserveError(Exception):
    """Base of all errors that gpuserve raises on purpose.

    ``message`` says what happened and why, ``hint`` what to type or do next. ``code`` and
    ``exit_status`` belong to the class and are part of the command line's contract.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, object]:
        """The error as ``--json`` prints it."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "retryable": self.retryable}


class UsageError(GpuserveError):
    """Input that can't be right: nothing was started and nothing was paid for."""

    code = "usage"
    exit_status = 2


class ConfigError(UsageError):
    """A settings file or variable that can't be read or makes no sense."""

    code = "config"


class NotAuthenticated(GpuserveError):
    """No API key, or one that the platform refuses."""

    code = "not_authenticated"
    exit_status = 3


class NotFound(GpuserveError):
    """No deployment, sandbox or region of that name."""

    code = "not_found"
    exit_status = 4


class Conflict(GpuserveError):
    """The name is taken, the state forbids it, or an ID prefix is ambiguous."""

    code = "conflict"
    exit_status = 5


class NoCapacity(GpuserveError):
    """The platform has no free GPU of the kinds asked for."""

    code = "no_capacity"
    exit_status = 6
    retryable = True


class QuotaExceeded(NoCapacity):
    """The organisation's own limit is reached."""

    code = "quota"
    exit_status = 7


class DoesNotFit(GpuserveError):
    """The model can't be served on the GPU that was asked for."""

    code = "does_not_fit"
    exit_status = 8


class BootFailed(GpuserveError):
    """The engine or its sandbox died before it was ready.

    ``log_file`` is where the engine's whole output was saved ("" if there was none).
    """

    code = "boot_failed"
    exit_status = 9

    def __init__(self, message: str, *, hint: str = "", log_file: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log_file = log_file

    def as_dict(self) -> dict[str, object]:
        return {**super().as_dict(), "log_file": self.log_file}


class TimedOut(GpuserveError):
    """A deadline that the user or gpuserve set has passed."""

    code = "timed_out"
    exit_status = 10


class EngineError(GpuserveError):
    """A live engine answered with an error, or with something that isn't an answer."""

    code = "engine_error"
    exit_status = 11


class BadReply(EngineError):
    """The model answered, and the answer is of no use: empty, cut, a refusal, or not what was asked for.

    ``reply`` is the answer as it came.
    """

    code = "bad_reply"
    exit_status = 15

    def __init__(self, message: str, *, hint: str = "", reply: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reply = reply

    def as_dict(self) -> dict[str, object]:
        return {**super().as_dict(), "reply": self.reply}


class NetworkError(GpuserveError):
    """Nobody answered: refused, reset, unresolvable, or silent for too long."""

    code = "network"
    exit_status = 12
    retryable = True


class PlatformError(GpuserveError):
    """Daytona itself failed, or answered in a way gpuserve doesn't know."""

    code = "platform_error"
    exit_status = 13
    retryable = True


class RateLimited(PlatformError):
    """Too many requests in a short time."""

    code = "rate_limited"
    exit_status = 14


class Interrupted(GpuserveError):
    """Stopped by Ctrl-C or a termination signal."""

    code = "interrupted"
    exit_status = 130
