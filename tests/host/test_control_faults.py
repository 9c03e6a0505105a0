"""Builds that fail, GPUs that are taken, and faults on demand: what the SDK makes of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from daytona import Daytona, GpuType, ListSandboxesQuery, Resources, Sandbox, SandboxState
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaError,
    DaytonaInternalServerError,
    DaytonaNotFoundError,
    DaytonaServiceUnavailableError,
    DaytonaTimeoutError,
)

from gpuserve.host.daemon import HostInfo
from host_tools import call, image, plain, until


def fault(text: str) -> dict[str, str]:
    return {"host/fault": text}


def gpu(kind: GpuType = GpuType.RTX_PRO_6000) -> dict[str, Any]:
    return {"resources": Resources(gpu=1, gpu_type=[kind]), "ephemeral": True}


def test_an_image_that_nothing_stands_for_fails_to_build_with_the_reason(daytona: Daytona) -> None:
    lines: list[str] = []
    with pytest.raises(DaytonaError, match="BUILD_FAILED") as failed:
        daytona.create(image("nobody/knows:this", name="unbuilt"), timeout=30, on_snapshot_create_logs=lines.append)
    assert failed.value.status_code is None
    found = daytona.get("unbuilt")
    assert found.state == SandboxState.BUILD_FAILED
    assert found.error_reason == (
        "manifest unknown: nothing on this machine stands for nobody/knows:this; map it in images.toml"
    )
    assert "FROM nobody/knows:this" in "".join(lines)
    assert "manifest unknown" in "".join(lines)
    with pytest.raises(DaytonaBadRequestError, match="errored state"):
        found.start(timeout=30)


def test_the_build_log_is_followed_and_the_second_build_is_skipped(daytona: Daytona) -> None:
    def log(reference: str) -> str:
        lines: list[str] = []
        daytona.create(image(reference, ephemeral=True), timeout=30, on_snapshot_create_logs=lines.append)
        return "".join(lines)

    assert "FROM debian:12-of-this-test" in log("debian:12-of-this-test")
    assert "FROM" not in log("debian:12-of-this-test")


@pytest.mark.parametrize(
    ("asked", "state", "reason"),
    [("build-failed", "build_failed", "injected fault: build-failed"), ("error", "error", "injected fault: error")],
)
def test_injected_ends_of_a_creation(daytona: Daytona, asked: str, state: str, reason: str) -> None:
    with pytest.raises(DaytonaError, match="error state"):
        daytona.create(image(labels=fault(asked), name="ends", **gpu()), timeout=30)
    found = daytona.get("ends")
    assert (found.state, found.error_reason) == (SandboxState(state), reason)
    daytona.create(image(**gpu()), timeout=30)  # a failed one holds no GPU


def test_a_gpu_is_held_until_its_sandbox_is_gone(daytona: Daytona) -> None:
    holder = daytona.create(image(**gpu()), timeout=30)
    waiting: list[Sandbox] = []
    thread = threading.Thread(
        target=lambda: waiting.append(daytona.create(image(name="waits", **gpu()), timeout=60)), daemon=True
    )
    thread.start()
    until(lambda: "waits" in {one.name for one in daytona.list()})
    time.sleep(0.5)
    assert daytona.get("waits").state == SandboxState.PENDING_BUILD
    holder.delete(timeout=30, wait=True)
    thread.join(30)
    assert [one.state for one in waiting] == [SandboxState.STARTED]


def test_the_next_type_is_taken_when_the_first_is_held(daytona: Daytona) -> None:
    first = daytona.create(image(**gpu()), timeout=30)
    both = Resources(gpu=1, gpu_type=[GpuType.RTX_PRO_6000, GpuType.H100])
    second = daytona.create(image(resources=both, ephemeral=True), timeout=30)
    assert [str(one.gpu_type) for one in (first, second)] == ["GpuType.RTX_PRO_6000", "GpuType.H100"]


def test_without_capacity_the_creation_waits_and_can_be_deleted(daytona: Daytona) -> None:
    with pytest.raises(DaytonaTimeoutError) as late:
        daytona.create(image(labels=fault("no-capacity"), name="queued"), timeout=1)
    found = daytona.get("queued")
    assert (found.id, found.state) == (late.value.sandbox_id, SandboxState.PENDING_BUILD)
    found.delete(timeout=30, wait=True)
    with pytest.raises(DaytonaNotFoundError):
        daytona.get("queued")


def test_deleting_while_it_boots_is_a_conflict(host: HostInfo, daytona: Daytona) -> None:
    body = {"name": "boots", "labels": fault("slow-boot=1.5"), "autoDeleteInterval": 0}
    assert call(host, "POST", "/sandbox", json=body).json()["state"] == "pending_build"
    until(lambda: daytona.get("boots").state == SandboxState.CREATING)
    found = daytona.get("boots")
    with pytest.raises(DaytonaConflictError, match="Sandbox state change in progress"):
        found.delete(timeout=30)
    with pytest.raises(DaytonaConflictError):
        found.stop(timeout=30)
    found.wait_for_sandbox_start(30)
    found.delete(timeout=30, wait=True)


def test_a_build_can_be_broken_off_by_deleting(host: HostInfo, daytona: Daytona, tmp_path: Path) -> None:
    script, go = tmp_path / "python3", tmp_path / "go"
    script.write_text(f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.05; done\nexit 1\n")
    script.chmod(0o700)
    profiles = host.state_dir.parent / "images.toml"
    profiles.write_text(f'[[image]]\npattern = "slow:*"\npath = ["{tmp_path}"]\nmodules = ["m"]\n')
    try:
        build = {"dockerfileContent": "FROM slow:1"}
        made = call(host, "POST", "/sandbox", json={"name": "slow", "buildInfo": build, "autoDeleteInterval": 0}).json()
        until(lambda: daytona.get("slow").state == SandboxState.BUILDING_SNAPSHOT)
        daytona.get("slow").delete(timeout=30, wait=True)
        assert not (host.state_dir / "sandboxes" / made["id"]).exists()
    finally:
        profiles.unlink()
        go.touch()


def test_conflicts_on_delete_end_after_their_number(daytona: Daytona) -> None:
    sandbox = daytona.create(plain(labels=fault("conflict-on-delete=2"), ephemeral=True), timeout=30)
    for _ in range(2):
        with pytest.raises(DaytonaConflictError):
            sandbox.delete(timeout=30)
    sandbox.delete(timeout=30, wait=True)


def test_a_lost_answer_leaves_the_sandbox(daytona: Daytona) -> None:
    labels = fault("lost-answer") | {"run": "lost"}
    with pytest.raises(DaytonaError) as lost:
        daytona.create(plain(labels=labels, ephemeral=True), timeout=30)
    assert lost.value.status_code is None
    (found,) = daytona.list(ListSandboxesQuery(labels={"run": "lost"}))
    until(lambda: daytona.get(found.id).state == SandboxState.STARTED)


def test_a_late_answer_comes_after_the_sandbox(host: HostInfo, daytona: Daytona) -> None:
    body = {"name": "late", "labels": fault("slow-create=20"), "autoDeleteInterval": 0}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{host.url}/sandbox", json=body, headers={"Authorization": f"Bearer {host.key}"}, timeout=0.5)
    until(lambda: daytona.get("late").state == SandboxState.STARTED)


def test_a_refused_creation_with_a_status_of_choice(daytona: Daytona) -> None:
    with pytest.raises(DaytonaServiceUnavailableError):
        daytona.create(plain(labels=fault("create=503")), timeout=30)


def test_api_and_toolbox_faults_last_for_their_count(daytona: Daytona, sandbox: Sandbox) -> None:
    sandbox.set_labels(fault("toolbox=500:1, api=500:2"))
    with pytest.raises(DaytonaInternalServerError, match="injected fault"):
        sandbox.process.exec("true")
    assert sandbox.process.exec("echo fine").result == "fine\n"
    for _ in range(2):
        with pytest.raises(DaytonaInternalServerError):
            daytona.get(sandbox.id)
    assert daytona.get(sandbox.id).id == sandbox.id
    with pytest.raises(DaytonaBadRequestError, match="no fault"):
        sandbox.set_labels(fault("api=200"))


def test_an_evicted_sandbox_can_still_be_read(daytona: Daytona) -> None:
    sandbox = daytona.create(image(labels=fault("evict=0.2"), **gpu()), timeout=30)
    until(lambda: daytona.get(sandbox.id).state == SandboxState.DESTROYED)
    assert daytona.get(sandbox.id).spot_evicted_at is not None
    assert sandbox.id not in {one.id for one in daytona.list()}
    with pytest.raises(DaytonaNotFoundError):
        sandbox.delete(timeout=30)
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.exec("true")
