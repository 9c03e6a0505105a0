"""What stands for an image here, which GPUs there are, and what reaches a sandbox's environment."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from daytona import Daytona, Image
from daytona.common.daytona import CreateSandboxFromImageParams

from gpuserve.host import gpus
from gpuserve.host.dockerfile import read_dockerfile
from gpuserve.host.images import BuildError, Built, Images, normalised, own_programs
from gpuserve.host.store import Sandbox, Store
from gpuserve.host.views import view
from host_tools import image


def build(state: Path, dockerfile: str, lines: list[str] | None = None) -> Built:
    return asyncio.run(Images(state).build(dockerfile, (lines if lines is not None else []).append))


def program(directory: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    script = directory / name
    script.write_text(text)
    script.chmod(0o700)
    return directory


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("python", "python:latest"),
        ("docker.io/library/python:3.12", "python:3.12"),
        ("docker.io/vllm/vllm-openai:v1", "vllm/vllm-openai:v1"),
        ("localhost:5000/mine", "localhost:5000/mine:latest"),
        ("python:3.12@sha256:abc", "python:3.12"),
    ],
)
def test_references_are_brought_to_one_form(reference: str, name: str) -> None:
    assert normalised(reference) == name


def test_a_dockerfile_is_read_for_its_last_stage_and_its_variables() -> None:
    recipe = read_dockerfile(
        "FROM a AS one\nRUN make\n# FROM b\nFROM --platform=linux/amd64 b:1\n"
        "ENV A='x y' B=2\nENV C d e\\\n f\nEXPOSE 1\n"
    )
    assert (recipe.image, recipe.env) == ("b:1", {"A": "x y", "B": "2", "C": "d e  f"})
    assert (recipe.skipped, recipe.unsupported) == (["EXPOSE 1"], [])


@pytest.mark.parametrize("line", ["RUN pip install vllm", "COPY a b", "ADD a b", 'ENTRYPOINT ["x"]'])
def test_an_instruction_that_would_change_the_image_fails_the_build(tmp_path: Path, line: str) -> None:
    with pytest.raises(BuildError, match=r"this host cannot carry out: .*map the image in images\.toml"):
        build(tmp_path, f"FROM python:3.12\n{line}\n")


def test_what_the_sdk_writes_for_a_slim_python_is_harmless(tmp_path: Path) -> None:
    lines: list[str] = []
    text = Image.debian_slim("3.12").env({"A": "b"}).workdir("/x").dockerfile()
    assert build(tmp_path, text, lines) == Built((), {"A": "b"})
    assert "no effect on this machine: RUN apt-get update" in lines


def test_python_packages_are_looked_for_and_not_installed(tmp_path: Path) -> None:
    """As the SDK writes it: what is there will do, what isn't fails the build."""
    lines: list[str] = []
    there = Image.base("python:3.12-slim").pip_install("aiohttp>=3.11,<4", "psutil").dockerfile()
    assert build(tmp_path, there, lines) == Built((), {})
    assert "pip install 'aiohttp>=3.11,<4' psutil: looked for, not installed" in lines
    for wanted in ("aiohttp>=99", "no-such-package-of-ours"):
        with pytest.raises(BuildError, match=r"this host installs nothing: pip install it yourself"):
            build(tmp_path, Image.base("python:3.12").pip_install(wanted).dockerfile())


@pytest.mark.parametrize("more", ["--index-url x", "a; echo", "a && b", "-r x", "./here"])
def test_a_pip_command_that_does_more_fails_the_build(tmp_path: Path, more: str) -> None:
    with pytest.raises(BuildError, match=r"this host cannot carry out"):
        build(tmp_path, f"FROM python:3.12\nRUN python -m pip install {more}\n")


@pytest.mark.parametrize(("text", "reason"), [("", "no FROM"), ("FROM", "no FROM"), ("FROM x/y:1", "manifest unknown")])
def test_a_build_without_an_image_here_fails(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BuildError, match=reason):
        build(tmp_path, text)


def test_an_engine_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(BuildError, match="vllm/vllm-openai:v1 needs vllm, which is not installed here"):
        build(tmp_path, "FROM vllm/vllm-openai:v1")
    with pytest.raises(BuildError, match="needs a python3 with the module sglang"):
        build(tmp_path, "FROM lmsysorg/sglang:v1")
    place = program(tmp_path / "bin", "vllm")
    program(place, "python3", '#!/bin/sh\ncase "$2" in *sglang*) exit 0;; esac\nexit 1\n')
    monkeypatch.setenv("PATH", str(place))
    assert build(tmp_path, "FROM vllm/vllm-openai-cpu:v1").path == (str(place),)
    assert build(tmp_path, "FROM lmsysorg/sglang:v1").path == (str(place),)


def test_the_users_own_profiles_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = program(tmp_path / "venv" / "bin", "vllm")
    file = tmp_path / "images.toml"
    file.write_text(
        f'[[image]]\npattern = "vllm/*"\npath = ["{place}"]\nrequires = ["vllm"]\nenv = {{ V = "1" }}\n'
        '[[image]]\npattern = "mine:*"\nrequires = ["no-such-program"]\n'
    )
    state = tmp_path / "state"
    assert build(state, "FROM vllm/vllm-openai:v1\nENV W=2\n") == Built((str(place),), {"V": "1", "W": "2"})
    with pytest.raises(BuildError, match="mine:1 needs no-such-program"):
        build(state, "FROM mine:1")
    file.write_text("[[image]]\n")
    with pytest.raises(BuildError, match=r"images\.toml cannot be read"):
        build(state, "FROM python:3")
    elsewhere = tmp_path / "other.toml"
    elsewhere.write_text('[[image]]\npattern = "mine:*"\n')
    monkeypatch.setenv("GPUSERVE_HOST_IMAGES", str(elsewhere))
    assert build(state, "FROM mine:1") == Built()


