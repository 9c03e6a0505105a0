"""The story of a boot as it is told from events: phases, times, downloads."""

from __future__ import annotations

import io

import pytest

from fakes.deployments import DEPLOYMENT, ENDPOINT
from gpuserve import engines
from gpuserve.cli.narrator import Narrator
from gpuserve.records import BootFact
from gpuserve.serving.events import Boot, BuildLog, Event, Launched, Ready, SandboxState

VLLM = engines.load("vllm")


def from_log(line: str, seconds: float) -> Event:
    fact = VLLM.read(line)
    assert fact is not None
    return Boot(fact, seconds)


def told(*events: Event) -> Narrator:
    narrator = Narrator()
    for event in events:
        narrator.take(event, getattr(event, "seconds", 0.0))
    return narrator


BEFORE: list[Event] = [
    SandboxState("n-1", "pending_build", 0),
    SandboxState("n-1", "building_snapshot", 5),
    SandboxState("n-1", "pulling_snapshot", 20),
    SandboxState("n-1", "creating", 35),
    SandboxState("n-1", "started", 37),
    Launched(DEPLOYMENT, "/logs/n-1.log", 38),
    from_log("Using max model len 131072", 60),
]
AFTER: list[Event] = [
    from_log("torch.compile took 14.91 s in total", 190),
    from_log("GPU KV cache size: 1,234,567 tokens", 210),
    from_log("Maximum concurrency for 131,072 tokens per request: 9.42x", 210),
    from_log("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  10%|#", 211),
    from_log("Application startup complete", 290),
    Ready(DEPLOYMENT, ENDPOINT, 291),
]


def test_every_phase_has_its_time_and_the_end_is_one_line() -> None:
    narrator = told(
        *BEFORE,
        from_log("model-00001-of-00002.safetensors:  10%|#  | 0.4G/4.8G [00:10<01:40, 44MB/s]", 62),
        from_log("Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]", 134),
        *AFTER,
    )
    assert narrator.times() == (
        "queue 0:05, image 0:30, sandbox 0:02, engine 0:22, weights 0:58, download 1:12, compile 0:20, KV cache 0:01,"
        " graphs 1:19, port 0:01"
    )
    assert narrator.summary() == "1.2M-token KV cache, 131k context, room for 9.4 requests of it"
    assert narrator.current is None


def test_a_download_without_bars_gets_its_time_from_the_phase_it_ran_in() -> None:
    narrator = told(
        *BEFORE,
        from_log("Starting to load model a/b...", 61),
        from_log("Time spent downloading weights for a/b: 61.5 seconds", 130),
        from_log("Loading weights took 20.0 seconds", 150),
        *AFTER,
    )
    assert narrator.phases["download"].spent == pytest.approx(61.5)
    assert narrator.phases["weights"].spent == pytest.approx(190 - 60 - 61.5)


def test_several_bars_make_one_download() -> None:
    narrator = told(
        *BEFORE,
        from_log("Fetching 12 files:  50%|#####     | 6/12 [00:05<00:05,  1.20it/s]", 61),
        from_log("model-00001-of-00003.safetensors: 100%|##| 5.37G/5.37G [00:10<00:00, 99MB/s]", 62),
        from_log("\x1b[Amodel-00002-of-00003.safetensors:  10%|#  | 537M/5.37G [00:10<01:40, 104.8576MB/s]", 63),
        from_log("model-00002-of-00003.safetensors:  20%|#  | 1.07G/5.37G [00:10<01:40, 104.8576MB/s]", 64),
    )
    # Three files of 5.37e9 bytes, of which the third has no bar yet: about 15 GiB.
    assert narrator.download.text() == "6.0 of ~15.0 GiB, 100 MiB/s, 1:32 left, 6/12 files"
    assert list(narrator.download.running()) == ["model-00002-of-00003.safetensors"]
    assert narrator.current is not None
    assert narrator.current.name == "download"
    assert narrator.current.share == pytest.approx(0.4, abs=0.01)


def test_bars_redrawn_within_one_line_count_as_their_last_state() -> None:
    steps = "\r".join(f"m.safetensors:  {n}%|#  | {n}M/100M [00:10<01:40, 1.00MB/s]" for n in range(10, 61, 10))
    assert told(from_log(steps, 1)).download.whole().done == 60e6


def test_what_tqdm_itself_draws_is_read() -> None:
    tqdm, drawn = pytest.importorskip("tqdm"), io.StringIO()
    bars = [
        tqdm.tqdm(
            desc=f"model-0000{place + 1}-of-00002.safetensors",
            total=5 * 10**9,
            unit="B",
            unit_scale=True,
            file=drawn,
            mininterval=0,
            position=place,
            ncols=110,
        )
        for place in range(2)
    ]
    for _ in range(3):
        for bar in bars:
            bar.update(10**9)
    text = drawn.getvalue()
    for bar in bars:
        bar.close()
    facts = [fact for line in text.splitlines() if (fact := VLLM.read(line)) is not None]
    narrator = told(*(Boot(fact, 1) for fact in facts))
    assert narrator.download.text().startswith("5.6 of 9.3 GiB, ")
    assert len(narrator.download.running()) == 2


def test_a_late_fact_of_an_earlier_phase_takes_nobody_back() -> None:
    narrator = Narrator()
    sglang = engines.load("sglang")
    for second, line in enumerate(
        [
            "Load weight begin. avail mem=18.90 GB",
            "Capture cuda graph begin. This can take up to several minutes.",
            "max_total_num_tokens=16384, chunked_prefill_size=2048, context_len=4096, available_cpu_mem=18 GB",
        ]
    ):
        fact = sglang.read(line)
        assert fact is not None
        narrator.take(Boot(fact, second), second)
    assert narrator.current is not None
    assert narrator.current.name == "graphs"
    assert narrator.figures["kv_cache_tokens"] == 16384


def test_weights_that_the_image_brings_are_downloaded_while_it_is_built() -> None:
    narrator = Narrator()
    narrator.take(SandboxState("n", "building_snapshot", 1), 1)
    began = narrator.take(BuildLog("downloading weights: SmolLM2-135M-Instruct Q4_1, 102 MB, once"), 2).began
    assert began is not None
    assert began.detail == "SmolLM2-135M-Instruct Q4_1, 102 MB, once"
    narrator.take(BuildLog("downloading weights: done in 9 s, SHA-256 checked"), 11)
    change = narrator.take(SandboxState("n", "creating", 13), 13)
    assert change.ended is not None
    assert (change.ended.name, change.ended.spent) == ("image", 3)
    assert narrator.phases["download"].spent == 9


def test_a_plugins_own_phase_is_told_by_its_name() -> None:
    narrator = told(*BEFORE, Boot(BootFact("quantising", "4 bits"), 61), *AFTER)
    assert narrator.phases["quantising"].spent == 190 - 61
