"""What is decided, refused and said before anything is created, from what was seen."""

from __future__ import annotations

import pytest

from gpuserve.catalog.facts import GIB
from gpuserve.catalog.hub import HubFacts, HubSilence
from gpuserve.errors import ConfigError, DoesNotFit, NotFound, QuotaExceeded, UsageError
from gpuserve.records import ServeRequest
from gpuserve.sandboxes.survey import Free, PlatformFacts
from gpuserve.serving import defaults
from gpuserve.serving.models import known
from gpuserve.serving.plan import Plan, at_port, make_plan
from gpuserve.serving.preflight import Rules, Seen
from gpuserve.settings import load

OPEN = Rules("daytona", any_gpu=True)
NAMED = Rules("daytona")
FORCED = Rules("daytona", force=True)


def plan(model: str, engine: str = "vllm", rules: Rules = OPEN, seen: Seen = Seen(), **changes: object) -> Plan:
    given: dict[str, object] = {"model": model, "engine": engine, "gpus": defaults.GPUS, **changes}
    request = ServeRequest(**given)  # type: ignore[arg-type]  # keyword by keyword, checked by the record itself
    return make_plan(request, place=rules.place, seen=seen, rules=rules)


def said(made: Plan) -> str:
    return " ".join(made.notes)


def test_a_model_that_fits_gets_the_guides_gpus_and_no_flags() -> None:
    made = plan("openai/gpt-oss-20b", "sglang")
    assert made.request.gpus == ("H100", "RTX-PRO-6000")
    assert made.fit is not None
    assert 1_000_000 < made.fit.kv_tokens < 1_400_000
    assert "--mem-fraction-static" not in made.launch.argv


def test_the_guides_overrides_for_the_120b_come_by_themselves() -> None:
    made = plan("openai/gpt-oss-120b", "sglang", NAMED, gpus=("H100",))
    line = made.command
    assert "--mem-fraction-static 0.93" in line
    assert "--cuda-graph-max-bs 64" in line
    assert made.launch.env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert line.count("--mem-fraction-static") == 1
    assert "0.93" in said(made)


def test_a_bigger_gpu_is_taken_where_the_usual_ones_are_too_small() -> None:
    made = plan("meta-llama/Llama-3.3-70B-Instruct")
    assert made.request.gpus[0] == "B200"
    assert "H100" not in made.request.gpus


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(DoesNotFit, match=r"134\.0 GiB, and H100 has 79\.6 GiB") as caught:
        plan("meta-llama/Llama-3.3-70B-Instruct", rules=NAMED, gpus=("H100",))
    for way in ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "--gpu B200", "--gpu-count 2", "--force"):
        assert way in caught.value.hint


def test_force_goes_on_and_says_so() -> None:
    made = plan("meta-llama/Llama-3.3-70B-Instruct", rules=FORCED, gpus=("H100",))
    assert made.request.gpus == ("H100",)
    assert made.fit is None
    assert "--force was given" in said(made)
    assert "--max-model-len" not in made.launch.argv


def test_of_named_types_those_that_hold_the_model_are_kept() -> None:
    made = plan("meta-llama/Llama-3.3-70B-Instruct", rules=NAMED, gpus=("H100", "B300", "B200"))
    assert made.request.gpus == ("B300", "B200")


def test_several_gpus_are_planned_as_tensor_parallel() -> None:
    made = plan("meta-llama/Llama-3.3-70B-Instruct", rules=NAMED, gpus=("H100",), gpu_count=2)
    assert "--tensor-parallel-size 2" in made.command
    assert made.request.gpu_count == 2
    assert plan("meta-llama/Llama-3.3-70B-Instruct", "sglang", NAMED, gpus=("H100",), gpu_count=4).command.count(
        "--tp-size 4"
    )


@pytest.mark.parametrize("model", ["openai/gpt-oss-20b", "somebody/unheard-of"])
@pytest.mark.parametrize("rules", [OPEN, NAMED])
def test_the_number_of_gpus_that_is_asked_for_is_the_one_that_is_used(model: str, rules: Rules) -> None:
    made = plan(model, rules=rules, gpus=("H100",), gpu_count=2)
    assert made.request.gpu_count == 2
    assert made.command.count("--tensor-parallel-size 2") == 1


