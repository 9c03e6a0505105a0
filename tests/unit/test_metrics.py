"""Reading an engine's load from its Prometheus page."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.scripted import CUT, RESET, Reply, Scripted
from gpuserve.client.metrics import Load, LoadNames, load_from, read_load, samples
from gpuserve.engines.base import MetricNames
from gpuserve.records import Endpoint

# The engines' own type fits the protocol that stands here because rooms beside each other import nothing.
NAMES: LoadNames = MetricNames("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smollm2"} 3.0
vllm:num_requests_waiting{engine="0",model_name="smollm2"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="smollm2"} 0.25
"""


def test_a_page() -> None:
    assert load_from(PAGE, NAMES) == Load(running=3, waiting=2, kv_usage=0.25)


def test_label_sets_are_summed_and_the_share_is_averaged() -> None:
    second = PAGE.replace('engine="0"', 'engine="1"').replace(" 0.25", " 0.75")
    assert load_from(PAGE + second, NAMES) == Load(running=6, waiting=4, kv_usage=0.5)


def test_numbers_that_are_none_are_left_out() -> None:
    odd = 'vllm:kv_cache_usage_perc{engine="1"} NaN\nvllm:num_requests_running{engine="1"} +Inf\n'
    assert load_from(PAGE + odd, NAMES) == Load(running=3, waiting=2, kv_usage=0.25)


def test_an_engine_without_a_cache_metric() -> None:
    names = MetricNames("llamacpp:requests_processing", "llamacpp:requests_deferred")
    page = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"
    assert load_from(page, names) == Load(running=1, waiting=0, kv_usage=None)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("name 1", {"name": [1.0]}),
        ("name 1.5e3 1700000000000", {"name": [1500.0]}),
        ("name{} 1", {"name": [1.0]}),
        (r'name{a="} 9 \" {",b="x y"} 1', {"name": [1.0]}),
        ('name{a="1"}\t1', {"name": [1.0]}),
        ('name_bucket{le="+Inf"} 7 # {trace="x"} 0.5', {"name_bucket": [7.0]}),
        ("# name 1", {}),
        ("name", {}),
        ("name one", {}),
        ('name{a="1} 1', {}),
        ("1name 1", {}),
        ("", {}),
    ],
)
def test_lines(line: str, found: dict[str, list[float]]) -> None:
    assert samples(line) == found


@given(st.text(max_size=200))
def test_no_page_is_too_odd_to_read(page: str) -> None:
    assert all(isinstance(values, list) for values in samples(page).values())


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters='"\\\n'), max_size=20), st.integers(0, 10**9))
def test_any_label_value_is_passed_over(value: str, number: int) -> None:
    assert samples(f'name{{a="{value}"}} {number}') == {"name": [float(number)]}


def test_the_request() -> None:
    with Scripted(Reply(body=PAGE.encode())) as server:
        endpoint = Endpoint(
            url=server.url, served_model="m", headers={"x-daytona-preview-token": "let-me-in"}, api_key="k"
        )
        assert read_load(endpoint, "/metrics", NAMES) == Load(3, 2, 0.25)
        [seen] = server.requests
    assert (seen.method, seen.path) == ("GET", "/metrics")
    assert seen.headers["x-daytona-preview-token"] == "let-me-in"
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["x-daytona-skip-last-activity-update"] == "true"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, body=PAGE.encode()),
        Reply(307, {"Location": "/metrics"}),
        Reply(502),
        Reply(body=b"<html>"),
        Reply(body=b"\xff\xfe"),
        Reply(0, chunks=[RESET]),
        Reply(chunks=[PAGE.encode(), CUT]),
    ],
)
def test_what_can_not_be_read_is_no_load(reply: Reply) -> None:
    with Scripted(reply) as server:
        assert read_load(Endpoint(url=server.url, served_model="m"), "/metrics", NAMES) is None


def test_a_silent_or_absent_engine_is_no_load() -> None:
    gate = threading.Event()
    with Scripted(Reply(chunks=[gate])) as server:
        assert read_load(Endpoint(url=server.url, served_model="m"), "/metrics", NAMES, timeout=0.2) is None
        gate.set()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert read_load(Endpoint(url=f"http://127.0.0.1:{port}", served_model="m"), "/metrics", NAMES) is None
