"""LLMs that are none: OpenAI's protocol, with streams, tools and a bill, and told whether to be there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 11, 7


@dataclass
class Upstream:
    """One LLM: `bodies` are what it was asked, `dead` has it answer 500."""

    name: str
    port: int = 0
    dead: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class Upstreams(dict[str, Upstream]):
    """All of them, by name."""

    def asked(self) -> list[str]:
        """Who was asked, one name a request."""
        return [name for name, one in self.items() for _ in one.bodies]

    def forget(self) -> None:
        """Everybody is alive, and nobody was asked anything."""
        for one in self.values():
            one.dead = False
            one.bodies.clear()


@contextmanager
def serving(*names: str) -> Iterator[Upstreams]:
    """Serves them, each on a port of its own, until the block ends."""
    upstreams = Upstreams({name: Upstream(name) for name in names})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(one)) for one in upstreams.values()]
    for one, server in zip(upstreams.values(), servers, strict=True):
        one.port = server.server_address[1]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield upstreams
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            upstream.bodies.append(body)
            if upstream.dead:
                self._send(500, {"error": {"message": "dead", "type": "server_error", "code": None, "param": None}})
            elif self.path.endswith("/responses"):
                self._send(200, _response(upstream.name, body))
            elif body.get("stream"):
                self._stream(body)
            else:
                self._send(200, _answer(upstream.name, body))

        def _send(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for chunk in _chunks(upstream.name, body):
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

    return Handler


def _usage() -> dict[str, int]:
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }


def _message(name: str, body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("tools"):
        return {"role": "assistant", "content": f"I am {name}"}
    function = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _answer(name: str, body: dict[str, Any]) -> dict[str, Any]:
    finish = "tool_calls" if body.get("tools") else "stop"
    choice = {"index": 0, "message": _message(name, body), "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": _usage(),
    }


def _response(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The same by the Responses API."""
    said = {"type": "output_text", "text": f"I am {name}", "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]}
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": body["model"],
        "output": [message], "usage": usage, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
    }  # fmt: skip


def _chunks(name: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    message = _message(name, body)
    if message["content"] is not None:
        for piece in message["content"].split(" "):
            yield {
                **base,
                "choices": [
                    {"index": 0, "delta": {"role": "assistant", "content": f"{piece} "}, "finish_reason": None}
                ],
            }
    else:
        calls = [{"index": 0, **call} for call in message["tool_calls"]]
        yield {
            **base,
            "choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": calls}, "finish_reason": None}],
        }
    finish = "tool_calls" if body.get("tools") else "stop"
    yield {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    yield {**base, "choices": [], "usage": _usage()}
