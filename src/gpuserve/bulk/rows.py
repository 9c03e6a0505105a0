"""The input: OpenAI batch JSONL, simple JSONL, CSV or plain text, one request a row, read as a stream.

A row is known by its place in the file (bytes), so that it can be read again when its turn comes and nothing of it has
to be kept in memory.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gpuserve.bulk.job import Job
from gpuserve.errors import UsageError

CHAT = "/v1/chat/completions"
_BOM = b"\xef\xbb\xbf"
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
# ``{name}`` is a field; doubled braces are braces; what holds anything else, such as JSON, stands as it is.
_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w .-]*)\}")
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# An address beside the API, such as the toolbox's, is none that a row of somebody's may ask with our credential.
_ROUTE = re.compile(r"/v1(/[A-Za-z0-9_-]+)+")
#: What a row without a template may call its question.
_QUESTIONS = ("prompt", "text")
#: Letters of a custom_id, and bytes of one field of a CSV file, at most.
_LONGEST_ID, _LONGEST_FIELD = 512, 1 << 27


class BadRow(ValueError):
    """A row that can't be a request; the message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is: its first line (from 1), and its bytes in the file. ``ask`` is its question's, once known."""

    line: int
    at: int
    size: int
    ask: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent: ``body`` is JSON. ``ask`` tells its question from every other: 8 bytes.

    The limit of tokens isn't part of the question: what was cut short may be asked again with a higher one.
    """

    custom_id: str
    path: str
    body: bytes
    ask: bytes


class Source:
    """An input file under the settings of a job.

    Raises:
        UsageError: no such file, or settings that don't go with its format.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        try:
            self._file: BinaryIO = Path(job.source).open("rb")  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise UsageError(f"can't read {job.source}: {error.strerror}", hint="gpuserve batch INPUT.jsonl") from error
        self.form = job.form or guess(Path(job.source))
        self._columns: list[str] = []
        if self.form == "openai" and (job.template or job.system):
            self.close()
            raise UsageError("rows of an OpenAI batch hold whole requests: no template or system prompt goes with them")
        csv.field_size_limit(_LONGEST_FIELD)
        self._parse: Callable[[int, bytes], Request] = self._openai if self.form == "openai" else self._simple

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def places(self) -> Iterator[tuple[Place, bytes]]:
        """Every row that isn't blank, and its bytes.

        Raises:
            UsageError: a CSV file whose structure is broken; the message names the line.
        """
        self._file.seek(0)
        yield from self._records() if self.form in ("csv", "tsv") else self._lines()

    def _lines(self) -> Iterator[tuple[Place, bytes]]:
        at = 0
        for line, data in enumerate(self._file, 1):
            if data.strip():
                yield Place(line, at, len(data)), data
            at += len(data)

    def _records(self) -> Iterator[tuple[Place, bytes]]:
        """A record of CSV may span lines: what the reader took since the last record is its bytes."""
        taken: list[bytes] = []

        def feed() -> Iterator[str]:
            for data in self._file:
                taken.append(data)
                yield data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")

        reader = csv.reader(feed(), delimiter="\t" if self.form == "tsv" else ",", strict=True)
        self._columns, at, line = [], 0, 1
        try:
            for fields in reader:
                data = b"".join(taken)
                taken.clear()
                if any(field.strip() for field in fields):
                    if self._columns:
                        yield Place(line, at, len(data)), data
                    else:
                        self._columns = _named_once(self._job.source, [name.strip() for name in fields])
                at, line = at + len(data), line + data.count(b"\n")
        except csv.Error as error:
            raise UsageError(f"{self._job.source}, line {line}: no valid CSV: {error}") from error

    def read(self, place: Place) -> Request:
        """The request of a row that ``places`` told of."""
        self._file.seek(place.at)
        return self.request(place, self._file.read(place.size))

    def request(self, place: Place, data: bytes) -> Request:
        """The request in a row's bytes.

        Raises:
            BadRow: there is none.
        """
        return self._parse(place.line, data)

    def _openai(self, _line: int, data: bytes) -> Request:
        row = _mapping(_json(data))
        custom_id, path, body = row.get("custom_id"), row.get("url", CHAT), row.get("body")
        if not isinstance(custom_id, str):
            raise BadRow("it has no custom_id" if custom_id is None else "its custom_id is no text")
        if row.get("method", "POST") != "POST":
            raise BadRow(f"its method is {row['method']!r}, and not POST")
        if not isinstance(path, str) or not _ROUTE.fullmatch(path):
            raise BadRow(f"its url {path!r} is no route below /v1/")
        if not isinstance(body, dict):
            raise BadRow("it has no body")
        if body.get("stream"):
            raise BadRow("it asks for a streamed answer: leave stream out, or give --stream for all")
        if path == CHAT and not isinstance(body.get("messages"), list):
            raise BadRow("its body has no messages")
        return self._finished(custom_id, path, body)

    def _simple(self, line: int, data: bytes) -> Request:
        row = self._fields(data)
        custom_id = row.get("custom_id", row.get("id", f"line-{line}"))
        if isinstance(custom_id, int) and not isinstance(custom_id, bool):
            custom_id = str(custom_id)
        if not isinstance(custom_id, str):
            raise BadRow("its custom_id is neither text nor a whole number")
        return self._finished(custom_id, CHAT, {"messages": self._messages(row)})

    def _fields(self, data: bytes) -> Mapping[str, Any]:
        """The row's fields by name."""
        if self.form in ("csv", "tsv"):
            values = next(csv.reader([_text(data)], delimiter="\t" if self.form == "tsv" else ","))
            if len(values) != len(self._columns):
                raise BadRow(f"it has {len(values)} fields, and the first line names {len(self._columns)}")
            return dict(zip(self._columns, values, strict=True))
        if self.form == "text":
            return {"text": _text(data.removeprefix(_BOM)).rstrip("\r\n")}
        content = _json(data)
        return {"text": content} if isinstance(content, str) else _mapping(content)

    def _messages(self, row: Mapping[str, Any]) -> list[Any]:
        system = [{"role": "system", "content": self._job.system}] if self._job.system else []
        if self._job.template:
            return [*system, {"role": "user", "content": rendered(self._job.template, row)}]
        messages = row.get("messages")
        if isinstance(messages, list) and messages:
            return [*system, *messages]
        question = next((row[name] for name in _QUESTIONS if name in row), None)
        if not isinstance(question, str) or not question.strip():
            raise BadRow("it has no prompt, text or messages: say with --template how to ask")
        return [*system, {"role": "user", "content": question}]

    def _finished(self, custom_id: str, path: str, body: Mapping[str, Any]) -> Request:
        if not custom_id or len(custom_id) > _LONGEST_ID:
            raise BadRow(f"its custom_id isn't 1 to {_LONGEST_ID} letters long")
        whole = {**self._job.defaults, **body} if path == CHAT else dict(body)
        if not (self._job.keep_model and isinstance(whole.get("model"), str)):
            whole["model"] = self._job.model
        limits = {name: whole.pop(name) for name in _LIMITS if name in whole}
        try:
            question, limit = _ENCODER.encode(whole).encode(), _ENCODER.encode(limits).encode()
        except (ValueError, RecursionError) as error:
            raise BadRow(f"it can't be sent as JSON: {error}") from error
        sent = question[:-1] + b"," + limit[1:] if limits else question
        return Request(custom_id, path, sent, digest(path.encode() + question, 8))


