"""A Hugging Face Hub over HTTP, for the real ``huggingface_hub`` client.

    with FakeHub() as hub:
        hub.add(Repository("org/model", files={"config.json": b"{}", "model.safetensors": 1234}))
        … look_up("org/model", endpoint=hub.url) …
        assert hub.paths == ["/api/models/org/model?blobs=true", …]

It answers errors as the Hub does (status, ``X-Error-Code``, ``X-Error-Message``): 401 for a missing repository
without a token, 404 with one; 401 and 403 with ``GatedRepo`` for the files of a gated one, whose page stays public.
A file given as a number has that size and no content. ``trouble`` is answered to everything, ``overrides`` to one path.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A model. ``gated`` is False, "auto" or "manual"; ``readers``: tokens with access to a gated or private one."""

    id: str
    files: Mapping[str, bytes | int] = field(default_factory=dict)
    gated: bool | str = False
    private: bool = False
    readers: tuple[str, ...] = ()
    refusal: str = "Access to this model is restricted and you are not in the authorized list."
    branches: tuple[str, ...] = ("main",)
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    library: str = "transformers"
    aliases: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What goes over the wire. ``wait`` holds it back until the fake ends."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: bool = False


@dataclass(frozen=True)
class Seen:
    """A request: its path with the query, and the token it came with ("" for none)."""

    path: str
    token: str


def said(status: int, code: str, message: str) -> Answer:
    """An error as the Hub words it."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Answer(status, json.dumps({"error": message}).encode(), headers)


def found(value: object) -> Answer:
    """A JSON answer."""
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


class FakeHub:
    """The server; a context manager. ``tokens`` are those that it takes for alive."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.trouble: Answer | None = None
        self.overrides: dict[str, Answer] = {}
        self.seen: list[Seen] = []
        self.before: Callable[[str], None] = lambda _: None
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def paths(self) -> list[str]:
        """The paths asked for so far, sorted, since some are asked for side by side."""
        return sorted(one.path for one in self.seen)

    def add(self, repository: Repository) -> Repository:
        """Puts a model on the Hub."""
        for name in (repository.id, *repository.aliases):
            self.repositories[name] = repository
        return repository

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                hub.seen.append(Seen(self.path, token))
                hub.before(self.path)
                answer = hub.trouble or hub.overrides.get(urlsplit(self.path).path) or hub.answer(self.path, token)
                if answer.wait:
                    hub._over.wait(30)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        return Handler

    def answer(self, target: str, token: str) -> Answer:
        """What a healthy Hub says."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if token and token not in self.tokens:
            return said(401, "", "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return found({"name": "somebody"}) if token else said(401, "", "Invalid username or password.")
        if path == "/api/models":
            return self._search(query)
        if path.startswith("/api/models/"):
            return self._about(path.removeprefix("/api/models/"), token)
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._guarded(name, token, lambda repository: self._file(repository, unquote(revision), file, token))

    def _search(self, query: Mapping[str, list[str]]) -> Answer:
        text, author = query.get("search", [""])[0].lower(), query.get("author", [""])[0]
        labels = set(query.get("filter", []))
        hits = [
            {"id": each.id, "tags": list(each.labels)}
            for name, each in self.repositories.items()
            if not each.private
            and name == each.id
            and text in each.id.lower()
            and labels <= set(each.labels)
            and (not author or each.id.startswith(f"{author}/"))
        ]
        return found(hits)

    def _about(self, rest: str, token: str) -> Answer:
        for suffix, action in (("/refs", self._refs), ("/auth-check", None)):
            if rest.endswith(suffix):
                name = rest.removesuffix(suffix)
                if action:
                    return self._guarded(name, token, action)
                return self._guarded(name, token, lambda one: self._closed(one, token) or found({}))
        name, _, revision = rest.partition("/revision/")
        return self._guarded(name, token, lambda one: self._info(one, unquote(revision)))

    def _guarded(self, name: str, token: str, action: Callable[[Repository], Answer]) -> Answer:
        repository = self.repositories.get(unquote(name))
        if repository is None or (repository.private and token not in repository.readers):
            if token:
                return said(404, "RepoNotFound", "Repository not found")
            return said(401, "RepoNotFound", "Invalid username or password.")
        return action(repository)

    def _closed(self, repository: Repository, token: str) -> Answer | None:
        if not repository.gated or token in repository.readers:
            return None
        if not token:
            return said(401, "GatedRepo", f"Access to model {repository.id} is restricted. Please log in.")
        return said(403, "GatedRepo", repository.refusal)

    def _info(self, repository: Repository, revision: str) -> Answer:
        if revision and revision not in (*repository.branches, *repository.tags, SHA):
            return said(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sizes = {name: part if isinstance(part, int) else len(part) for name, part in repository.files.items()}
        body = {
            "id": repository.id,
            "modelId": repository.id,
            "sha": SHA,
            "private": repository.private,
            "gated": repository.gated,
            "tags": list(repository.labels),
            "library_name": repository.library,
            "createdAt": "2026-01-02T03:04:05.000Z",
            "siblings": [{"rfilename": name, "size": size, "blobId": "0" * 40} for name, size in sizes.items()],
        }
        return found(body | dict(repository.extra))

    def _refs(self, repository: Repository) -> Answer:
        def listed(kind: str, names: tuple[str, ...]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": SHA} for name in names]

        tables = {"branches": listed("heads", repository.branches), "tags": listed("tags", repository.tags)}
        return found({**tables, "converts": []})

    def _file(self, repository: Repository, revision: str, name: str, token: str) -> Answer:
        closed = self._closed(repository, token)
        if closed:
            return closed
        if revision not in (*repository.branches, *repository.tags, SHA):
            return said(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = repository.files.get(unquote(name))
        if content is None:
            return said(404, "EntryNotFound", "Entry not found")
        return Answer(200, content if isinstance(content, bytes) else b"\0" * content)
