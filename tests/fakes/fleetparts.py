"""A fleet's record and a worker's, as tests want them."""

from __future__ import annotations

from gpuserve.records import FLEET_LABEL, Deployment, ServeRequest
from gpuserve.serving.fleet.record import Record, as_json, new_addresses

REQUEST = ServeRequest(
    model="m/n", engine="vllm", gpus=("H100",), env={"HF_TOKEN": "hf_x"}, engine_args=("--a", "b"), api_key="k" * 12
)


def a_record(**more: object) -> Record:
    place = {"place": "local", "engine": "vllm", "model": "m/n", "served_model": "m/n", **new_addresses(0)}
    return Record(**{"name": "f", **place, "request": as_json(REQUEST), **more})  # type: ignore[arg-type]


def worker(name: str = "f-1", **more: str) -> Deployment:
    return Deployment(
        name=name, sandbox_id=f"id-{name}", place="local", state="started", engine="vllm", model="m", served_model="m",
        port=1, session="s", run_id="r", labels={FLEET_LABEL: "f"} | more,
    )  # fmt: skip
