"""A provider on loopback that speaks OpenAI's protocol, keeps a bill of its own, and misbehaves where it is told to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from benchmarks.simulated.provider import on_loopback

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@dataclass
class Said:
    """What the provider does with a request: answers (`document` None: the prompt again), or something worse."""

    status: int = 200
    document: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    wait: threading.Event | None = None


def completion(text: Any = "an answer", usage: Any = USAGE, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion."""
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish}
    document = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return document if usage is None else {**document, "usage": usage}


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


@dataclass
class Provider:
    """`behave(number, body)` says what happens to a request. `bill` has each answer that was made: model and prompt.

    It is billed when it is made, before it is sent. With `dedupe` an answer is made once for an Idempotency-Key.
    """

    behave: Callable[[int, dict[str, Any]], Said]
    dedupe: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    bill: list[tuple[str, str]] = field(default_factory=list)
    sent: list[tuple[str, str]] = field(default_factory=list)
    known: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            key, name = str(self.headers.get("idempotency-key")), (body["model"], prompt_of(body))
            with provider.lock:
                provider.bodies.append(body)
                provider.keys.append(key)
                provider.authorizations.append(self.headers.get("authorization", ""))
                number = len(provider.bodies)
            said = provider.behave(number, body)
            if said.wait is not None:
                said.wait.wait(120)
            with provider.lock:
                if said.status != 200:
                    echoed = f"{self.headers.get('authorization')} {body['messages']}"
                    data = json.dumps({"error": {"message": echoed}}).encode()
                elif provider.dedupe and key in provider.known:
                    data = provider.known[key]
                else:
                    document = completion(f"re: {name[1]}") if said.document is None else said.document
                    data = json.dumps(document).encode() if said.content is None else said.content
                    provider.known[key] = data
                    provider.bill.append(name)
            if said.drop:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            try:
                self.send_response(said.status)
                for header, value in {"content-type": "application/json", **said.headers}.items():
                    self.send_header(header, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # who asked is gone
                return
            with provider.lock:
                provider.sent.append(name)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler


@contextmanager
def serving(behave: Callable[[int, dict[str, Any]], Said] = lambda n, body: Said(), **kw: Any) -> Iterator[Provider]:
    """A provider while the block runs."""
    provider = Provider(behave, **kw)
    with on_loopback(_handler(provider)) as provider.url:
        yield provider
