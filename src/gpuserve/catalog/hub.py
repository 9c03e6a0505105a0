"""Asks the Hugging Face Hub about a model before anything is paid for.

Two round trips at most: what the repository is, then, side by side, those of its small files that matter, or what
explains why it couldn't be had. A Hub that is slow, down or rate limited is never an error: see ``HubSilence``.
``huggingface_hub`` is imported only when something is really asked.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuserve.catalog import hubcache, hubfaults
from gpuserve.catalog.hubfacts import HubFacts, HubSilence, Material, facts_from, model_id, reduced_index, shown
from gpuserve.catalog.hubfaults import Asked, Fault
from gpuserve.catalog.hubfiles import ADAPTER_CONFIG, INDEX
from gpuserve.durations import format_duration
from gpuserve.errors import ConfigError, NotAuthenticated
from gpuserve.records import check_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

__all__ = ["HubFacts", "HubSilence", "default_cache", "look_up", "whoami"]

default_cache = hubcache.directory
_OFFLINE = HubSilence("HF_HUB_OFFLINE is set", "offline")

_LARGEST = 48 << 20  # bytes of a config or index; the largest index known has 10 MB
_THREADS = "gpuserve-hub"
_TRUE = ("1", "on", "yes", "true")
_WHOAMI = "/api/whoami-v2"


def look_up(
    model: str,
    *,
    revision: str = "",
    token: str = "",
    endpoint: str = "",
    timeout: float = 5,
    cache: Path | None = None,
    engine: str = "",
) -> HubFacts | HubSilence:
    """What the Hub knows of ``model``, an ID, with ``:QUANT`` behind it for one of several GGUF files.

    ``endpoint`` is the Hub's address (else HF_ENDPOINT, else the public one), ``timeout`` the seconds that all of it
    may take, ``cache`` the directory of answers (None: none is kept). For the engine "llamacpp" a repository without
    GGUF files also gets its ``gguf_siblings``. A token saved by other tools is never used: only ``token`` counts.

    Raises:
        UsageError: ``model`` is no ID. ConfigError: the endpoint is no address.
        NotFound: no such model, or no such revision.
        NotAuthenticated: gated or private, and the token is missing, bad or without access.
    """
    check_model(model)
    if model.startswith("/"):
        return HubSilence(f"{model} is a path, which the Hub knows nothing of", "path")
    name, _, quant = model.partition(":")
    asked = Asked(name, revision, _endpoint(endpoint), _checked(token))
    key = hubcache.key(asked.endpoint, name, revision, bool(token), engine == "llamacpp")
    entry = hubcache.read(cache, key)
    if entry and entry.fresh and (known := facts_from(entry.material, quant)):
        return known
    outcome = _ask(asked, time.monotonic() + timeout, ggufs=engine == "llamacpp")
    if isinstance(outcome, HubSilence):
        return _from_old(entry, quant, outcome) or outcome
    facts = facts_from(outcome, quant)
    if facts is None:
        return HubSilence("the Hub's answer names no model")
    if not facts.notes:
        hubcache.write(cache, key, outcome)
    return facts


def whoami(token: str, *, timeout: float) -> str | HubSilence:
    """The account that ``token`` is of, asked of HF_ENDPOINT's Hub, else of the public one, within ``timeout`` seconds.

    Raises:
        ConfigError: HF_ENDPOINT is no address.
        NotAuthenticated: the Hub refuses the token, or it can't be one.
    """
    asked = Asked("", "", _endpoint(""), _checked(token))
    if _offline():
        return _OFFLINE
    until = time.monotonic() + timeout
    answer = _together(asked, until, whoami=lambda: _get(asked, _WHOAMI, until))["whoami"]
    if isinstance(answer, Fault):
        if answer.status == 401:
            raise hubfaults.refusal(Fault("bad_token"), asked)
        return answer.silence if answer.silence.reason else HubSilence(f"the Hub answers with status {answer.status}")
    name = answer.get("name") if isinstance(answer, dict) else None
    return shown(name) if isinstance(name, str) and name else HubSilence("the Hub's answer names no account")


def _endpoint(given: str) -> str:
    address = (given or os.environ.get("HF_ENDPOINT", "") or hubfaults.PUBLIC_HUB).rstrip("/")
    if not address.startswith(("https://", "http://")):
        raise ConfigError("HF_ENDPOINT is no http(s) address", hint=f"unset it, or set it to {hubfaults.PUBLIC_HUB}")
    return address


def _offline() -> bool:
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _checked(token: str) -> str:
    if all("!" <= character <= "~" for character in token):
        return token
    raise NotAuthenticated("the HF_TOKEN holds white space or characters that no token has", hint="mend HF_TOKEN")


def _from_old(entry: hubcache.Entry | None, quant: str, silence: HubSilence) -> HubFacts | None:
    """What was known before, with a note that it is old."""
    known = facts_from(entry.material, quant) if entry else None
    if entry is None or known is None:
        return None
    age = format_duration(entry.age)
    return replace(known, stale=True, notes=(*known.notes, f"{silence.reason}; used what it said {age} ago"))


def _ask(asked: Asked, until: float, *, ggufs: bool) -> Material | HubSilence:
    """Both round trips."""
    if _offline():
        return _OFFLINE
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub.utils._http").addFilter(_unheard)
    api = HfApi(endpoint=asked.endpoint, token=asked.token or False, library_name="gpuserve")
    first = _together(asked, until, info=lambda: _repository(api, asked, until))["info"]
    if isinstance(first, Fault):
        if first.kind == "silent":
            return first.silence
        raise _explained(first, asked, until)
    return _completed(first, asked, until, ggufs=ggufs)


def _unheard(record: logging.LogRecord) -> bool:
    """Keeps what the library says about look-ups off stderr: it prints what the Hub's headers tell it to."""
    return not (record.threadName or "").startswith(_THREADS)


