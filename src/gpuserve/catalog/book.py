"""The catalogue as a whole: the files beside this one, and before them the user's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from gpuserve.catalog import rows
from gpuserve.catalog.facts import FamilyFacts, GpuSpec, ModelShape
from gpuserve.errors import ConfigError

#: The built-in files.
FILES = ("families.toml", "models.toml", "gpus.toml")
#: The user's own file, in the directory of the settings.
USER_FILE = "catalog.toml"


@dataclass(frozen=True, slots=True)
class Book:
    """All rows: families in the order in which they are tried, models and GPU types."""

    families: tuple[FamilyFacts, ...]
    models: tuple[ModelShape, ...]
    gpus: tuple[GpuSpec, ...]


def book() -> Book:
    """The user's rows, then the built-in ones that they don't replace.

    A family is replaced by one with its ID, a model by one with its name, a GPU type by one of its own.

    Raises:
        ConfigError: a file can't be read, or a row makes no sense; the message names file and row.
    """
    path = user_path()
    try:
        stamp = path.stat()
    except OSError:
        return builtin()
    return _joined(path, stamp.st_mtime_ns, stamp.st_size)


@cache
def builtin() -> Book:
    """What ships with gpuserve."""
    here = files(__package__ or "gpuserve.catalog")
    read = [rows.parse(here.joinpath(name).read_text(encoding="utf-8"), name) for name in FILES]
    return Book(
        families=tuple(row for part in read for row in part.families),
        models=tuple(row for part in read for row in part.models),
        gpus=tuple(row for part in read for row in part.gpus),
    )


def user_path() -> Path:
    """Where the user's own catalogue is, or would be."""
    from gpuserve.settings import config_directory

    return config_directory() / USER_FILE


@cache
def _joined(path: Path, changed: int, size: int) -> Book:  # noqa: ARG001  # a changed file is read again
    mine, base = rows.parse(_text(path), str(path)), builtin()
    ids = {family.id for family in mine.families}
    models = {model.hf.lower() for model in mine.models}
    names = {gpu.name for gpu in mine.gpus}
    families = (*mine.families, *(family for family in base.families if family.id not in ids))
    return Book(
        families=families,
        models=(
            *(_placed(model, families) for model in mine.models),
            *(model for model in base.models if model.hf.lower() not in models),
        ),
        gpus=(*mine.gpus, *(gpu for gpu in base.gpus if gpu.name not in names)),
    )


def _placed(model: ModelShape, families: tuple[FamilyFacts, ...]) -> ModelShape:
    """The model with its family, which a row needn't name."""
    found = next((family.id for family in families if family.match.search(model.hf)), "")
    return model if model.family else replace(model, family=found)


def _text(path: Path) -> str:
    hint = "mend or remove the file"
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} can't be read: it is not UTF-8 text", hint=hint) from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}", hint=hint) from error
