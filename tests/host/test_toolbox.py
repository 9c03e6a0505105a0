"""The rest of the toolbox through the SDK: places, ports, metrics, environment, and what is missing."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from daytona import Sandbox

from gpuserve.host.daemon import HostInfo
from host.toolbox_http import Toolbox


def test_places_and_version(sandbox: Sandbox, host: HostInfo) -> None:
    home = sandbox.get_user_home_dir()
    assert Path(home).is_dir()
    assert sandbox.get_work_dir() == home
    assert Toolbox(host, sandbox).request("GET", "/version").json()["version"]


def test_ports_of_this_sandbox_only(sandbox: Sandbox, host: HostInfo) -> None:
    code = (
        "import socket, time\ns = socket.create_server(('127.0.0.1', 0))\n"
        "open('port', 'w').write(str(s.getsockname()[1]))\ntime.sleep(1000)"
    )
    sandbox.fs.upload_file(code.encode(), "serve.py")
    sandbox.process.exec("python3 serve.py >/dev/null 2>&1 &")
    deadline = time.monotonic() + 20
    port = Path(sandbox.get_user_home_dir(), "port")
    while not port.exists() or not port.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    mine = int(port.read_text())
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        other = foreign.getsockname()[1]
        assert Toolbox(host, sandbox).request("GET", "/port").json() == {"ports": [mine]}
        assert Toolbox(host, sandbox).request("GET", f"/port/{mine}/in-use").json() == {"isInUse": True}
        assert Toolbox(host, sandbox).request("GET", f"/port/{other}/in-use").json() == {"isInUse": False}
    assert Toolbox(host, sandbox).request("GET", "/port/0/in-use").status_code == 400


def test_metrics(sandbox: Sandbox, host: HostInfo) -> None:
    told = Toolbox(host, sandbox).request("GET", "/system/metrics").json()
    assert told["cpuCount"] == os.cpu_count()
    assert 0 < told["memUsed"] < told["memTotal"]
    assert 0 < told["diskFree"] <= told["diskTotal"]
    assert abs(told["timestampUnix"] - time.time()) < 60


def test_changed_environment_reaches_what_starts_later(sandbox: Sandbox, host: HostInfo) -> None:
    show = 'echo "$A|$B|${C-unset}|${LANG-unset}"'
    sandbox.process.create_session("before")
    assert (
        Toolbox(host, sandbox).request("POST", "/env", json={"set": {"A": "1", "B": "tok-x", "C": "c"}}).status_code
        == 200
    )
    assert sandbox.process.exec(show, env={"C": "mine"}).result.startswith("1|tok-x|mine|")
    change = {"set": {"A": "2"}, "unset": ["C", "LANG"], "unsetValuePrefix": "tok-"}
    assert Toolbox(host, sandbox).request("POST", "/env", json=change).status_code == 200
    assert sandbox.process.exec(show).result == "2||unset|unset\n"
    assert Toolbox(host, sandbox).request("POST", "/env", json={"set": {"A": 5}}).status_code == 400


def test_a_missing_route_names_itself(sandbox: Sandbox, host: HostInfo) -> None:
    toolbox = Toolbox(host, sandbox)
    for method, path in [
        ("GET", "/computeruse/status"),
        ("POST", "/lsp/start"),
        ("PUT", "/files"),
        ("GET", "/process/pty"),
    ]:
        answer = toolbox.request(method, path)
        assert answer.status_code == 501
        assert f"{method} {path}" in answer.json()["message"]
        assert answer.json()["source"] == "DAYTONA_DAEMON"


def test_bodies_that_are_none(sandbox: Sandbox, host: HostInfo) -> None:
    toolbox, path = Toolbox(host, sandbox), "/process/execute"
    for body in (b"", b"{", b"[]", b'{"command": 1}', b'{"command": "a\\u0000b"}', b'{"command": "\\ud800"}'):
        answer = toolbox.request("POST", path, content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST_BODY"), body
    for extra in ('"timeout": -1', '"timeout": true', '"envs": []', '"envs": {"A": 1}', '"cwd": 1'):
        answer = toolbox.request("POST", path, content=f'{{"command": "true", {extra}}}')
        assert answer.status_code == 400, extra
