"""What a fleet's gateway and injector cost, and how a fleet grows: real gateway, real injector, scripted workers.

    python benchmarks/fleet.py [--requests 300] [--seconds 6] [--service 0.2] [--slots 8]

First part: one worker that answers at once, asked directly, through the injector, and through gateway and injector;
requests per second of 16 clients, and CPU per request of the processes between. Second part: 1, 2 and 4 workers that
each serve ``--slots`` requests at a time, ``--service`` seconds each, as an engine does; each worker gets as many
clients as it has slots, twice. Efficiency is the throughput by that of one worker times their number. Each worker,
the injector and the gateway are processes of their own; what else the machine does falls on all. Prints; asserts
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from gpuserve.proxy.injector import Injector
from gpuserve.proxy.server import listen
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import Endpoint
from gpuserve.serving.fleet.gateway import MANIFEST, flags
from gpuserve.serving.fleet.record import Record, new_addresses

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hello " * 20}, "finish_reason": "stop"}
WHOLE = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}).encode()


async def serve(service: float, slots: int) -> None:
    """A worker: ``slots`` requests at a time, ``service`` seconds each; others wait."""
    gate = asyncio.Semaphore(slots)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = asked.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or b"0"))
                if asked.startswith(b"POST"):
                    async with gate:
                        await asyncio.sleep(service)
                body = WHOLE if asked.startswith(b"POST") else MODELS
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def inject(port: int, key: str, workers: list[str]) -> None:
    """The injector in front of ``workers``."""
    injector = Injector(listener=listen(port), key=key, control_key="unused-here", control=_no_orders)
    async with injector:
        for number, url in enumerate(workers):
            endpoint = Endpoint(url=url, served_model="m", headers={"x-daytona-preview-token": "t"})
            injector.ways[f"w{number}"] = Way(f"w{number}", Upstream(endpoint), pooled=True)
            injector.healthy.add(f"w{number}")
        print("ready", flush=True)
        await asyncio.Event().wait()


async def _no_orders(name: str, fields: object) -> dict[str, object]:
    raise ValueError(name, fields)


@dataclass
class Bench:
    """What runs: the addresses of each worker, the injector and the gateway, and the processes between."""

    workers: list[str]
    record: Record
    injector: psutil.Process
    gateway: psutil.Process


@contextmanager
def running(count: int, service: float, slots: int) -> Iterator[Bench]:
    """``count`` workers behind injector and gateway."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, told: str = "", inherited: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=inherited)
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(told)
        process.stdin.close()
        return process

    record = Record(name="b", place="local", engine="vllm", model="m", served_model="m", **new_addresses(0))  # type: ignore[arg-type]  # ports and keys
    me = (sys.executable, __file__)
    try:
        workers = [
            f"http://127.0.0.1:{_line(start(*me, '--serve', '--service', str(service), '--slots', str(slots)))}"
            for _ in range(count)
        ]
        injector = start(*me, "--inject", str(record.injector_port), record.key, *workers)
        _line(injector)
        with tempfile.TemporaryDirectory() as directory:
            urls = [{"url": f"http://127.0.0.1:{record.injector_port}/w/w{number}"} for number in range(count)]
            Path(directory, MANIFEST).write_text(json.dumps({"version": 1, "workers": urls}))
            listener = listen(record.port)
            number, wanted = listener.fileno(), flags(record.metrics_port, Path(directory))
            told = json.dumps({"flags": wanted, "key": record.key, "listener": number, "inner": "127.0.0.1"})
            gateway = start(sys.executable, "-m", "gpuserve.serving.fleet.gateway", told=told, inherited=(number,))
            listener.close()
            asyncio.run(_ready(record, count))
            yield Bench(workers, record, psutil.Process(injector.pid), psutil.Process(gateway.pid))
    finally:
        for process in started:
            process.kill()
            process.wait()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def _ready(record: Record, count: int) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {record.key}"}) as client:
        for _ in range(300):
            try:
                async with client.get(f"{record.url}/workers") as answer:
                    rows = (await answer.json())["workers"]
                if sum(row["status"] == "ready" for row in rows) == count:
                    return
            except (OSError, aiohttp.ClientError):
                pass
            await asyncio.sleep(0.1)
    raise SystemExit("the gateway doesn't get ready")


async def crowd(url: str, key: str, clients: int, *, requests: int = 0, seconds: float = 0.0) -> float:
    """Requests per second of ``clients`` that ask one after another, each with another prompt."""
    done, end = 0, time.perf_counter() + (seconds or 1e9)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}, connector=connector) as session:

        async def one(number: int) -> None:
            nonlocal done
            while time.perf_counter() < end and (not requests or done < requests):
                done += 1
                words = f"{number} {done} " + "word " * 250
                body = {"model": "m", "messages": [{"role": "user", "content": words}]}
                async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                    assert reply.status == 200, await reply.text()
                    await reply.read()

        began = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(clients)))
        return done / (time.perf_counter() - began)


def overhead(requests: int) -> None:
    """The first part."""
    with running(1, 0, 64) as bench:
        record = bench.record
        ways = {
            "direct": bench.workers[0],
            "injector": f"http://127.0.0.1:{record.injector_port}/w/w0",
            "gateway + injector": record.url,
        }
        print(f"{'':<20}{'requests/s':>11}{'CPU ms/request: gateway':>25}{'injector':>10}")
        for name, url in ways.items():
            asyncio.run(crowd(url, record.key, 16, requests=requests // 3))
            before = _cpu(bench)
            rate = asyncio.run(crowd(url, record.key, 16, requests=requests))
            used = [(after - was) / requests * 1000 for after, was in zip(_cpu(bench), before, strict=True)]
            print(f"{name:<20}{rate:>11.0f}{used[0]:>25.2f}{used[1]:>10.2f}")


def _cpu(bench: Bench) -> tuple[float, float]:
    return sum(bench.gateway.cpu_times()[:2]), sum(bench.injector.cpu_times()[:2])


def scaling(seconds: float, service: float, slots: int) -> None:
    """The second part."""
    print(f"\n{'workers':<9}{'requests/s':>11}{'of the ideal':>14}{'efficiency':>12}")
    single = 0.0
    for count in (1, 2, 4):
        with running(count, service, slots) as bench:
            rate = asyncio.run(crowd(bench.record.url, bench.record.key, 2 * slots * count, seconds=seconds))
        single = single or rate
        print(f"{count:<9}{rate:>11.1f}{rate * service / slots / count:>14.2f}{rate / single / count:>12.2f}")


def main() -> None:
    """Runs a part of itself, or the benchmark."""
    if sys.argv[1:2] == ["--inject"]:
        asyncio.run(inject(int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--service", type=float, default=0.2)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        asyncio.run(serve(asked.service, asked.slots))
        return
    overhead(asked.requests)
    scaling(asked.seconds, asked.service, asked.slots)


if __name__ == "__main__":
    main()
