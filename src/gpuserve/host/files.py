"""The toolbox's file routes, but for the transfer of contents.

A relative path starts at the sandbox's home. An absolute one is a path of this machine, taken as it is: the local host
runs everything as the user who started it and is no security boundary, so hiding the rest of the file system here,
while every command sees it, would only pretend to be one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import grp
import os
import pwd
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from aiohttp import web

from gpuserve.host.bodies import bad, json_body, problem, query, text, texts
from gpuserve.host.environment import ensure
from gpuserve.host.wire import ApiError, SandboxView, iso

T = TypeVar("T")

_BINARY_PROBE = 512
"""A NUL byte within this many first bytes marks a file that is not searched for text."""


def place(view: SandboxView, path: str) -> Path:
    """Where ``path`` of a request lies. Raises ApiError 400 for an empty one."""
    if not path:
        raise problem(400, "bad request: path is required", "INVALID_FILE_PATH")
    ensure(view)
    given = path.removeprefix("~/") if path.startswith("~/") else path
    return Path(os.path.normpath(view.home / given))


def refusal(error: OSError, path: str) -> ApiError:
    """What the toolbox answers when the file system refuses."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return problem(404, f"not found: file not found: {path}", "FILE_NOT_FOUND")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return problem(403, f"forbidden: permission denied: {path}", "FILE_ACCESS_DENIED")
    return problem(400, f"bad request: {error.strerror or error}: {path}", "INVALID_FILE_PATH")


async def listing(request: web.Request, view: SandboxView) -> web.Response:
    """``GET /files``: a directory's entries, ``depth`` levels of them."""
    path = query(request, "path") if request.query.get("path") else "."
    try:
        depth = int(request.query.get("depth", "1"))
    except ValueError:
        depth = 0
    if depth < 1:
        raise bad("depth must be a number of at least 1")
    folder = place(view, path)
    return web.json_response(await in_thread(path, lambda: [describe(item) for item in _walk(folder, depth)]))


async def info(request: web.Request, view: SandboxView) -> web.Response:
    """``GET /files/info``."""
    path = query(request, "path")
    target = place(view, path)
    return web.json_response(await in_thread(path, lambda: describe(target)))


