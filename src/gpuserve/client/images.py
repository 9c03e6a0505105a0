"""Images for a question: an address as it is, a file as a data address. The type is read from the content."""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from gpuserve.errors import UsageError

#: Bytes of one file; more is seldom sharper to a model, and proxies refuse large requests.
LARGEST = 20 << 20
_HINT = "give a PNG, JPEG, GIF or WebP file, or an http(s) address of one"

_TYPES: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("image/png", lambda start: start.startswith(b"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", lambda start: start.startswith(b"\xff\xd8\xff")),
    ("image/gif", lambda start: start.startswith((b"GIF87a", b"GIF89a"))),
    ("image/webp", lambda start: start.startswith(b"RIFF") and start[8:12] == b"WEBP"),
)


def image_url(given: str) -> str:
    """The address to send for ``given``, a file or an address.

    Raises:
        UsageError: no image of a kind that models take, too large, unreadable, or an address of another kind.
    """
    if given.startswith("data:"):
        return _checked_data(given)
    if "://" in given:
        return _checked_address(given)
    content = _read(given)
    kind = media_type(content)
    if not kind:
        raise UsageError(f"{given} is no image of a kind that models take", hint=_HINT)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def media_type(content: bytes) -> str:
    """The media type of an image, by its first bytes; "" for anything else."""
    return next((kind for kind, fits in _TYPES if fits(content)), "")


def _checked_address(given: str) -> str:
    try:
        parts = urlsplit(given)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        known = False
    if not known or any(char.isspace() or not char.isprintable() for char in given):
        raise UsageError(f"{given!r} is no address of an image", hint=_HINT)
    return given


def _checked_data(given: str) -> str:
    head, _, body = given.partition(",")
    if not head.endswith(";base64"):
        raise UsageError("the data address of the image is not in base64", hint=_HINT)
    try:
        content = base64.b64decode(body, validate=True)
    except ValueError as error:
        raise UsageError(f"the data address of the image is broken: {error}", hint=_HINT) from error
    _check_size(len(content), "the image")
    kind = media_type(content)
    if not kind:
        raise UsageError("the data address holds no image of a kind that models take", hint=_HINT)
    return f"data:{kind};base64,{body}"


def _read(given: str) -> bytes:
    path = Path(given).expanduser()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{given} is no file", hint=_HINT)
        _check_size(found.st_size, given)
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the image {given} can't be read: {why}", hint=_HINT) from error
    _check_size(len(content), given)
    return content


def _check_size(size: int, what: str) -> None:
    if size > LARGEST:
        raise UsageError(
            f"{what} has {size / (1 << 20):.1f} MiB; an image may have {LARGEST >> 20} MiB",
            hint="make it smaller: models see it at some thousand pixels at most",
        )
