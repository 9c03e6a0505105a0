"""Settings: read once, passed down, never looked up again.

Precedence: flags > environment > ``.env`` > config file > defaults; the flags are applied by whoever holds
them. All sources use the same names, those of the environment variables.

``DAYTONA_API_URL`` decides where the API key is sent, so it is taken from the environment and from the
user's config file only, never from a ``.env`` that happens to lie in the working directory (the SDK does
the same). Importing this module imports pydantic-settings: do it inside functions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gpuserve.errors import ConfigError

#: The API that the SDK uses when nothing else is said (daytona 0.226.1).
DEFAULT_API_URL = "https://app.daytona.io/api"


class Settings(BaseSettings):
    """What the environment, ``.env`` and the config file say; an empty value means "not said"."""

    model_config = SettingsConfigDict(
        case_sensitive=True, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )
    env_path: ClassVar[Path] = Path(".env")

    api_key: SecretStr = Field(SecretStr(""), alias="DAYTONA_API_KEY", description="Your Daytona API key.")
    api_url: str = Field(
        DEFAULT_API_URL, alias="DAYTONA_API_URL", description="Daytona's API (never read from a .env file)."
    )
    region: str = Field("", alias="DAYTONA_TARGET", description="The region that sandboxes are created in.")
    hf_token: SecretStr = Field(
        SecretStr(""), alias="HF_TOKEN", description="Hugging Face token, for gated models and faster downloads."
    )
    target: Literal["", "daytona", "local"] = Field(
        "", alias="GPUSERVE_TARGET", description='"local" makes every command mean this machine, as --local does.'
    )
    engine_key: SecretStr = Field(
        SecretStr(""),
        alias="GPUSERVE_API_KEY",
        description="The key that the engine asks for with --access key; generated if left out.",
    )
    engine: str = Field("", alias="GPUSERVE_ENGINE", description="Engine when --engine is left out.")
    model: str = Field("", alias="GPUSERVE_MODEL", description="Model when --model is left out.")
    gpu: str = Field("", alias="GPUSERVE_GPU", description="GPU types in order of preference, comma separated.")
    prices: str = Field(
        "", alias="GPUSERVE_PRICES", description="Your price for an hour of each GPU type, as H100=3.95,H200=5."
    )
    ttl: str = Field("", alias="GPUSERVE_TTL", description="Time to live when --ttl is left out, such as 2h.")
    on_failure: Literal["", "keep", "delete"] = Field(
        "", alias="GPUSERVE_ON_FAILURE", description="What up does with a sandbox whose engine failed."
    )
    log_dir: str = Field("", alias="GPUSERVE_LOG_DIR", description="Where engine logs are saved as they stream.")

    @field_validator("api_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not value.startswith(("https://", "http://")):
            raise ValueError("is no http(s) address")
        return value.rstrip("/")

    @field_validator("api_key", "hf_token", "engine_key")
    @classmethod
    def _is_header_safe(cls, value: SecretStr) -> SecretStr:
        if not all("!" <= character <= "~" for character in value.get_secret_value()):
            raise ValueError("holds white space or characters that no key has")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # replaced by our own
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # not used
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        config = TomlConfigSettingsSource(settings_cls, config_directory() / "config.toml")
        return init_settings, env_settings, _DotEnv(settings_cls, cls.env_path), config

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret that the settings hold, for redaction."""
        held = (one.get_secret_value() for one in (self.api_key, self.hf_token, self.engine_key))
        return tuple(secret for secret in held if secret)


class _DotEnv(DotEnvSettingsSource):
    """A ``.env`` file that has no say in where the API key is sent."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls, env_file=path, env_file_encoding="utf-8")

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name != "DAYTONA_API_URL"}


def load(env_file: Path | None = None) -> Settings:
    """The settings of this process; ``env_file`` replaces ``./.env`` and must then exist.

    Raises:
        ConfigError: a file that can't be read or parsed, or a value that makes no sense.
    """
    path = env_file or Path(".env")
    _check_readable(path, must_exist=env_file is not None)
    _check_readable(config_directory() / "config.toml", must_exist=False)
    import tomllib

    kind = type("Settings", (Settings,), {"env_path": path})
    try:
        loaded = kind()
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{first['loc'][0]} {reason}", hint="mend it in the environment or .env") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{config_directory() / 'config.toml'} is no valid TOML: {error}") from error
    assert isinstance(loaded, Settings)
    return loaded


def _check_readable(path: Path, *, must_exist: bool) -> None:
    if not must_exist and not path.exists():
        return
    hint = "mend or remove the file, or name another with --env-file"
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} can't be read: it is not UTF-8 text", hint=hint) from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}", hint=hint) from error


def config_directory() -> Path:
    """``$XDG_CONFIG_HOME/gpuserve``, else ``~/.config/gpuserve``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gpuserve"


def state_directory() -> Path:
    """``$XDG_STATE_HOME/gpuserve``, else ``~/.local/state/gpuserve``: where engine logs are saved."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpuserve"
