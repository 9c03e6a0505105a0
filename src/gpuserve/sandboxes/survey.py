"""What the platform says before anything is created: regions, quota, GPUs free now.

Each look may be closed to a key, or not exist on an older platform: what can't be read is None, with a warning, and
never an error. (Whether an ordinary API key may read usage and capacity on the live platform was not checked.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from gpuserve.sandboxes.manager import Place

if TYPE_CHECKING:
    from daytona_api_client import ApiClient

T = TypeVar("T")
#: Seconds within which each look must be answered.
LOOK_TIMEOUT = 4.0


@dataclass(frozen=True, slots=True)
class Free:
    """GPUs of one type that are free now."""

    on_demand: int
    spot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFacts:
    """What could be read; None for what could not. ``gpu_quota`` and ``gpus_used`` are of the organisation's region.

    ``allowed_gpus`` None also means that the platform names no limit. ``warnings`` are sentences for a person.
    """

    organization: str = ""
    regions: tuple[str, ...] | None = None
    gpu_quota: float | None = None
    gpus_used: float | None = None
    allowed_gpus: tuple[str, ...] | None = None
    capacity: Mapping[str, Free] | None = None
    warnings: tuple[str, ...] = field(default=())


def survey(place: Place, target: str) -> PlatformFacts:
    """Asks the platform, all at once where one answer doesn't depend on another; at most two answers deep."""
    client = _client(place)
    missing: list[str] = []
    with ThreadPoolExecutor(max_workers=3) as pool:
        regions = pool.submit(_read, missing, "the regions", lambda: _regions(client))
        organization = _read(missing, "the key's organisation", lambda: _organization(client)) or ""
        usage = pool.submit(_read, missing, "the quota", lambda: _usage(client, organization, target))
        capacity = pool.submit(_read, missing, "the free GPUs", lambda: _capacity(client, organization))
        quota = usage.result() or {}
        return PlatformFacts(
            organization=organization,
            regions=regions.result(),
            gpu_quota=quota.get("quota"),
            gpus_used=quota.get("used"),
            allowed_gpus=quota.get("allowed"),
            capacity=capacity.result(),
            warnings=tuple(f"{what} can't be read from the platform" for what in missing),
        )


def _client(place: Place) -> ApiClient:
    from daytona_api_client import ApiClient, Configuration

    client = ApiClient(Configuration(host=place.api_url, retries=0))
    client.default_headers["Authorization"] = f"Bearer {place.api_key}"
    return client


def _read(missing: list[str], what: str, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except Exception:  # noqa: BLE001  # generated clients raise what they like; a look that fails is a warning
        missing.append(what)
        return None


def _regions(client: ApiClient) -> tuple[str, ...]:
    from daytona_api_client import RegionsApi

    return tuple(str(region.id) for region in RegionsApi(client).list_shared_regions(_request_timeout=LOOK_TIMEOUT))


def _organization(client: ApiClient) -> str:
    from daytona_api_client import ApiKeysApi

    return str(ApiKeysApi(client).get_current_api_key(_request_timeout=LOOK_TIMEOUT).organization_id or "")


def _usage(client: ApiClient, organization: str, target: str) -> dict[str, Any]:
    from daytona_api_client import OrganizationsApi

    overview = OrganizationsApi(client).get_organization_usage_overview(organization, _request_timeout=LOOK_TIMEOUT)
    usages = list(overview.region_usage)
    named = [one for one in usages if one.region_id == target]
    chosen = named or [one for one in usages if one.total_gpu_quota]
    if not chosen:
        return {}
    allowed = chosen[0].allowed_gpu_types
    return {
        "quota": chosen[0].total_gpu_quota,
        "used": chosen[0].current_gpu_usage,
        "allowed": None if allowed is None else tuple(str(kind.value) for kind in allowed),
    }


def _capacity(client: ApiClient, organization: str) -> dict[str, Free]:
    from daytona_api_client import OrganizationsApi

    answer = OrganizationsApi(client).get_gpu_capacity(organization, _request_timeout=LOOK_TIMEOUT)
    return {str(one.gpu_type.value): Free(one.available_on_demand, one.available_spot) for one in answer.capacity}
