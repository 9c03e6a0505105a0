"""A model served in a Daytona GPU sandbox by hand: Daytona's SDK, the OpenAI client and httpx, without gpuserve.

It reads DAYTONA_API_KEY, and DAYTONA_API_URL for anything but Daytona's cloud. On this machine:

    gpuserve host start --gpus H100:1
    eval "$(gpuserve host status --show-key)"
    python examples/by_hand.py

Checked there only. Unchecked on the platform: a free GPU, the time that image and weights take, and what the image has
inside: no openai package as vLLM's has, so the step inside uses urllib, and curl where there is no Python.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import time

import httpx
from daytona import (
    CreateSandboxFromImageParams,
    Daytona,
    DaytonaConfig,
    DaytonaConflictError,
    DaytonaNotFoundError,
    GpuType,
    Image,
    Resources,
    Sandbox,
    SessionExecuteRequest,
)
from openai import OpenAI

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
SERVED_AS = "smollm2"
IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda"
SESSION = "llama"
BOOT_SECONDS = 900
NAME = f"by-hand-{secrets.token_hex(4)}"  # known before the sandbox is, so that it can be found whatever happens
QUESTION = "What is the capital of France? Answer with one word."


def free_port() -> int:
    """PORT if set, else 8000, or another if something here listens on that: local sandboxes share one machine."""
    port = int(os.environ.get("PORT", "8000"))
    while "PORT" not in os.environ:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                break
        port = secrets.choice(range(8001, 10_000))
    return port


def create(daytona: Daytona) -> Sandbox:
    params = CreateSandboxFromImageParams(
        name=NAME,
        labels={"example": "by-hand"},
        image=Image.base(IMAGE),
        resources=Resources(gpu=1, gpu_type=[GpuType.H100, GpuType.RTX_PRO_6000]),
        ephemeral=True,
        auto_stop_interval=0,
        ttl_minutes=60,  # the end of it, even if this program never gets to delete it
    )
    return daytona.create(params, timeout=600)


def serve(sandbox: Sandbox, port: int) -> str:
    """Start the server and return at once; the ID of its command."""
    server = f"llama-server -hf {MODEL} --alias {SERVED_AS} --port {port} --ctx-size 4096"
    sandbox.process.create_session(SESSION)
    request = SessionExecuteRequest(command=f'PATH="$PATH:/app" {server}', run_async=True)
    return sandbox.process.execute_session_command(SESSION, request).cmd_id


def wait(sandbox: Sandbox, command: str, url: str, headers: dict[str, str]) -> None:
    """Until the server answers; meanwhile its log is shown, of which each request brings the whole."""
    shown, deadline = 0, time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        healthy, status = False, sandbox.process.get_session_command(SESSION, command, request_timeout=30).exit_code
        with contextlib.suppress(httpx.TransportError):  # follows no redirects: a sign-in page is no health
            healthy = httpx.get(f"{url}/health", headers=headers, timeout=10).status_code == 200
        log = sandbox.process.get_session_command_logs(SESSION, command, request_timeout=30).stderr or ""
        print(log[shown:], end="", file=sys.stderr, flush=True)
        shown = len(log)
        if status is not None:
            sys.exit(f"llama-server ended with exit code {status}")
        if healthy:
            return
        time.sleep(1)
    sys.exit(f"not healthy after {BOOT_SECONDS} s")


def ask(client: OpenAI) -> None:
    chat = client.chat.completions
    reply = chat.create(model=SERVED_AS, messages=[{"role": "user", "content": QUESTION}], temperature=0)
    print("chat:", reply.choices[0].message.content)
    stream = chat.create(model=SERVED_AS, messages=[{"role": "user", "content": QUESTION}], temperature=0, stream=True)
    print("stream:", "|".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))


def ask_inside(sandbox: Sandbox, port: int) -> None:
    """From inside the sandbox the server is plain localhost: no token, no proxy."""
    url = f"http://localhost:{port}/v1/chat/completions"
    body = json.dumps({"model": SERVED_AS, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0})
    code = f"""
from urllib.request import Request, urlopen
print(urlopen(Request({url!r}, {body!r}.encode(), {{"Content-Type": "application/json"}})).read().decode())
"""
    done = sandbox.process.code_run(code, timeout=120)
    if done.exit_code != 0:
        curl = f'curl -fsS {url} -H "Content-Type: application/json" -d "$BODY"'
        done = sandbox.process.exec(curl, env={"BODY": body}, timeout=120)
    print("inside:", json.loads(done.result)["choices"][0]["message"]["content"])


def share(sandbox: Sandbox, port: int) -> None:
    signed = sandbox.create_signed_preview_url(port, expires_in_seconds=3600)
    print("signed:", httpx.get(f"{signed.url}/v1/models").status_code)
    sandbox.expire_signed_preview_url(port, signed.token)
    print("expired:", httpx.get(f"{signed.url}/v1/models").status_code)


def delete(daytona: Daytona) -> None:
    """By name: that finds the sandbox even if the answer to its creation was lost."""
    while True:
        try:
            daytona.get(NAME).delete(wait=True)
        except DaytonaNotFoundError:
            return print("gone:", NAME)
        except DaytonaConflictError:  # it is changing its state just now
            time.sleep(1)


daytona = Daytona(DaytonaConfig(target="us-east-1"))
try:
    sandbox = create(daytona)
    print("created:", sandbox.name)
    port = free_port()
    command = serve(sandbox, port)
    preview = sandbox.get_preview_link(port)
    headers = {"x-daytona-preview-token": preview.token}
    wait(sandbox, command, preview.url, headers)
    ask(OpenAI(base_url=f"{preview.url}/v1", api_key="EMPTY", default_headers=headers, timeout=120))
    ask_inside(sandbox, port)
    share(sandbox, port)
finally:
    delete(daytona)