def _repository(api: HfApi, asked: Asked, until: float) -> Material:
    info = api.model_info(
        asked.model, revision=asked.revision or None, files_metadata=True, timeout=max(0.1, until - time.monotonic())
    )
    return _material(info)


def _material(info: ModelInfo) -> Material:
    """Those parts of the library's record that are used, as plain JSON."""
    gguf, tensors = info.gguf, info.safetensors
    kept: Material = {
        "id": info.id,
        "sha": info.sha,
        "gated": info.gated,
        "private": info.private,
        "library": info.library_name,
        "parameters": getattr(tensors, "total", None),
        "gguf": {"context_length": gguf.get("context_length")} if isinstance(gguf, dict) else {},
        "config": info.config,
    }
    files = {each.rfilename: each.size for each in info.siblings or ()}
    if not all(isinstance(name, str) for name in files):  # the library checks no types
        raise TypeError
    return {"info": kept, "files": files}


def _completed(material: Material, asked: Asked, until: float, *, ggufs: bool) -> Material | HubSilence:
    """The second round trip: the files that matter, whether a gate is open, and GGUF siblings if wanted.

    Raises:
        NotAuthenticated: the gate is closed.
    """
    info, files = material["info"], material["files"]
    name = model_id(info["id"])
    if not name:
        return HubSilence("the Hub's answer names no model")
    found = replace(asked, model=name)
    calls: dict[str, Callable[[], Any]] = {}
    for part, file in _wanted(files).items():
        calls[part] = partial(_file, found, info["sha"], file, until)
    if info["gated"]:
        calls["access"] = lambda: _get(found, f"/api/models/{name}/auth-check", until)
    if ggufs and not any(file.lower().endswith(".gguf") for file in files):
        calls["ggufs"] = lambda: _search(found, until, filter=[f"base_model:quantized:{name}", "gguf"], limit="3")
    answers = _together(asked, until, **calls)
    for fault in answers.values():
        if isinstance(fault, Fault) and fault.kind in ("gated", "forbidden", "bad_token"):
            raise hubfaults.refusal(fault, found, gated=str(info["gated"] or ""))
    return material | _sorted(answers, gated=bool(info["gated"]))


def _wanted(files: Mapping[str, Any]) -> dict[str, str]:
    """The files worth reading, by the part of the material that they become."""
    described = "config.json" if "config.json" in files else "params.json"
    wanted = {
        "config" if described == "config.json" else "params": described,
        "index": INDEX,
        "adapter": ADAPTER_CONFIG,
    }
    return {part: file for part, file in wanted.items() if file in files}


def _sorted(answers: Mapping[str, Any], *, gated: bool) -> Material:
    """The answers of the second round trip, with a note for each that is missing."""
    parts: Material = {"unread": []}
    for part, answer in answers.items():
        if not isinstance(answer, Fault):
            parts[part] = answer
        elif part in ("config", "params", "index", "adapter"):
            reason = answer.silence.reason or f"status {answer.status}"
            parts["unread"].append(f"the model's {part} couldn't be read from the Hub: {reason}")
    parts["access"] = True if not gated or parts.keys() - {"unread", "ggufs"} else None
    if parts["access"] is None:
        parts["unread"].append("whether this HF_TOKEN has access to the gated model couldn't be checked")
    if "index" in parts:
        parts["index"] = reduced_index(parts["index"])
    return parts


