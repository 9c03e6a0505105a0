from pathlib import Path

import pytest

from gpuserve.errors import ConfigError
from gpuserve.settings import DEFAULT_API_URL, config_directory, load


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("DAYTONA_API_KEY", "DAYTONA_API_URL", "DAYTONA_TARGET", "HF_TOKEN", "GPUSERVE_ENGINE", "GPUSERVE_TTL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write_config(text: str) -> None:
    config_directory().mkdir(parents=True)
    (config_directory() / "config.toml").write_text(text)


def test_environment_beats_dotenv_beats_config_beats_defaults(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config('GPUSERVE_ENGINE = "a"\nGPUSERVE_TTL = "1h"\nGPUSERVE_GPU = "H100"\n')
    (elsewhere / ".env").write_text("GPUSERVE_ENGINE=b\nGPUSERVE_TTL=2h\nUNRELATED=x\n")
    monkeypatch.setenv("GPUSERVE_ENGINE", "c")
    settings = load()
    assert (settings.engine, settings.ttl, settings.gpu, settings.model) == ("c", "2h", "H100", "")


def test_a_dotenv_file_cannot_say_where_the_key_goes(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("DAYTONA_API_KEY=dtn_secret\nDAYTONA_API_URL=https://evil.example/api\n")
    assert load().api_url == DEFAULT_API_URL
    assert load().api_key.get_secret_value() == "dtn_secret"
    monkeypatch.setenv("DAYTONA_API_URL", "http://127.0.0.1:1/api/")
    assert load().api_url == "http://127.0.0.1:1/api"


def test_secrets_do_not_show(elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("DAYTONA_API_KEY=dtn_0123456789\nHF_TOKEN=hf_0123456789\n")
    settings = load()
    assert settings.secrets == ("dtn_0123456789", "hf_0123456789")
    assert "0123456789" not in repr(settings) + str(settings) + str(settings.model_dump())


def test_an_empty_variable_is_not_said(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("DAYTONA_API_KEY=fromfile\n")
    monkeypatch.setenv("DAYTONA_API_KEY", "")
    assert load().api_key.get_secret_value() == "fromfile"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GPUSERVE_TARGET=mars\n", "GPUSERVE_TARGET"),
        ("DAYTONA_API_KEY='two words'\n", "DAYTONA_API_KEY"),
        ("HF_TOKEN=ké\n", "HF_TOKEN"),
        ("GPUSERVE_ON_FAILURE=maybe\n", "GPUSERVE_ON_FAILURE"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_but_not_repeated(elsewhere: Path, text: str, said: str) -> None:
    (elsewhere / ".env").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load()
    assert "two words" not in str(caught.value)


def test_an_unreadable_dotenv_is_an_error(elsewhere: Path) -> None:
    (elsewhere / ".env").write_bytes(b"DAYTONA_API_KEY=\xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load()


def test_a_directory_called_dotenv_is_an_error(elsewhere: Path) -> None:
    (elsewhere / ".env").mkdir()
    with pytest.raises(ConfigError, match="directory"):
        load()


def test_a_named_file_must_exist(elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(elsewhere / "other.env")
    (elsewhere / "other.env").write_text("GPUSERVE_ENGINE=sglang\n")
    assert load(elsewhere / "other.env").engine == "sglang"


def test_a_broken_config_file_is_an_error() -> None:
    write_config("GPUSERVE_ENGINE = \n")
    with pytest.raises(ConfigError, match="TOML"):
        load()


def test_an_address_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYTONA_API_URL", "app.example")
    with pytest.raises(ConfigError, match="DAYTONA_API_URL is no"):
        load()
