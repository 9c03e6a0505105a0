"""What the proxy of ``connect`` costs: a request through it beside the same request sent directly, as ratios.

    python benchmarks/connect.py [--requests 300] [--chunks 200] [--rounds 5]

The server is a scripted one that answers at once, in a process of its own; so is the proxy. One client, one kept
connection. "chat" is a small whole answer, "stream" one of many events. Direct and proxied requests take turns in
rounds, so that what else the machine does falls on both. CPU is user and system time of server and proxy, which Linux
counts in steps of 10 ms. A real engine takes longer by orders of magnitude, so that these ratios are upper bounds of
what a user sees. Prints; asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

import aiohttp
import psutil

from gpuserve.proxy.server import Proxy
from gpuserve.proxy.upstream import Upstream, Way
from gpuserve.records import Endpoint

CHAT = {"model": "m", "messages": [{"role": "user", "content": "word " * 200}]}
WHOLE = json.dumps({"choices": [{"message": {"role": "assistant", "content": "hello " * 20}}]}).encode()
EVENT = b'data: {"choices": [{"delta": {"content": "hello "}}]}\n\n'


async def serve(chunks: int) -> None:
    """The scripted server: a stream for a request that asks for one, else the whole answer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(WHOLE)
    streamed = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = int(asked.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                if b'"stream": true' not in body:
                    writer.write(head + WHOLE)
                    continue
                writer.write(streamed)
                for _ in range(chunks):
                    writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def proxy(url: str) -> None:
    """The proxy of ``connect``, in front of ``url``."""
    upstream = Upstream(Endpoint(url=url, served_model="m", headers={"x-daytona-preview-token": "t"}))
    async with Proxy({"": Way("it", upstream)}) as running:
        print(running.url, flush=True)
        await asyncio.Event().wait()


@dataclass
class Route:
    """One way to the server: its address, the processes that work on it, and what was measured."""

    url: str
    processes: list[psutil.Process]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"chat": [], "stream": []})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"chat": [], "stream": []})

    def used(self) -> float:
        """CPU seconds of its processes so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self.processes)


async def measure(client: aiohttp.ClientSession, way: Route, what: str, count: int) -> None:
    """``count`` requests one after another."""
    before = way.used()
    for _ in range(count):
        began = time.perf_counter()
        body = {**CHAT, "stream": what == "stream"}
        async with client.post(f"{way.url}/v1/chat/completions", json=body) as reply:
            assert reply.status == 200
            await reply.read()
        way.seconds[what].append(time.perf_counter() - began)
    way.cpu[what].append((way.used() - before) / count)


async def compare(direct: Route, proxied: Route, requests: int, rounds: int) -> None:
    """Takes turns, after a round that isn't counted."""
    async with aiohttp.ClientSession() as client:
        for round_ in range(rounds + 1):
            for what, count in (("chat", requests), ("stream", max(requests // 10, 1))):
                for way in (direct, proxied):
                    await measure(client, way, what, count)
                    if not round_:
                        way.seconds[what].clear()
                        way.cpu[what].clear()


def start(*argv: str) -> tuple[subprocess.Popen[str], str]:
    """This program in another part of it, and the address that it printed."""
    process = subprocess.Popen([sys.executable, __file__, *argv], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def report(direct: Route, proxied: Route, chunks: int) -> None:
    """The table."""
    print(f"{'':<8}{'direct p50':>12}{'proxied p50':>13}{'ratio':>8}{'added':>10}{'CPU ratio':>11}{'CPU added':>11}")
    for what in ("chat", "stream"):
        p50 = [statistics.median(way.seconds[what]) * 1e3 for way in (direct, proxied)]
        cpu = [statistics.median(way.cpu[what]) * 1e3 for way in (direct, proxied)]
        ratio = f"{cpu[1] / cpu[0]:>11.2f}" if cpu[0] else f"{'-':>11}"
        print(
            f"{what:<8}{p50[0]:>9.2f} ms{p50[1]:>10.2f} ms{p50[1] / p50[0]:>8.2f}{p50[1] - p50[0]:>7.2f} ms"
            f"{ratio}{cpu[1] - cpu[0]:>8.2f} ms"
        )
    print(f"a stream has {chunks} events")


def main() -> None:
    """Starts server and proxy, measures, ends them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--proxy", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve or asked.proxy:
        asyncio.run(serve(asked.chunks) if asked.serve else proxy(asked.proxy))
        return
    server, server_url = start("--serve", "--chunks", str(asked.chunks))
    between, proxy_url = start("--proxy", server_url)
    try:
        behind, front = psutil.Process(server.pid), psutil.Process(between.pid)
        direct, proxied = Route(server_url, [behind]), Route(proxy_url, [behind, front])
        asyncio.run(compare(direct, proxied, asked.requests, asked.rounds))
        report(direct, proxied, asked.chunks)
    finally:
        for process in (between, server):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
