from dataclasses import dataclass, field
from datetime import UTC, datetime

from gpuserve.records import ServeRequest
from gpuserve.sandboxes import labels
from gpuserve.serving.plan import make_plan


@dataclass
class Data:
    """A sandbox as the SDK shows it."""

    labels: dict[str, str]
    id: str = "1111"
    name: str = "n"
    public: bool = False
    target: str = "us-east-1"
    gpu: int = 1
    created_at: str | None = "2026-11-22T04:00:00.000Z"
    auto_destroy_at: str | None = "2026-11-22T08:00:00.000Z"
    error_reason: str | None = None
    more: list[str] = field(default_factory=list)


def test_a_deployment_comes_back_from_its_labels() -> None:
    request = ServeRequest(model="openai/gpt-oss-20b", engine="sglang", env={"HF_TOKEN": "hf_planted"})
    plan = make_plan(request, place="daytona")
    written = labels.encode(plan.launch, "run1", {"team": "a"})
    assert "hf_planted" not in str(written)
    found = labels.decode(Data(written), "started", "H100", "daytona")
    assert (found.engine, found.model, found.served_model) == ("sglang", "openai/gpt-oss-20b", "gpt-oss-20b")
    assert (found.port, found.session, found.run_id, found.gpu) == (8000, "sglang", "run1", "H100")
    assert found.created_at == datetime(2026, 11, 22, 4, tzinfo=UTC)
    assert found.time_left(datetime(2026, 11, 22, 7, tzinfo=UTC)) == 3600
    assert labels.routes(found.labels) == labels.Routes("/health_generate", "/metrics")
    assert labels.is_ours(written)
    assert written["team"] == "a"


def test_broken_labels_are_no_errors() -> None:
    found = labels.decode(
        Data({"gpuserve/port": "8٣"}, created_at="yesterday", auto_destroy_at=None, gpu=2), "error", "", "daytona"
    )
    assert (found.port, found.created_at, found.expires_at, found.engine) == (0, None, None, "")
    assert found.gpu == "2x GPU"
    assert not labels.is_ours(found.labels)


def test_a_user_cannot_overwrite_our_labels() -> None:
    plan = make_plan(ServeRequest(model="a/b", engine="vllm"), place="daytona")
    assert labels.encode(plan.launch, "run1", {"gpuserve/run": "forged"})["gpuserve/run"] == "run1"