def guess(path: Path, kind: str = "") -> str:
    """The format of a file, by its name or as ``kind`` has it ("jsonl"); whether JSONL is OpenAI's, by its first line.

    Raises:
        UsageError: it can't be read.
    """
    form = kind or _SUFFIXES.get(path.suffix.lower(), "text")
    if form != "jsonl":
        return form
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        content = json.loads(first.removeprefix(_BOM))
    except (ValueError, RecursionError):
        return "jsonl"  # what is wrong with it is told by line
    return "openai" if isinstance(content, dict) and isinstance(content.get("body"), dict) else "jsonl"


def _named_once(source: str, columns: list[str]) -> list[str]:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UsageError(f"{source} has two columns named {twice[0]!r}", hint="name each column otherwise")
    return columns


def rendered(template: str, row: Mapping[str, Any]) -> str:
    """``template`` with each ``{name}`` replaced by that field of the row.

    Raises:
        BadRow: a field that the row lacks.
    """

    def one(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return found[0][0]
        if name not in row:
            raise BadRow(f"it has no field {name!r}, only " + ", ".join(map(str, row)))
        value = row[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _FIELD.sub(one, template)


def digest(data: bytes, size: int = 16) -> bytes:
    """What stands for ``data``: at 16 bytes no two of a million rows are ever taken for one another."""
    return hashlib.blake2b(data, digest_size=size).digest()


def id_digest(custom_id: str) -> bytes:
    """What stands for a custom_id in the index."""
    return digest(custom_id.encode("utf-8", "surrogatepass"))


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(f"it is no UTF-8 text (byte {error.start + 1})") from error


def _json(data: bytes) -> Any:
    try:
        return json.loads(_text(data.removeprefix(_BOM)))
    except json.JSONDecodeError as error:
        raise BadRow(f"it is no JSON: {error.msg} (letter {error.colno})") from error
    except RecursionError as error:
        raise BadRow("its JSON is nested too deep") from error


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise BadRow("it is no JSON object")
    return content