async def folder(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /files/folder``: 201; an existing directory is fine."""
    path, mode = query(request, "path"), _mode(query(request, "mode"))
    target = place(view, path)

    def make() -> None:
        existed = target.is_dir()
        target.mkdir(parents=True, exist_ok=True)
        if not existed:
            target.chmod(mode)

    await in_thread(path, make)
    return web.Response(status=201)


async def delete(request: web.Request, view: SandboxView) -> web.Response:
    """``DELETE /files``: 204; a directory only with ``recursive=true``."""
    path = query(request, "path")
    target, recursive = place(view, path), request.query.get("recursive", "").lower() == "true"

    def remove() -> None:
        if target.is_symlink() or not target.is_dir():
            target.unlink()
        elif recursive:
            shutil.rmtree(target)
        else:
            raise bad("a directory is deleted only with recursive=true")

    await in_thread(path, remove)
    return web.Response(status=204)


async def move(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /files/move``: 409 if the destination exists, 404 if its parent does not."""
    source, destination = query(request, "source"), query(request, "destination")
    start, goal = place(view, source), place(view, destination)

    def rename() -> None:
        start.lstat()
        if os.path.lexists(goal):
            raise problem(409, f"conflict: destination already exists: {destination}")
        shutil.move(start, goal)

    await in_thread(source, rename)
    return web.Response(status=200)


async def permissions(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /files/permissions``: any of mode (octal), owner and group (name or number)."""
    path = query(request, "path")
    target, mode = place(view, path), request.query.get("mode")
    number = _mode(mode) if mode else None
    owner, group = _account(request.query.get("owner")), _account(request.query.get("group"))

    def change() -> None:
        if owner is not None or group is not None:
            try:
                shutil.chown(target, owner, group)  # type: ignore[arg-type]  # None means unchanged
            except LookupError as error:
                raise bad(str(error)) from error
        if number is not None:
            target.chmod(number)

    await in_thread(path, change)
    return web.Response(status=200)


async def find(request: web.Request, view: SandboxView) -> web.Response:
    """``GET /files/find``: the lines that contain ``pattern``, literally, in the text files under ``path``."""
    path, pattern = query(request, "path"), query(request, "pattern")
    target = place(view, path)
    return web.json_response(await in_thread(path, lambda: list(_matches(target, pattern))))


async def search(request: web.Request, view: SandboxView) -> web.Response:
    """``GET /files/search``: the files and directories under ``path`` whose names match the shell pattern."""
    path, pattern = query(request, "path"), query(request, "pattern")
    target = place(view, path)

    def names() -> list[str]:
        target.stat()
        found = (item for item in _walk(target, None) if fnmatch.fnmatchcase(item.name, pattern))
        return [str(item) for item in found]

    return web.json_response({"files": await in_thread(path, names)})


async def replace(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /files/replace``: replaces literal text; one result a file, so that one failure leaves the others."""
    body = await json_body(request)
    pattern, value = text(body, "pattern"), text(body, "newValue")
    if not pattern:
        raise bad("pattern must not be empty")
    files = [(name, place(view, name)) for name in texts(body, "files")]

    def all_of_them() -> list[dict[str, Any]]:
        return [_replaced(name, path, pattern.encode(), value.encode()) for name, path in files]

    return web.json_response(await asyncio.to_thread(all_of_them))


def describe(path: Path) -> dict[str, Any]:
    """The shape of the platform's ``FileInfo``. Raises OSError if there is nothing."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) and path.exists():
        status = path.stat()
    changed = datetime.fromtimestamp(status.st_mtime, UTC)
    return {
        "name": path.name,
        "path": str(path),
        "isDir": stat.S_ISDIR(status.st_mode),
        "size": status.st_size,
        "mode": stat.filemode(status.st_mode),
        "permissions": f"{stat.S_IMODE(status.st_mode):04o}",
        "modTime": f"{changed:%Y-%m-%d %H:%M:%S}.{status.st_mtime_ns % 10**9:09d} +0000 UTC",
        "modifiedAt": iso(changed),
        "owner": _name(lambda: pwd.getpwuid(status.st_uid).pw_name, status.st_uid),
        "group": _name(lambda: grp.getgrgid(status.st_gid).gr_name, status.st_gid),
    }


@contextlib.contextmanager
def overwriting(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of ``path`` at the end, whole, or not at all.

    Missing parents are made, a link is written through, an existing file's mode is kept. Raises OSError.
    """
    goal = Path(os.path.realpath(path))
    mode = 0o644
    if goal.exists():
        if not goal.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        mode = stat.S_IMODE(goal.stat().st_mode)
    goal.parent.mkdir(parents=True, exist_ok=True)
    draft = goal.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
        draft.chmod(mode)
        draft.replace(goal)
    finally:
        draft.unlink(missing_ok=True)


async def in_thread(path: str, work: Callable[[], T]) -> T:
    """Do blocking file work beside the event loop. Raises ApiError for what the file system refuses."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise refusal(error, path) from error


def _walk(folder: Path, depth: int | None) -> Iterator[Path]:
    """What is in ``folder``, by name, ``depth`` levels down; links are shown, not followed."""
    for item in sorted(folder.iterdir()):
        yield item
        if (depth is None or depth > 1) and item.is_dir() and not item.is_symlink():
            yield from _walk(item, None if depth is None else depth - 1)


def _matches(target: Path, pattern: str) -> Iterator[dict[str, Any]]:
    target.stat()
    wanted = pattern.encode()
    for path in _walk(target, None) if target.is_dir() else [target]:
        for number, line in enumerate(_text_lines(path), 1):
            if wanted in line:
                yield {"file": str(path), "line": number, "content": line.decode("utf-8", "replace")}


def _text_lines(path: Path) -> list[bytes]:
    try:
        if not path.is_file():
            return []
        content = path.read_bytes()
    except OSError:
        return []  # unreadable or just gone: a search goes on without it
    return [] if b"\0" in content[:_BINARY_PROBE] else content.splitlines()


def _replaced(name: str, path: Path, pattern: bytes, value: bytes) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if pattern in content:
            with overwriting(path) as file:
                file.write(content.replace(pattern, value))
    except OSError as error:
        return {"file": name, "success": False, "error": error.strerror or str(error)}
    return {"file": name, "success": True, "error": ""}


def _mode(octal: str) -> int:
    try:
        mode = int(octal, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise bad("mode must be an octal number such as 755")
    return mode


def _account(name: str | None) -> str | int | None:
    return int(name) if name and name.isdecimal() else name or None


def _name(look_up: Callable[[], str], number: int) -> str:
    try:
        return look_up()
    except KeyError:
        return str(number)