@pytest.mark.parametrize("model", ["openai/gpt-oss-20b", "somebody/unheard-of"])
@pytest.mark.parametrize(
    ("count", "said_of_it"),
    [(14, "14 GPUs in one sandbox can't be planned: at most 8"), (3, "can't be spread evenly over 3 GPUs")],
)
def test_a_number_of_gpus_that_cannot_be_is_refused(model: str, count: int, said_of_it: str) -> None:
    with pytest.raises(UsageError, match=said_of_it):
        plan(model, rules=NAMED, gpus=("H100",), gpu_count=count)
    with pytest.raises(UsageError, match=f"{count} GPUs are asked for, but no GPU is"):
        plan(model, rules=NAMED, gpus=(), gpu_count=count)
    forced = plan(model, rules=FORCED, gpus=("H100",), gpu_count=count)
    assert forced.request.gpu_count == count
    assert f"--tensor-parallel-size {count}" in forced.command


def test_who_spreads_a_model_themselves_may_take_any_number() -> None:
    for argument in ("--data-parallel-size=3", "-dp=3", "--pipeline_parallel_size=3"):
        made = plan("openai/gpt-oss-20b", rules=NAMED, gpus=("H100",), gpu_count=3, engine_args=(argument,))
        assert made.request.gpu_count == 3
        assert "tensor-parallel" not in made.command
    plan("openai/gpt-oss-20b", "llamacpp", NAMED, gpus=("H100",), gpu_count=3)


def test_one_gpu_that_is_asked_for_is_not_made_two() -> None:
    only = Seen(platform=PlatformFacts(gpu_quota=4, gpus_used=0, allowed_gpus=("H100",)))
    with pytest.raises(DoesNotFit, match="H100 has"):
        plan("meta-llama/Llama-3.3-70B-Instruct", rules=Rules("daytona", any_gpu=True, any_count=False), seen=only)


def test_a_context_that_does_not_fit_is_left_to_vllm_unless_the_user_says() -> None:
    made = plan("Qwen/Qwen3-8B", rules=NAMED, gpus=("RTX-4090",))
    assert made.command.endswith("--max-model-len auto")
    assert "full context of 40,960 tokens doesn't fit" in said(made)
    theirs = plan("Qwen/Qwen3-8B", rules=NAMED, gpus=("RTX-4090",), engine_args=("--max-model-len", "8192"))
    assert theirs.command.endswith("--max-model-len 8192")
    assert "auto" not in theirs.command.split("--max-model-len")[1]


def test_the_cheapest_by_the_users_own_prices() -> None:
    prices = {"H100": 4.0, "RTX-4090": 0.7, "RTX-PRO-6000": 2.0}
    made = plan("openai/gpt-oss-20b", rules=Rules("daytona", any_gpu=True, prices=prices))
    assert made.request.gpus == ("RTX-4090", "RTX-PRO-6000")


def test_prices_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSERVE_PRICES", "h100=3.95, rtx_pro_6000=2")
    assert defaults.prices(load()) == {"H100": 3.95, "RTX-PRO-6000": 2.0}
    monkeypatch.setenv("GPUSERVE_PRICES", "H100")
    with pytest.raises(ConfigError, match="'H100' in GPUSERVE_PRICES"):
        defaults.prices(load())


def test_an_architecture_that_the_engine_lacks() -> None:
    with pytest.raises(UsageError, match="doesn't know the architecture") as caught:
        plan("google/gemma-4-12B-it")
    assert "--image" in caught.value.hint
    assert plan("google/gemma-4-12B-it", image="vllm/vllm-openai:v0.23.0").launch.image.endswith("v0.23.0")
    assert plan("google/gemma-4-12B-it", rules=FORCED).launch.engine == "vllm"


def test_an_unknown_model_is_served_without_guesses() -> None:
    made = plan("acme/rocket-7b")
    assert made.fit is None
    assert "parser" not in made.command
    assert "no parser is known for acme/rocket-7b" in said(made)
    assert made.request.gpus == defaults.GPUS


def test_the_hub_gives_an_unknown_model_its_size() -> None:
    shape = {
        "precision": "bf16",
        "weight_gib": 131.4,
        "weight_src": "K",
        "config_src": "C",
        "max_context": 131072,
        "kv_bytes_per_token_vllm": 327680,
        "kv_bytes_per_token_sglang": 327680,
    }
    facts = HubFacts(
        model="acme/rocket-70b", weight_bytes=int(131.4 * GIB), formats=("safetensors",), shape=shape, described=True
    )
    made = plan("acme/rocket-70b", seen=Seen(hub=facts))
    assert made.request.gpus[0] == "B200"
    with pytest.raises(DoesNotFit):
        plan("acme/rocket-70b", rules=NAMED, seen=Seen(hub=facts), gpus=("H100",))


def test_a_silent_hub_is_a_warning() -> None:
    made = plan("openai/gpt-oss-20b", seen=Seen(hub=HubSilence("it is down", "down")))
    assert "wasn't checked on the Hub: it is down" in said(made)