def _file(asked: Asked, sha: object, name: str, until: float) -> object:
    """A JSON file of the repository. Raises what ``_get`` raises."""
    from huggingface_hub import hf_hub_url

    revision = sha if isinstance(sha, str) and sha else asked.revision or None
    url = hf_hub_url(asked.model, name, revision=revision, endpoint=asked.endpoint)
    return _get(asked, url.removeprefix(asked.endpoint), until)


def _search(asked: Asked, until: float, **query: str | list[str]) -> list[object]:
    """The IDs of the models that the Hub finds, the most downloaded first. Raises what ``_get`` raises."""
    found = _get(asked, "/api/models", until, {"sort": "downloads", **query})
    return [each.get("id") for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _refs(asked: Asked, until: float) -> list[str]:
    """The repository's branches and tags. Raises what ``_get`` raises."""
    found = _get(asked, f"/api/models/{asked.model}/refs", until)
    lists = [found.get(kind) for kind in ("branches", "tags")] if isinstance(found, dict) else []
    names = [ref.get("name") for each in lists if isinstance(each, list) for ref in each if isinstance(ref, dict)]
    return [str(name) for name in names if hubfaults.is_ref(name)]


def _get(asked: Asked, path: str, until: float, query: Mapping[str, str | list[str]] | None = None) -> object:
    """A JSON answer, over the library's connections, read as a stream so that neither size nor slowness runs away.

    The library's own methods for these know no timeout; those that list repeat a refused request for half a minute.

    Raises:
        TimeoutError: it takes too long. ValueError: too large, or no JSON. Others: what the HTTP client raises.
    """
    from huggingface_hub import get_session

    headers = {"authorization": f"Bearer {asked.token}"} if asked.token else {}
    wait = max(0.1, until - time.monotonic())
    body = bytearray()
    url = asked.endpoint + path
    with get_session().stream("GET", url, params=query, headers=headers, timeout=wait) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            body += piece
            if time.monotonic() > until:
                raise TimeoutError
            if len(body) > _LARGEST:
                raise ValueError("too large")
    return json.loads(body)


def _explained(fault: Fault, asked: Asked, until: float) -> Exception:
    """The error for a fault of the first round trip, after a second one for what could have been meant."""
    if fault.kind == "revision":
        names = _together(asked, until, refs=lambda: _refs(asked, until))["refs"]
        names = [] if isinstance(names, Fault) else names
        near = hubfaults.closest(asked.revision, names) or ["main"] * ("main" in names)
        return hubfaults.refusal(fault, asked, near=near)
    if fault.kind != "missing":
        return hubfaults.refusal(fault, asked)
    owner, _, name = asked.model.rpartition("/")
    calls: dict[str, Callable[[], Any]] = {"name": lambda: _search(asked, until, search=name, limit="20")}
    if owner:
        calls["owner"] = lambda: _search(asked, until, author=owner, limit="100")
    if asked.token and fault.status == 401:
        calls["whoami"] = lambda: _get(asked, _WHOAMI, until)
    answers = _together(asked, until, **calls)
    who = answers.pop("whoami", None)
    if isinstance(who, Fault) and who.status == 401:
        return hubfaults.refusal(Fault("bad_token"), asked)
    found = [each for answer in answers.values() if not isinstance(answer, Fault) for each in answer]
    return hubfaults.refusal(fault, asked, near=hubfaults.known_near(asked.model, found))


def _together(asked: Asked, until: float, **calls: Callable[[], Any]) -> dict[str, Any]:
    """The answers to ``calls``, made side by side, in their order; a ``Fault`` for each that failed or took too long.

    The threads are daemons: some of the library's calls know no timeout, and none may hold up the end of the program.
    """
    done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run(name: str, call: Callable[[], Any]) -> None:
        try:
            done.put((name, call()))
        except Exception as error:  # noqa: BLE001  # the library raises whatever an odd answer provokes: KeyError, …
            done.put((name, hubfaults.read(error, asked)))

    for name, call in calls.items():
        threading.Thread(target=run, args=(name, call), daemon=True, name=f"{_THREADS}-{name}").start()
    answers: dict[str, Any] = {}
    while len(answers) < len(calls):
        try:
            name, answer = done.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        answers[name] = answer
    late = hubfaults.read(TimeoutError(), asked)
    return {name: answers.get(name, late) for name in calls}