def test_the_same_build_is_done_once(tmp_path: Path) -> None:
    async def both() -> list[str]:
        images, lines = Images(tmp_path), list[str]()
        await asyncio.gather(*(images.build("FROM python:3", lines.append) for _ in range(2)))
        assert images.cached("FROM python:3") == Built()
        assert images.cached("FROM python:4") is None
        return lines

    lines = asyncio.run(both())
    assert lines.count("FROM python:3") == lines.count("using the image built before") == 1


def test_the_environment_of_a_sandbox_is_its_own(daytona: Daytona) -> None:
    base = Image.base("python:3.12").env({"FROM_IMAGE": "1", "BOTH": "image"})
    asked = {"BOTH": "user", "SPACES": "a b"}
    sandbox = daytona.create(CreateSandboxFromImageParams(image=base, env_vars=asked, ephemeral=True), timeout=30)
    printed = sandbox.process.exec("python3 -c 'import json, os; print(json.dumps(dict(os.environ)))'").result
    env = json.loads(printed)
    assert (env["FROM_IMAGE"], env["BOTH"], env["SPACES"]) == ("1", "user", "a b")
    assert env["DAYTONA_SANDBOX_ID"] == sandbox.id
    assert env["PATH"].split(":")[0] == own_programs()
    # vLLM's sockets there are named by a UUID, and a Unix socket's path has 107 characters at most
    assert len(env["TMPDIR"]) + 1 + 36 <= 107
    assert Path(env["TMPDIR"]).stat().st_mode & 0o777 == 0o700
    sandbox.delete(wait=True)
    assert not Path(env["TMPDIR"]).exists()
    assert {"PYTEST_CURRENT_TEST", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES"} & set(env) == set()


def test_a_detected_gpu_is_the_only_one_that_its_sandbox_sees(tmp_path: Path) -> None:
    pool = gpus.from_listing("0, NVIDIA H100 80GB HBM3\n1, NVIDIA GeForce RTX 3090\n2, NVIDIA H100 80GB HBM3\n")
    assert (pool.types, pool.largest) == (("H100",), 2)
    sandbox = Sandbox("id", "name", "token", gpu=1, gpu_ids=["H100/2"])
    assert view(sandbox, tmp_path, pool).env["CUDA_VISIBLE_DEVICES"] == "2"


def test_the_view_and_the_record_hide_secrets_when_printed(tmp_path: Path) -> None:
    sandbox = Sandbox("id", "name", "t0ken", env={"HF_TOKEN": "s3cret"})
    shown = repr(sandbox) + repr(view(sandbox, tmp_path, gpus.Pool()))
    assert "t0ken" not in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("product", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 5090", "RTX-5090"),
        ("NVIDIA A100-SXM4-80GB", None),
    ],
)
def test_products_have_the_platforms_names(product: str, kind: str | None) -> None:
    assert gpus.daytona_name(product) == kind


def test_gpus_found_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.detected() == gpus.Pool()
    program(tmp_path, "nvidia-smi", "#!/bin/sh\necho '0, NVIDIA H200'\n")
    assert gpus.detected() == gpus.Pool((gpus.Gpu("H200/0", "H200", "0"),))
    program(tmp_path, "nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert gpus.detected() == gpus.Pool()


def test_declared_gpus(tmp_path: Path) -> None:
    pool = gpus.declared("H100:2, RTX-PRO-6000,H100")
    assert [gpu.id for gpu in pool.gpus] == ["H100/0", "H100/1", "RTX-PRO-6000/0", "H100/2"]
    assert pool.indices(["H100/0"]) is None
    for wrong in ("A100", "H100:0", "H100:x"):
        with pytest.raises(ValueError, match=r"unknown GPU type|no number of GPUs"):
            gpus.declared(wrong)


def test_the_store_keeps_records_and_no_signed_token(tmp_path: Path) -> None:
    store = Store.load(tmp_path)
    store.sandboxes["id"] = Sandbox("id", "name", "token", labels={"a": "b"}, gpu_ids=["H100/0"])
    token = store.sign("id", 8000, 60)
    assert token not in (tmp_path / "store.json").read_text()
    again = Store.load(tmp_path)
    assert again.sandboxes == store.sandboxes
    found = again.signed_for(token)
    assert found is not None
    assert (found.sandbox_id, found.port) == ("id", 8000)
    again.forget("id")
    assert again.signed_for(token) is None


def test_the_bundled_engine_is_a_program_of_this_python(daytona: Daytona) -> None:
    lines: list[str] = []
    parameters = image("ghcr.io/ggml-org/llama.cpp:server-cuda", ephemeral=True)
    sandbox = daytona.create(parameters, timeout=200, on_snapshot_create_logs=lines.append)
    found = sandbox.process.exec("command -v llama-server; tail -n 1 $(command -v llama-server)").result
    assert "/images/llama.cpp/bin/llama-server\n" in found
    assert f'exec {sys.executable} -P -m gpuserve.host.llama_server "$@"' in found
    assert Path(sandbox.process.exec("echo $LLAMA_CACHE").result.strip()).is_dir()