def test_remote_code_is_for_the_sandbox_and_the_makers_own_repository() -> None:
    model = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    assert "--trust-remote-code" in plan(model).launch.argv
    here = plan(model, rules=Rules("local"), gpus=())
    assert "--trust-remote-code" not in here.launch.argv
    assert "--trust-remote-code" in said(here)


PLATFORM = PlatformFacts(
    regions=("us-east-1",), gpu_quota=2, gpus_used=0, allowed_gpus=("H100",), capacity={"H100": Free(0, 1)}
)


def test_the_platform_says_that_it_would_refuse() -> None:
    full = PlatformFacts(gpu_quota=2, gpus_used=2)
    with pytest.raises(QuotaExceeded, match="limit is 2, and 2 are in use"):
        plan("openai/gpt-oss-20b", seen=Seen(platform=full))
    with pytest.raises(QuotaExceeded, match="none of B200 is allowed") as caught:
        plan("openai/gpt-oss-20b", rules=NAMED, gpus=("B200",), seen=Seen(platform=PLATFORM))
    assert caught.value.hint == "--gpu H100"
    assert plan("openai/gpt-oss-20b", rules=FORCED, seen=Seen(platform=full)).launch.engine == "vllm"


def test_the_platform_says_that_it_will_take_a_while() -> None:
    made = plan("openai/gpt-oss-20b", rules=NAMED, gpus=("H100",), target="mars", seen=Seen(platform=PLATFORM))
    assert "no H100 is free now" in said(made)
    assert "region mars is not among those listed: us-east-1" in said(made)
    silent = PlatformFacts(warnings=("the quota can't be read from the platform",))
    assert "the quota can't be read" in said(plan("openai/gpt-oss-20b", seen=Seen(platform=silent)))


def test_every_flag_of_ours_has_a_reason_and_no_flag_of_theirs() -> None:
    made = plan("openai/gpt-oss-120b", "sglang", NAMED, gpus=("H100",), engine_args=("--theirs", "1"))
    ours = [word for word in made.launch.argv if word.startswith("--") and word not in ("--theirs", "--model-path")]
    assert list(made.reasons) == ours
    assert all(made.reasons.values())
    assert "cache" in made.reasons["--enable-cache-report"]
    assert "KV cache" in made.reasons["--mem-fraction-static"]


def test_more_gpus_than_one_are_planned_where_the_quota_allows_them() -> None:
    roomy = Seen(platform=PlatformFacts(gpu_quota=8, gpus_used=0))
    made = plan("meta-llama/Llama-3.3-70B-Instruct", rules=NAMED, gpus=("H100",), gpu_count=2, seen=roomy)
    assert made.request.gpu_count == 2
    only = PlatformFacts(gpu_quota=4, gpus_used=0, allowed_gpus=("H100",))
    made = plan("meta-llama/Llama-3.3-70B-Instruct", seen=Seen(platform=only))
    assert (made.request.gpus, made.request.gpu_count) == (("H100",), 2)
    assert "--tensor-parallel-size 2" in made.command
    assert "tensor parallel over 2" in said(made)
    one = PlatformFacts(gpu_quota=1, gpus_used=0, allowed_gpus=("H100",))
    with pytest.raises(DoesNotFit):
        plan("meta-llama/Llama-3.3-70B-Instruct", seen=Seen(platform=one))


def test_what_the_platform_allows_is_chosen_from() -> None:
    made = plan("openai/gpt-oss-20b", seen=Seen(platform=PlatformFacts(gpu_quota=2, allowed_gpus=("H200", "RTX-4090"))))
    assert made.request.gpus == ("RTX-4090", "H200")
    with pytest.raises(QuotaExceeded, match="allowed: none"):
        plan("openai/gpt-oss-20b", seen=Seen(platform=PlatformFacts(gpu_quota=2, allowed_gpus=())))


def test_a_plan_that_moves_keeps_its_flags() -> None:
    made = plan("openai/gpt-oss-120b", "sglang", NAMED, gpus=("H100",))
    assert at_port(made, 8123).command == made.command.replace("--port 8000", "--port 8123")


def test_known_models_and_the_smallest_gpu_for_each() -> None:
    (one,) = known("gpt-oss-20b")
    shown = one.as_dict()
    assert shown["model"] == "openai/gpt-oss-20b"
    assert shown["engines"]["vllm"]["gpu"] == "RTX-4090"  # type: ignore[index]  # JSON
    assert len(known("")) >= 140
    assert len(known("QWEN3")) > 10
    assert known("gemma-4-12b")[0].fits["vllm"] is None
    with pytest.raises(NotFound, match="no model 'gpt-oss-20c'") as caught:
        known("gpt-oss-20c")
    assert "openai/gpt-oss-20b" in caught.value.hint
