"""Takes secrets out of text before it is shown, logged or saved.

A ``Redactor`` works on whole lines or whole texts: a secret that is cut in two by the caller can't be seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, urlsplit

MASK = "***"
_SHORTEST = 6  # a shorter "secret" would blank half of an ordinary log

# The 16 characters in which a signed preview URL carries its credential, as host name and as path.
_SIGNED_HOST = re.compile(r"(://\d{1,5}-)([a-z0-9]{16})(?=\.)", re.ASCII)
_SIGNED_PATH = re.compile(r"(/preview/\d{1,5}-)([a-z0-9]{16})(?![\w-])", re.ASCII)

# What a secret looks like wherever it turns up: the first group of each stays, the rest of the match goes.
# vLLM and SGLang print their whole configuration at boot, hence the forms of a dictionary and of a call.
_SHAPES = (
    _SIGNED_HOST,
    _SIGNED_PATH,
    re.compile(r"(\b)(?:hf|dtn)_[A-Za-z0-9]{16,}"),
    re.compile(r"(\b)eyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]+)?", re.ASCII),
    re.compile(r"(://)[^/\s:@'\"]+:[^/\s@'\"]+(?=@)"),
    re.compile(r"((?i:\bbearer)\s+)[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"((?i:x-daytona-preview-token)[\"']?\s*[:=]\s*[\"']?)[^\s\"',&]+"),
    re.compile(r"(DAYTONA_SANDBOX_AUTH_KEY=)[^&\s\"']+"),
    re.compile(r"((?i:[?&](?:x-amz-(?:signature|credential|security-token)|signature|token|api_key)=))[^&\s\"']+"),
    re.compile(r"(\b(?:[A-Z][A-Z0-9_]*_)?(?:API_KEY|TOKEN|SECRET|PASSWORD)=)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"']+)"),
    re.compile(r"(--(?:api-key|hf-token|admin-api-key)[\"']?(?:,\s*|\s+|=))(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"',\]]+)"),
    re.compile(
        r"((?i:\b(?:\w+_)?(?:api_key|hf_token|auth_token))[\"']?\s*[:=]\s*)"
        r"(?:\[[^\]\n]*\]|\([^)\n]*\)|\"[^\"\n]*\"|'[^'\n]*')"
    ),
)


#: Names of variables whose values must not be shown.
SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


class Redactor:
    """Replaces known secrets, and whatever has the shape of one, by ``***``.

    A known secret of at least six characters is also found as JSON, Python and URLs escape it, and line by
    line if it has several. Where secrets overlap, the whole stretch is replaced, so that no tail is left.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST}
        self._known = tuple(sorted(known, key=len, reverse=True))
        # Looks ahead only, so that overlapping secrets are all found; the longest first at each place.
        self._find = re.compile(f"(?=({'|'.join(map(re.escape, self._known))}))") if known else None

    def __call__(self, text: str) -> str:
        text = self._without_known(text)
        for shape in _SHAPES:
            text = shape.sub(rf"\g<1>{MASK}", text)
        return self._without_known(text)

    def _without_known(self, text: str) -> str:
        # Repeated because a mask and its neighbours could spell a secret; each round makes the text shorter.
        while self._find is not None and any(secret in text for secret in self._known):
            pieces, end = [], 0
            for start, stop in _merged((found.start(1), found.end(1)) for found in self._find.finditer(text)):
                pieces += [text[end:start], MASK]
                end = stop
            text = "".join([*pieces, text[end:]])
        return text


def _forms(secret: str) -> set[str]:
    """``secret`` as it may stand in a text: itself, its lines, and its escaped forms."""
    plain = {secret, *secret.splitlines()}
    return plain | {
        form
        for part in plain
        for form in (quote(part, safe="", errors="replace"), json.dumps(part)[1:-1], repr(part)[1:-1])
    }


def _merged(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """``spans``, sorted by their starts, with those that overlap or touch made one."""
    start = stop = -1
    for first, last in spans:
        if first > stop:
            if stop >= 0:
                yield start, stop
            start = first
        stop = max(stop, last)
    if stop >= 0:
        yield start, stop


def signed_token(url: str) -> str:
    """The credential inside a signed preview URL; "" if ``url`` isn't one."""
    found = _SIGNED_HOST.search(url) or _SIGNED_PATH.search(url)
    return found[2] if found else ""


def shown_url(url: str) -> str:
    """``url`` fit for a message: without user, query and fragment, and with a signed URL's credential masked."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an unreadable address"
    return Redactor()(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def secrets_in(url: str, headers: Mapping[str, str], api_key: str) -> tuple[str, ...]:
    """The secrets of one way in: header values, an engine's key unless it is "EMPTY", a signed URL's credential."""
    key = "" if api_key == "EMPTY" else api_key
    return tuple(secret for secret in (*headers.values(), key, signed_token(url)) if secret)


def secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """Values of environment variables whose names say that they must not be shown."""
    return tuple(value for name, value in env.items() if value and SECRET_NAME.search(name))
