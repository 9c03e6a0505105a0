"""An OpenAI server that streams as an engine does, at a speed that is known: a time for the prompt, a time a token.

    with steady(prefill=0.1, token=0.01) as server:
        … a client of server.url: the first token after 0.1 s, every other 0.01 s later …

``slots`` requests are worked on at a time, the others wait. A word of a prompt is a token, and ``around`` tokens stand
around it. ``ignore_eos`` gives answers of max_tokens tokens, else they have ``short``; a ``strict`` server refuses it.
The prefix cache holds every prompt's words: what is common with an earlier prompt takes no time, and is told.
``fail``: every so many-th request ends with a 500.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from aiohttp import web

from fakes.apart import Apart, apart


class Engine:
    """The server's side."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.prefill = options.get("prefill", 0.05)
        self.token = options.get("token", 0.005)
        self.around = options.get("around", 10)
        self.short = options.get("short", 3)
        self.strict = options.get("strict", False)
        self.fail = options.get("fail", 0)
        self.slots = asyncio.Semaphore(options.get("slots", 1000))
        self.known: set[tuple[str, ...]] = set()
        self.seen: list[dict[str, Any]] = []
        self.spans: list[list[float | None]] = []  # of each: its tokens, when it came, the first token went, the end
        self.open = self.most_open = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        came = time.time()
        body = await request.json()
        content = body["messages"][0]["content"]
        words = (content if isinstance(content, str) else " ".join(part["text"] for part in content)).split()
        body["max_tokens"] = body.get("max_tokens") or body["max_completion_tokens"]
        self.seen.append({"words": words, "max_tokens": body["max_tokens"]})
        if self.strict and "ignore_eos" in body:
            return web.json_response({"error": {"message": "unknown field ignore_eos"}}, status=400)
        if self.fail and len(self.seen) % self.fail == 0:
            return web.json_response({"error": {"message": "made to fail"}}, status=500)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async with self.slots:
                return await self.stream(request, body, words, came)
        except ConnectionResetError:  # the client has enough
            return web.Response()
        finally:
            self.open -= 1

    async def stream(
        self, request: web.Request, body: dict[str, Any], words: list[str], came: float
    ) -> web.StreamResponse:
        loop, cached = asyncio.get_running_loop(), self.cached(words)
        tokens = body["max_tokens"] if body.get("ignore_eos") else min(self.short, body["max_tokens"])
        span: list[float | None] = [tokens, came, None, None]
        self.spans.append(span)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        due = loop.time() + self.prefill * (1 - cached / (len(words) + self.around))
        for number in range(tokens):
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += self.token
            if number == 0:
                await self.say(response, {"role": "assistant", "content": ""})
                span[2] = time.time()
            await self.say(response, {"content": "word "})
        await self.say(response, {}, "length")
        usage = {"prompt_tokens": len(words) + self.around, "completion_tokens": tokens}
        details = {"prompt_tokens_details": {"cached_tokens": cached}}
        await self.write(response, {"choices": [], "usage": {**usage, **details}})
        await response.write(b"data: [DONE]\n\n")
        span[3] = time.time()
        return response

    def cached(self, words: list[str]) -> int:
        """How many words begin an earlier prompt, in blocks of 16."""
        blocks = [tuple(words[:end]) for end in range(16, len(words) + 1, 16)]
        found = sum(block in self.known for block in blocks) * 16
        self.known.update(blocks)
        return found

    async def say(self, response: web.StreamResponse, delta: dict[str, str], reason: str | None = None) -> None:
        await self.write(response, {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    async def write(self, response: web.StreamResponse, content: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps({'id': 'c1', 'model': 'm', **content})}\n\n".encode())

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response({"seen": self.seen, "most_open": self.most_open, "spans": self.spans})


async def _serve(options: dict[str, Any]) -> None:
    engine = Engine(options)
    app = web.Application(client_max_size=1 << 26)
    models = {"object": "list", "data": [{"id": "m", "object": "model"}]}

    async def known(_: web.Request) -> web.Response:
        return web.json_response(models)

    app.add_routes([web.post("/v1/chat/completions", engine.chat), web.get("/stats", engine.stats)])
    app.add_routes([web.get("/v1/models", known), web.get("/health", known)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def steady(**options: Any) -> AbstractContextManager[Apart]:
    """A server in a process of its own; times in seconds."""
    return apart("steady", options)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
