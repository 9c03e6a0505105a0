"""``snippet``: a few lines that make a client talk to a deployment, ready to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuserve.access import PREVIEW_TOKEN_HEADER
from gpuserve.errors import UsageError
from gpuserve.records import Endpoint

#: What the snippets ask.
PROMPT = "Say hello."


@dataclass(frozen=True, slots=True)
class Snippet:
    """``text`` may hold credentials. ``file`` is where it goes ("" if it is run), ``variables`` what it reads."""

    client: str
    text: str = field(repr=False)
    file: str
    variables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Value:
    """A text that is written down, or taken from the variable ``name`` with ``text`` behind it."""

    text: str
    name: str = ""

    def python(self) -> str:
        if not self.name:
            return json.dumps(self.text)
        read = f'os.environ["{self.name}"]'
        return f"{read} + {json.dumps(self.text)}" if self.text else read

    def shell(self) -> str:
        """For a word of a shell."""
        return f'"${self.name}{self.text}"' if self.name else shlex.quote(self.text)

    def config(self) -> str:
        """For opencode's configuration, which puts variables in by itself."""
        return f"{{env:{self.name}}}{self.text}" if self.name else self.text


@dataclass(frozen=True, slots=True)
class _Target:
    """What a snippet needs to know of an endpoint."""

    model: str
    base_url: _Value
    key: _Value
    headers: Mapping[str, _Value]

    def variables(self) -> tuple[str, ...]:
        values = (self.base_url, self.key, *self.headers.values())
        return tuple(dict.fromkeys(value.name for value in values if value.name))


def make_snippet(client: str, endpoint: Endpoint, *, reveal: bool) -> Snippet:
    """The lines for ``client``, one of ``CLIENTS``.

    They read what is secret, and the address, from the variables that ``gpuserve env`` sets; with ``reveal`` it is
    written into them.

    Raises:
        UsageError: no such client; or one that can't read variables, without ``reveal``.
    """
    if client not in _WRITERS:
        raise UsageError(f"no snippet for {client!r}", hint="one of " + ", ".join(CLIENTS))
    target = _literal(endpoint) if reveal else _by_variables(endpoint)
    if client == "llm" and target.variables():
        raise UsageError(
            "llm's model file can't read variables, and a credential would have to stand in it",
            hint="gpuserve snippet --for llm --connect 8000 goes through gpuserve connect; --reveal writes it down",
        )
    file, write = _WRITERS[client]
    return Snippet(client, write(target), file, target.variables())


def _literal(endpoint: Endpoint) -> _Target:
    headers = {name: _Value(value) for name, value in endpoint.headers.items()}
    return _Target(endpoint.served_model, _Value(endpoint.base_url), _Value(endpoint.api_key or "EMPTY"), headers)


def _by_variables(endpoint: Endpoint) -> _Target:
    token = {name: _Value("", "TOKEN") for name in endpoint.headers if name.lower() == PREVIEW_TOKEN_HEADER}
    key = _Value("EMPTY") if endpoint.api_key in ("", "EMPTY") else _Value("", "API_KEY")
    return _Target(endpoint.served_model, _Value("/v1", "ENDPOINT"), key, token)


def _curl(target: _Target) -> str:
    body = json.dumps({"model": target.model, "messages": [{"role": "user", "content": PROMPT}]})
    secret = dict(target.headers)
    if target.key.name or target.key.text != "EMPTY":
        secret["Authorization"] = target.key
    url = _Value(target.base_url.text + "/chat/completions", target.base_url.name).shell()
    # Headers go in by stdin: as arguments, every user of the machine could read them.
    lines = [f"curl -sS {url} -H 'Content-Type: application/json' \\"]
    if not secret:
        return "\n".join([*lines, f"  -d {shlex.quote(body)}", ""])
    revealed = not target.variables()
    marker = "'HEADERS'" if revealed else "HEADERS"
    lines.append(f"  -H @- -d {shlex.quote(body)} <<{marker}")
    for name, value in secret.items():
        scheme = "Bearer " if name == "Authorization" else ""
        lines.append(f"{name}: {scheme}{'$' + value.name if value.name else value.text}")
    return "\n".join([*lines, "HEADERS", ""])


def _python(target: _Target, imports: str, call: str, closing: str, names: Mapping[str, str]) -> str:
    """A Python program: ``call`` and its arguments one a line, named as this client names them."""
    system = ["import os", ""] if target.variables() else []
    arguments = [f"    {names['url']}={target.base_url.python()},", f"    {names['key']}={target.key.python()},"]
    if target.headers:
        inner = ", ".join(f"{json.dumps(name)}: {value.python()}" for name, value in target.headers.items())
        arguments.append(f"    {names['headers']}={{{inner}}},")
    return "\n".join([*system, imports, "", f"{call}(", *arguments, closing, ""])


def _openai(target: _Target) -> str:
    asked = f"model={json.dumps(target.model)}, messages={json.dumps([{'role': 'user', 'content': PROMPT}])}"
    closing = f")\nreply = client.chat.completions.create({asked})\nprint(reply.choices[0].message.content)"
    names = {"url": "base_url", "key": "api_key", "headers": "default_headers"}
    return _python(target, "from openai import OpenAI", "client = OpenAI", closing, names)


def _litellm(target: _Target) -> str:
    messages = json.dumps([{"role": "user", "content": PROMPT}])
    asked = f"    model={json.dumps('openai/' + target.model)},\n    messages={messages},"
    names = {"url": "api_base", "key": "api_key", "headers": "extra_headers"}
    closing = f"{asked}\n)\nprint(reply.choices[0].message.content)"
    return _python(target, "import litellm", "reply = litellm.completion", closing, names)


def _langchain(target: _Target) -> str:
    closing = f"    model={json.dumps(target.model)},\n)\nprint(model.invoke({json.dumps(PROMPT)}).content)"
    names = {"url": "base_url", "key": "api_key", "headers": "default_headers"}
    return _python(target, "from langchain_openai import ChatOpenAI", "model = ChatOpenAI", closing, names)


def _llm(target: _Target) -> str:
    """JSON is YAML, so that nothing in a value can break the file."""
    entry: dict[str, object] = {
        "model_id": f"gpuserve-{target.model}",
        "model_name": target.model,
        "api_base": target.base_url.text,
    }
    headers = {name: value.text for name, value in target.headers.items()}
    if target.key.text != "EMPTY":
        headers["Authorization"] = f"Bearer {target.key.text}"
    if headers:
        entry["headers"] = headers
    first, *others = (f"{name}: {json.dumps(value)}" for name, value in entry.items())
    return "\n".join([f"- {first}", *(f"  {line}" for line in others), ""])


def _opencode(target: _Target) -> str:
    options: dict[str, object] = {"baseURL": target.base_url.config(), "apiKey": target.key.config()}
    if target.headers:
        options["headers"] = {name: value.config() for name, value in target.headers.items()}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "gpuserve",
        "options": options,
        "models": {target.model: {"name": target.model}},
    }
    content = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"gpuserve/{target.model}",
        "provider": {"gpuserve": provider},
    }
    return json.dumps(content, indent=2) + "\n"


_WRITERS: Mapping[str, tuple[str, Callable[[_Target], str]]] = {
    "curl": ("", _curl),
    "openai": ("", _openai),
    "litellm": ("", _litellm),
    "langchain": ("", _langchain),
    "llm": ("extra-openai-models.yaml", _llm),
    "opencode": ("opencode.json", _opencode),
}
#: What ``--for`` takes.
CLIENTS = tuple(_WRITERS)
