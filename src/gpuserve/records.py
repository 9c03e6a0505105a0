"""The nouns that all rooms share: frozen, validated where they are made, free of behaviour that reaches outside.

A ``ServeRequest`` is what somebody asked for, a ``LaunchPlan`` what an engine makes of it, an
``Endpoint`` where the result answers, a ``Deployment`` all that is known of one sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from gpuserve.errors import UsageError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

#: GPU types that Daytona knows (``daytona.GpuType`` of SDK 0.226.1; a test compares the two).
GPU_TYPES = ("H100", "H200", "B200", "B300", "RTX-PRO-6000", "RTX-4090", "RTX-5090", "MI355X")

#: Wall-clock seconds after which a deployment is deleted when nothing else is asked for.
DEFAULT_TTL = 4 * 3600
#: Seconds that ``up`` waits for the engine (the guides' BOOT_TIMEOUT).
DEFAULT_BOOT_TIMEOUT = 900
#: The port that the guides use.
DEFAULT_PORT = 8000
#: States of a sandbox that is deleted, or about to be: no deployment that a bare command means.
GONE = ("destroyed", "destroying")
#: The ways in that the guides' tables list, in increasing order of openness.
ACCESS_MODES = ("token", "signed", "key", "open")
#: The label that makes a deployment a worker of a fleet: everybody who sees the sandbox sees that.
FLEET_LABEL = "gpuserve/fleet"
#: The label of a sandbox in which a fleet's gateway runs; it serves no model itself.
GATEWAY_LABEL = "gpuserve/gateway"
#: Where the engine's own key lies in a sandbox, as its shell writes it: never in an argument, a label or the log.
KEY_FILE = '"${HOME:-/tmp}"/.gpuserve-key'

_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?(?::[\w.-]{1,64})?", re.ASCII)
_MODEL_PATH = re.compile(r"/[\w.+@=,:~ /-]+", re.ASCII)
_IMAGE = re.compile(
    r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?::\d{1,5})?(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?", re.ASCII)
_SERVED = re.compile(r"[\w][\w./:@+-]{0,127}", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+/=-]{7,255}", re.ASCII)
_TARGET = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_NOTHING: Mapping[str, str] = MappingProxyType({})


def _check(pattern: re.Pattern[str], value: str, what: str, hint: str) -> None:
    if not pattern.fullmatch(value):
        raise UsageError(f"{value!r} is no {what}", hint=hint)


def check_model(model: str) -> None:
    """Raises ``UsageError`` unless ``model`` is a Hugging Face ID or an absolute path."""
    hint = "write a Hugging Face model ID such as openai/gpt-oss-20b, or an absolute path"
    is_path = model.startswith("/")
    if ".." in model or ("--" in model.split(":")[0] and not is_path):
        raise UsageError(f"{model!r} is no model ID", hint=hint)
    _check(_MODEL_PATH if is_path else _MODEL_ID, model, "model ID", hint)


def check_image(image: str) -> None:
    """Raises ``UsageError`` unless ``image`` is one container image reference (it goes into a Dockerfile)."""
    if len(image) > 255:
        raise UsageError("the image reference is longer than 255 characters")
    _check(_IMAGE, image, "image reference", "write one such as vllm/vllm-openai:v0.22.1")


def check_name(name: str) -> None:
    """Raises ``UsageError`` unless ``name`` can be a deployment's name."""
    _check(_NAME, name, "deployment name", "use up to 63 small letters, digits, dots and hyphens, such as my-model")


def check_port(port: int) -> None:
    """Raises ``UsageError`` unless ``port`` can be listened on and isn't the platform's own."""
    if not 1 <= port <= 65535:
        raise UsageError(f"port {port} is out of range", hint="use 1 to 65535, for example --port 8000")
    if port in (2280, 22222, 33333):
        raise UsageError(
            f"port {port} belongs to the platform", hint="2280, 22222 and 33333 are taken; try --port 8000"
        )


def check_gpus(gpus: tuple[str, ...]) -> None:
    """Raises ``UsageError`` unless every type is one that the platform knows."""
    for gpu in gpus:
        if gpu not in GPU_TYPES:
            raise UsageError(f"unknown GPU type {gpu!r}", hint="known: " + ", ".join(GPU_TYPES))


