"""An engine for fleets, run as ``vllm`` in a sandbox of the local host: slow or broken when it is asked to be.

A request's own fields say how it is answered: ``delay`` seconds before anything, ``pieces`` words of a stream,
``pause`` seconds between them. The file ``$BEHAVIOUR/SANDBOX`` says how the worker is: ``503`` and ``401`` are the
answers to every question, ``sick`` is for the health route. Each question is noted in ``$BEHAVIOUR/asked``. Standard
library only: it is copied.
"""

import http.server
import json
import os
import sys
import time

ME = os.environ.get("DAYTONA_SANDBOX_ID", "")
HOME = os.environ.get("BEHAVIOUR", "")
MODEL = "".join(after for flag, after in zip(sys.argv, sys.argv[1:]) if flag == "--served-model-name")  # noqa: B905


def behaviour() -> str:
    try:
        with open(f"{HOME}/{ME}", encoding="utf-8") as file:  # noqa: PTH123  # nothing but what starts at once
            return file.read().strip()
    except OSError:
        return ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *rest: object) -> None:
        pass

    def say(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.say(503 if behaviour() == "sick" else 200, {})
        elif self.path == "/v1/models":
            self.say(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm"}]})
        elif self.path == "/version":
            self.say(200, {"version": "0.22.1"})
        else:
            self.say(404, {"error": {"message": "no such route"}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(f"{HOME}/asked", "a", encoding="utf-8") as file:  # noqa: PTH123  # as above
            file.write(json.dumps({"worker": ME, "headers": dict(self.headers)}) + "\n")
        if (status := behaviour()) in ("503", "401"):
            self.say(int(status), {"error": {"message": "not today", "type": "server_error", "code": status}})
            return
        time.sleep(asked.get("delay", 0))
        if asked.get("stream"):
            usage = (asked.get("stream_options") or {}).get("include_usage", False)
            self.stream(asked.get("pieces", 3), asked.get("pause", 0), usage=usage)
        else:
            self.say(200, self.answer(message={"role": "assistant", "content": ME}))

    def stream(self, pieces: int, pause: float, *, usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(pieces):
            self.chunk(json.dumps(self.answer(delta={"content": f"{number} "})))
            time.sleep(pause)
        self.chunk(json.dumps(self.answer(delta={}, finish="stop")))
        if usage:
            tokens = {"prompt_tokens": 1, "completion_tokens": pieces, "total_tokens": pieces + 1}
            self.chunk(json.dumps({**self.answer(delta={}), "choices": [], "usage": tokens}))
        self.chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, data: str) -> None:
        text = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()

    def answer(self, *, finish: "str | None" = None, **content: object) -> dict[str, object]:
        kind = "chat.completion.chunk" if "delta" in content else "chat.completion"
        end = finish if "delta" in content else "stop"
        choice = {"index": 0, "finish_reason": end, **content}
        return {"id": "c", "object": kind, "created": 1, "model": MODEL, "choices": [choice]}


if __name__ == "__main__":
    port = int(sys.argv[sys.argv.index("--port") + 1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.request_queue_size = 256
    server.serve_forever()
