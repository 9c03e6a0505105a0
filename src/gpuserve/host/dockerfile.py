"""What the local host can take from a Dockerfile: the last ``FROM``, its ``ENV`` lines and what pip shall install.

Everything else is named.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

_WITHOUT_EFFECT = frozenset(
    {"ARG", "LABEL", "EXPOSE", "USER", "WORKDIR", "CMD", "SHELL", "STOPSIGNAL", "HEALTHCHECK", "MAINTAINER", "VOLUME"}
)
_HARMLESS_RUN = re.compile(
    r"apt-get (update|install|clean)\b|(python\S* -m )?pip install --upgrade pip$|echo .*debconf"
)
"""What the SDK's ``Image.debian_slim`` writes by itself: prepares a system that is already there on this machine."""


_PIP = re.compile(r"python3? -m pip install (?P<words>[^-|&;<>`$][^|&;`$]*)")
"""What the SDK's ``Image.pip_install`` writes for packages by name, without options."""


@dataclass
class Recipe:
    """A Dockerfile as the host reads it."""

    image: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)
    """Python packages that the image shall have, as pip takes them."""
    skipped: list[str] = field(default_factory=list)
    """Instructions without effect here, worth a line in the build log."""
    unsupported: list[str] = field(default_factory=list)
    """Instructions that would change what the sandbox holds: the build has to fail."""


def read_dockerfile(text: str) -> Recipe:
    """The recipe in ``text``. Comments and continued lines are understood; a later ``FROM`` starts afresh."""
    recipe = Recipe()
    joined = re.sub(r"\\[ \t]*\n", " ", text)
    for line in filter(None, (piece.strip() for piece in joined.splitlines())):
        if not line.startswith("#"):
            word, _, rest = line.partition(" ")
            recipe = _apply(recipe, word.upper(), rest.strip(), line)
    return recipe


def _apply(recipe: Recipe, word: str, rest: str, line: str) -> Recipe:
    if word == "FROM":
        words = [one for one in rest.split() if not one.startswith("--")]
        return Recipe(image=words[0] if words else None)
    if word == "ENV":
        recipe.env.update(_variables(rest))
    elif word == "RUN" and (found := _packages(rest)):
        recipe.packages += found
    elif word in _WITHOUT_EFFECT or (word == "RUN" and _HARMLESS_RUN.match(rest)):
        recipe.skipped.append(line)
    else:
        recipe.unsupported.append(line)
    return recipe


def _packages(command: str) -> list[str]:
    """What a plain ``pip install`` names; empty for any other command, and for one with options."""
    match = _PIP.fullmatch(command)
    if match is None:
        return []
    try:
        words = shlex.split(match["words"])
    except ValueError:
        return []
    return [] if any(one.startswith("-") or "/" in one for one in words) else words


def _variables(rest: str) -> dict[str, str]:
    name, blank, value = rest.partition(" ")
    if blank and "=" not in name:
        return {name: value.strip()}
    try:
        words = shlex.split(rest)
    except ValueError:
        words = rest.split()
    pairs = (word.partition("=") for word in words)
    return {key: content for key, sign, content in pairs if sign}