def check_key(key: str) -> None:
    """Raises ``UsageError`` unless ``key`` can be an engine's API key: what a bearer token is made of (RFC 6750)."""
    if not _KEY.fullmatch(key):  # the key itself is never repeated in a message
        raise UsageError(
            "that can't be an engine's API key",
            hint="8 to 256 letters, digits and . _ ~ + / = -, a letter or digit first; left out, one is generated",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """What somebody asked ``up`` for. Everything is checked here, before anything is created.

    ``ttl`` is in seconds from creation (None: no limit), ``idle`` in seconds without a request after which the
    platform deletes it (None: it doesn't look), ``timeout`` in seconds of waiting for the engine, ``memory`` and
    ``disk`` in GiB, ``queue_timeout`` in minutes. Empty strings and None mean "not said": the engine or the platform
    decides. ``env`` may hold secrets.

    ``access`` is one of ``ACCESS_MODES``, ``public`` what it means for the platform's proxy; ``api_key`` is the key
    that the engine shall check, "" for none. ``fleet`` is the fleet that it is to be a worker of, "" for none.
    ``fast_boot`` asks the engine to be ready sooner and to answer more slowly.
    """

    model: str
    engine: str
    name: str = ""
    served_as: str = ""
    image: str = ""
    port: int = DEFAULT_PORT
    gpus: tuple[str, ...] = ()
    gpu_count: int = 1
    cpu: int | None = None
    memory: int | None = None
    disk: int | None = None
    target: str = ""
    public: bool = False
    access: str = ""
    api_key: str = field(default="", repr=False)
    ttl: int | None = DEFAULT_TTL
    idle: int | None = None
    timeout: int = DEFAULT_BOOT_TIMEOUT
    queue_timeout: int | None = None
    revision: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    engine_args: tuple[str, ...] = ()
    fleet: str = ""
    fast_boot: bool = False

    def __post_init__(self) -> None:
        check_model(self.model)
        check_port(self.port)
        check_gpus(self.gpus)
        if self.access not in ("", *ACCESS_MODES):
            raise UsageError(f"unknown access {self.access!r}", hint="one of " + ", ".join(ACCESS_MODES))
        if self.api_key:
            check_key(self.api_key)
        self._check_texts()
        self._check_numbers()
        self._check_environment()

    def _check_texts(self) -> None:
        for name in filter(None, (self.name, self.fleet)):
            check_name(name)
        if self.image:
            check_image(self.image)
        if self.served_as:
            _check(_SERVED, self.served_as, "served model name", "use letters, digits and . _ - / : @ +")
        if self.target:
            _check(_TARGET, self.target, "target", "a region such as us-east-1")
        if self.revision:
            _check(_SERVED, self.revision, "revision", "a branch, tag or commit of the model's repository")

    def _check_numbers(self) -> None:
        if self.ttl is not None and self.ttl < 60:
            raise UsageError(
                f"a time to live of {self.ttl} s is too short",
                hint="the least is 60 s, for example --ttl 2h; --ttl none asks for no limit",
            )
        if self.idle is not None and self.idle < 60:
            raise UsageError(
                f"an idle limit of {self.idle} s is too short", hint="the least is 60 s, such as --idle 30m"
            )
        if self.timeout < 1:
            raise UsageError(f"a timeout of {self.timeout} s is too short", hint="for example --timeout 15m")
        sizes = (("cpu", self.cpu), ("memory", self.memory), ("disk", self.disk), ("gpu count", self.gpu_count))
        for what, value in (*sizes, ("queue timeout", self.queue_timeout)):
            if value is not None and value < 1:
                raise UsageError(f"{what} {value} is out of range", hint="use a whole number of at least 1")

    def _check_environment(self) -> None:
        for key, value in self.env.items():
            _check(_ENV_NAME, key, "environment variable name", "write --env KEY=VALUE")
            if "\0" in value:
                raise UsageError(f"the value of {key} holds a NUL byte")
        for argument in self.engine_args:
            if "\0" in argument:
                raise UsageError("an engine argument holds a NUL byte")
        for key in self.labels:
            if not key or key.startswith("gpuserve/"):
                raise UsageError(f"label {key!r} can't be set", hint="write --label KEY=VALUE; gpuserve/ is reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the catalogue knows of a model, for one engine.

    A parser of "" means: pass no such flag. ``family`` is "" for a model that the catalogue doesn't
    know; such a model gets no guessed parser. ``source`` says where the row comes from.

    ``support`` is about the engine's pinned version: "native"; "untested" (a fallback, or a recipe that asks for
    a newer one); "none" (it refuses the model). ``minimum_version`` is the first that serves it, "" if unknown.
    ``remote_code`` says that the engine wants ``--trust-remote-code``, which runs Python out of the model's
    repository; the flag is in ``flags`` only where the look-up was asked for it. ``optional_flags`` help some
    uses and are never passed unasked. ``packages`` are Python packages that the stock image lacks.
    ``gated`` is "yes", "no", "varies" or "unknown"; ``switch`` says how a request switches reasoning.
    ``notes`` are sentences for a person about what was added, left out or missing.
    """

    family: str = ""
    tool_parser: str = ""
    reasoning_parser: str = ""
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    source: str = ""
    optional_flags: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    support: str = "native"
    minimum_version: str = ""
    remote_code: bool = False
    gated: str = "unknown"
    switch: str = ""
    notes: tuple[str, ...] = ()

    @property
    def templates(self) -> tuple[str, ...]:
        """Chat templates that ``flags`` and ``optional_flags`` name: absolute paths in the engine's image."""
        flags = (*self.flags, *self.optional_flags)
        return tuple(value for flag, value in pairwise(flags) if flag == "--chat-template")


@dataclass(frozen=True, slots=True)
class KeyPass:
    """How an engine gets its own API key out of ``KEY_FILE`` when it starts.

    ``variable`` is the variable of its environment that it reads. For an engine that reads none, ``before`` is a line
    that the shell runs first and ``after`` what it appends to the command, both as a POSIX shell reads them.
    """

    variable: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """How an engine serves a model: decided before a cent is spent, printed by ``up --dry-run``.

    ``argv`` is run in a shell session named ``session``; ``path`` are directories appended to PATH
    for it; ``env`` is the sandbox's environment and may hold secrets. ``health_path`` answers 200
    only once the model generates; ``metrics_path`` is "" where there is none. ``key`` says how the engine gets
    its own API key, None where it shall check none. ``notes`` are sentences for a person, each a reason or a warning.
    """

    engine: str
    model: str
    served_model: str
    image: str
    argv: tuple[str, ...]
    port: int
    session: str
    health_path: str
    metrics_path: str = "/metrics"
    path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    key: KeyPass | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BootFact:
    """One thing that a line of an engine's log says about its boot.

    ``phase`` is one of "downloading", "loading", "compiling", "kv_cache", "graphs", "serving"; ``detail``
    is a few words for a person; ``figures`` holds numbers by name (``kv_cache_tokens``, ``max_context``,
    ``weights_gib``, ``seconds``).
    """

    phase: str
    detail: str = ""
    figures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a boot failed, in one sentence, and what to do about it, in one more ("" if unknown)."""

    cause: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a model answers, and with what.

    ``url`` has no trailing slash and no ``/v1``; ``headers`` carry the credential of the way in, and
    ``api_key`` the engine's own ("EMPTY" where it checks none).
    """

    url: str
    served_model: str
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    api_key: str = field(default="EMPTY", repr=False)

    @property
    def base_url(self) -> str:
        """The address that OpenAI clients want: ``url`` and ``/v1``."""
        return f"{self.url}/v1"

    def openai(self, **options: object) -> OpenAI:
        """A ready ``openai.OpenAI`` client. ``options`` go to its constructor (``timeout``, ``max_retries``, …)."""
        from openai import OpenAI

        return OpenAI(base_url=self.base_url, api_key=self.api_key, default_headers=dict(self.headers), **options)  # type: ignore[arg-type]  # caller's options, checked by openai

    def async_openai(self, **options: object) -> AsyncOpenAI:
        """A ready ``openai.AsyncOpenAI`` client, as ``openai()``."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(base_url=self.base_url, api_key=self.api_key, default_headers=dict(self.headers), **options)  # type: ignore[arg-type]  # caller's options, checked by openai


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One sandbox with an engine in it, as its labels and the platform tell.

    ``place`` is "daytona" or "local"; ``state`` the platform's word for the sandbox; ``gpu`` "" where it
    has none; ``expires_at`` None where nothing deletes it. ``access`` is the way in that it is handed out by, one of
    ``ACCESS_MODES``; ``keyed`` says that its engine checks a key of its own. Times are in UTC.
    """

    name: str
    sandbox_id: str
    place: str
    state: str
    engine: str
    model: str
    served_model: str
    port: int
    session: str
    run_id: str
    image: str = ""
    gpu: str = ""
    target: str = ""
    public: bool = False
    access: str = "token"
    keyed: bool = False
    created_at: datetime | None = None
    expires_at: datetime | None = None
    error: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    @property
    def fleet(self) -> str:
        """The fleet that it is a worker of; "" for none."""
        return self.labels.get(FLEET_LABEL, "")

    @property
    def gateway_of(self) -> str:
        """The fleet whose gateway runs in it; "" for none."""
        return self.labels.get(GATEWAY_LABEL, "")

    def age(self, now: datetime | None = None) -> float | None:
        """Seconds since creation; None if the platform doesn't say."""
        return None if self.created_at is None else ((now or datetime.now(UTC)) - self.created_at).total_seconds()

    def time_left(self, now: datetime | None = None) -> float | None:
        """Seconds until the platform deletes it; None if nothing does."""
        return None if self.expires_at is None else (self.expires_at - (now or datetime.now(UTC))).total_seconds()
