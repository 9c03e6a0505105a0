"""A deployment and its endpoint as records, for tests of what is said of one."""

from __future__ import annotations

from gpuserve.records import Deployment, Endpoint

DEPLOYMENT = Deployment(
    name="n-1",
    sandbox_id="1111",
    place="daytona",
    state="started",
    engine="vllm",
    model="a/b",
    served_model="b",
    port=8000,
    session="vllm",
    run_id="r",
)
ENDPOINT = Endpoint(url="http://127.0.0.1:1", served_model="b")
