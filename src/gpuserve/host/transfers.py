"""Contents of files in and out: the multipart routes of the SDK, and plain single-file upload and download."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from aiohttp import BodyPartReader, web

from gpuserve.host.bodies import SOURCE, bad, json_body, problem, query, texts
from gpuserve.host.files import in_thread, overwriting, place, refusal
from gpuserve.host.wire import ApiError, SandboxView, error_code

CHUNK_BYTES = 256 << 10
_FIELD = re.compile(r"files\[(\d+)\]\.(path|file)")
_PATH_LIMIT = 64 << 10


@dataclass
class _Uploads:
    """What a bulk upload has brought so far. ``paths`` come before the files that they name."""

    paths: dict[str, str] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def bulk_upload(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /files/bulk-upload``: ``files[i].path`` and ``files[i].file`` pairs. 400 with ``errors`` if any failed."""
    uploads = _Uploads()
    async for part in _parts(request):
        match = _FIELD.fullmatch(part.name or "")
        if match is None:
            await part.release()
        elif match[2] == "path":
            uploads.paths[match[1]] = bytes(await part.read_chunk(_PATH_LIMIT)).decode("utf-8", "replace")
            await part.release()
        else:
            await _take(view, part, uploads, match[1])
    if not uploads.files and not uploads.errors:
        uploads.errors.append("no files in the request")
    if uploads.errors:
        return web.json_response({"errors": uploads.errors, "files": uploads.files}, status=400)
    return web.json_response({"files": uploads.files})


async def upload(request: web.Request, view: SandboxView) -> web.Response:
    """``POST /files/upload``: one multipart field ``file`` into the query's ``path``."""
    path = query(request, "path")
    target = place(view, path)
    async for part in _parts(request):
        if part.name == "file":
            try:
                await _store(part, target)
            except OSError as error:
                raise refusal(error, path) from error
            return web.json_response({"name": target.name, "path": str(target), "type": "file"})
        await part.release()
    raise bad("the multipart body has no field 'file'")


async def download(request: web.Request, view: SandboxView) -> web.StreamResponse:
    """``GET /files/download``: one file, as it is."""
    path = query(request, "path")
    target = place(view, path)
    with await _opened(target, path) as file:
        size = os.fstat(file.fileno()).st_size
        disposition = f"attachment; filename*=utf-8''{quote(target.name, safe='')}"
        headers = {"Content-Type": "application/octet-stream", "Content-Disposition": disposition}
        response = web.StreamResponse(headers=headers | {"Content-Length": str(size)})
        await response.prepare(request)
        await _pour(file, size, response)
        await response.write_eof()
    return response


async def bulk_download(request: web.Request, view: SandboxView) -> web.StreamResponse:
    """``POST /files/bulk-download``: a multipart answer, a part ``file`` or ``error`` for each path, in order."""
    paths = texts(await json_body(request), "paths")
    if not paths:
        raise bad("paths is required")
    boundary = uuid.uuid4().hex
    response = web.StreamResponse(headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
    await response.prepare(request)
    for path in paths:
        await _send_part(response, boundary, view, path)
    await response.write(f"--{boundary}--\r\n".encode())
    await response.write_eof()
    return response


async def _parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    if request.content_type != "multipart/form-data":
        raise bad("the body is not multipart/form-data")
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader):
                yield part
    except ValueError as error:
        raise bad(f"the multipart body is malformed ({error})") from error


async def _take(view: SandboxView, part: BodyPartReader, uploads: _Uploads, index: str) -> None:
    path = uploads.paths.get(index, "")
    try:
        size = await _store(part, place(view, path))
    except OSError as error:
        uploads.errors.append(f"{path}: {error.strerror or error}")
        await part.release()
    except ApiError as error:
        uploads.errors.append(f"files[{index}]: {error.message}")
        await part.release()
    else:
        uploads.files.append({"path": path, "bytes": size})


async def _store(part: BodyPartReader, target: Path) -> int:
    """Write a part's content to ``target``, all or nothing. Returns the bytes. Raises OSError."""
    size = 0
    with overwriting(target) as file:
        while chunk := await part.read_chunk(CHUNK_BYTES):
            size += len(chunk)
            await asyncio.to_thread(file.write, chunk)
    return size


async def _send_part(response: web.StreamResponse, boundary: str, view: SandboxView, path: str) -> None:
    try:
        opened = await _opened(place(view, path), path)
    except ApiError as error:
        await response.write(_head(boundary, "error", path, "application/json") + _error_body(error) + b"\r\n")
        return
    with opened as file:
        size = os.fstat(file.fileno()).st_size
        await response.write(_head(boundary, "file", path, "application/octet-stream", size))
        await _pour(file, size, response)
        await response.write(b"\r\n")


async def _pour(file: BinaryIO, size: int, response: web.StreamResponse) -> None:
    """Send ``size`` bytes, the file's length when it was opened: it may be a log that still grows."""
    while size > 0 and (chunk := await asyncio.to_thread(file.read, min(size, CHUNK_BYTES))):
        size -= len(chunk)
        await response.write(chunk)


async def _opened(target: Path, path: str) -> BinaryIO:
    def open_regular() -> BinaryIO:
        # Without waiting: opening a FIFO would otherwise wait for its writer.
        file = os.fdopen(os.open(target, os.O_RDONLY | os.O_NONBLOCK), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise problem(400, f"bad request: not a regular file: {path}", "INVALID_FILE_PATH")

    return await in_thread(path, open_regular)


def _head(boundary: str, name: str, path: str, kind: str, size: int | None = None) -> bytes:
    # The SDK matches parts to requests by this name; the second form is exact, the first for readers that lack it.
    simple = re.sub(r"[\x00-\x1f\x7f]", "_", path).replace("\\", "\\\\").replace('"', '\\"')
    exact = quote(path, safe="")
    lines = [
        f"--{boundary}",
        f'Content-Disposition: form-data; name="{name}"; filename="{simple}"; filename*=utf-8\'\'{exact}',
        f"Content-Type: {kind}",
    ]
    if size is not None:
        lines.append(f"Content-Length: {size}")
    return "\r\n".join([*lines, "", ""]).encode()


def _error_body(error: ApiError) -> bytes:
    code = error.code or error_code(error.status)
    return json.dumps({"statusCode": error.status, "message": error.message, "code": code, "source": SOURCE}).encode()
