"""``doctor``: what works here and what doesn't, each with its mend."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from gpuserve.catalog import hub
from gpuserve.durations import format_duration
from gpuserve.errors import ConfigError, GpuserveError, NotAuthenticated
from gpuserve.sandboxes.manager import Place, Sandboxes
from gpuserve.sandboxes.survey import PlatformFacts, survey
from gpuserve.serving.context import Context
from gpuserve.serving.defaults import default_target

State = Literal["ok", "warning", "failed"]
#: Seconds that the platform's clock and ours may differ: signed URLs and deadlines are shown by ours.
CLOCK_TOLERANCE = 30.0
#: Seconds for one look.
LOOK_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``mend`` is what to type or do, "" where there is nothing to mend."""

    name: str
    state: State
    detail: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """As ``doctor --json`` prints it."""
        return {"name": self.name, "state": self.state, "detail": self.detail, "mend": self.mend}


def examine(context: Context) -> list[Finding]:
    """Everything, looked at concurrently, told in a fixed order."""
    looks: list[Callable[[Context], list[Finding]]] = [_platform, _hugging_face, _embedded, _engines, _local_host]
    with ThreadPoolExecutor(max_workers=len(looks)) as pool:
        return [finding for found in pool.map(lambda look: look(context), looks) for finding in found]


def _platform(context: Context) -> list[Finding]:
    place = context.place_to_ask()
    if place is None:
        if context.only_local:
            return [Finding("api", "ok", "the local host isn't running; up --local starts it")]
        mend = "set DAYTONA_API_KEY in the environment or .env; gpuserve up --local needs none"
        return [Finding("key", "warning", "no Daytona API key", mend)]
    found = [_reach(place), _key(place)]
    if found[-1].state == "ok":
        target = context.settings.region or default_target(place.name)
        facts = survey(place, target)
        found += [_region(facts, target), _quota(facts), _capacity(facts)]
    return found


def _reach(place: Place) -> Finding:
    """Whether the API answers, and whether its clock is ours."""
    import httpx

    try:
        answer = httpx.get(f"{place.api_url}/config", timeout=LOOK_TIMEOUT, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        mend = "check the network, and DAYTONA_API_URL if it is set"
        return Finding("api", "failed", f"{place.api_url} can't be reached: {type(error).__name__}", mend)
    try:
        ahead = time.time() - parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except ValueError:
        return Finding("api", "ok", f"{place.api_url} answers")
    if abs(ahead) > CLOCK_TOLERANCE:
        how = "ahead" if ahead > 0 else "behind"
        detail = f"{place.api_url} answers; this machine's clock is {format_duration(abs(ahead))} {how}"
        return Finding("api", "warning", detail, "set the clock: deadlines are shown by it")
    return Finding("api", "ok", f"{place.api_url} answers, the clocks agree")


def _key(place: Place) -> Finding:
    try:
        count = len(Sandboxes(place).deployments())
    except GpuserveError as error:
        return Finding("key", "failed", error.message, error.hint)
    return Finding("key", "ok", f"the key is accepted; {count} deployment{'' if count == 1 else 's'} live")


def _region(facts: PlatformFacts, target: str) -> Finding:
    if facts.regions is None:
        return Finding("region", "warning", "the regions can't be read with this key")
    if target in facts.regions:
        return Finding("region", "ok", f"{target} is there")
    return Finding("region", "warning", f"{target} is not listed", f"--target, one of {', '.join(facts.regions)}")


def _quota(facts: PlatformFacts) -> Finding:
    if facts.gpu_quota is None:
        return Finding("quota", "warning", "the GPU quota can't be read with this key")
    used = facts.gpus_used or 0
    detail = f"{used:g} of {facts.gpu_quota:g} GPUs in use"
    if facts.allowed_gpus is not None:
        detail += f"; allowed: {', '.join(facts.allowed_gpus) or 'none'}"
    if used >= facts.gpu_quota:
        return Finding("quota", "warning", detail, "gpuserve down what is not needed, or ask for a higher limit")
    return Finding("quota", "ok", detail)


def _capacity(facts: PlatformFacts) -> Finding:
    if facts.capacity is None:
        return Finding("capacity", "warning", "the free GPUs can't be read with this key")
    free = [f"{name} {one.on_demand} (spot {one.spot})" for name, one in sorted(facts.capacity.items())]
    return Finding("capacity", "ok", "free now: " + (", ".join(free) or "none"))


def _hugging_face(context: Context) -> list[Finding]:
    token = context.settings.hf_token.get_secret_value()
    if not token:
        mend = "set HF_TOKEN for gated models and faster downloads"
        return [Finding("hugging face", "ok", "no token; open models need none", mend)]
    try:
        who = hub.whoami(token, timeout=LOOK_TIMEOUT)
    except (NotAuthenticated, ConfigError) as error:
        return [Finding("hugging face", "failed", error.message, error.hint)]
    if isinstance(who, hub.HubSilence):
        mend = "check the network, and HF_ENDPOINT if it is set"
        return [Finding("hugging face", "warning", f"the token wasn't checked: {who.reason}", mend)]
    return [Finding("hugging face", "ok", f"the Hub knows this token as {who}'s")]


def _embedded(_: Context) -> list[Finding]:
    missing = [
        name for name in ("aiohttp", "psutil", "socketio", "xllamacpp") if importlib.util.find_spec(name) is None
    ]
    if missing:
        mend = "pip install 'gpuserve[local]'"
        return [Finding("embedded engine", "warning", f"not installed: {', '.join(missing)}", mend)]
    return [Finding("embedded engine", "ok", "llama.cpp's server is installed; gpuserve up --local uses it")]


def _engines(_: Context) -> list[Finding]:
    here = [title for title, found in (("vLLM", _has_vllm()), ("SGLang", _has_sglang())) if found]
    detail = f"on this machine: {', '.join(here)}" if here else "no other engine on this machine; --local has llama.cpp"
    return [Finding("local engines", "ok", detail)]


def _has_vllm() -> bool:
    return shutil.which("vllm") is not None


def _has_sglang() -> bool:
    return importlib.util.find_spec("sglang") is not None


def _local_host(_: Context) -> list[Finding]:
    from gpuserve.host import daemon

    try:
        info = daemon.running()
    except daemon.HostError as error:
        return [Finding("local host", "failed", str(error), "gpuserve host stop")]
    return [Finding("local host", "ok", f"runs at {info.url}" if info else "isn't running; up --local starts it")]
