"""A create request whose SDK tells late of the build: a stand-in for the SDK's client is late at will."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from daytona import Daytona, SandboxState

from fakes.plans import plan
from gpuserve.records import ServeRequest
from gpuserve.sandboxes.create import Creation, parameters

LAUNCH = plan("vllm", "Qwen/Qwen3-8B")
PARAMS = parameters(ServeRequest(model="Qwen/Qwen3-8B", engine="vllm"), LAUNCH, "late", "abc123")


class LateClient:
    """Its sandbox runs before the request for it is answered, as on the platform, and the build's log comes last."""

    def __init__(self) -> None:
        self.told, self.go_on, self.over = threading.Event(), threading.Event(), threading.Event()

    def create(self, _: Any, **asked: Any) -> Any:
        tell = asked["on_snapshot_create_logs"]
        tell("step 1")
        self.told.set()
        self.go_on.wait(30)
        tell("step 2")
        self.over.set()
        return self.get("late")

    def get(self, _: str, **__: Any) -> Any:
        assert self.told.wait(30)
        return SimpleNamespace(state=SandboxState.STARTED, labels=PARAMS.labels)


def test_nothing_is_told_of_a_build_behind_the_result() -> None:
    client, lines = LateClient(), list[str]()
    creation = Creation(cast("Daytona", client), PARAMS, timeout=30)
    creation.send(lines.append)
    creation.wait(lambda _: None)
    client.go_on.set()
    assert client.over.wait(30)
    assert lines == ["step 1"]


def test_without_a_listener_the_platform_is_not_asked_for_the_log() -> None:
    asked: list[Any] = []

    class Client(LateClient):
        def create(self, _: Any, **told: Any) -> Any:
            asked.append(told["on_snapshot_create_logs"])
            self.told.set()
            return self.get("late")

    creation = Creation(cast("Daytona", Client()), PARAMS, timeout=30)
    creation.send()
    creation.wait(lambda _: None)
    assert asked == [None]
