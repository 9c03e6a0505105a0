"""Whether a Hugging Face token is good, without showing it to anybody but the Hub."""

from __future__ import annotations

import os


def check(token: str, *, timeout: float) -> tuple[bool | None, str]:
    """Whether the Hub accepts ``token`` (None: the Hub can't be asked), and a sentence for a person.

    The Hub is HF_ENDPOINT's, else the public one; ``timeout`` is in seconds.
    """
    import httpx

    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true"):
        return None, "the token wasn't checked: HF_HUB_OFFLINE is set"
    try:
        answer = httpx.get(f"{endpoint}/api/whoami-v2", headers={"authorization": f"Bearer {token}"}, timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return None, f"the token wasn't checked: the Hub can't be reached ({type(error).__name__})"
    if answer.status_code == 401:
        return False, "the Hub refuses this HF_TOKEN"
    if answer.status_code != 200:
        return None, f"the token wasn't checked: the Hub answered {answer.status_code}"
    try:
        name = str(answer.json().get("name", ""))
    except (ValueError, AttributeError):
        return None, "the token wasn't checked: the Hub's answer makes no sense"
    shown = "".join(char for char in name if char.isprintable())[:60]
    return True, f"the Hub knows this token as {shown or 'a user'}'s"
