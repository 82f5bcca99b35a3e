"""Routers that are away, each in its own way, on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from benchmarks.simulated.provider import on_loopback

DECISION: dict[str, Any] = {
    "id": "d1",
    "model": "acme/small",
    "confidence": 0.9,
    "expected_cost_usd": 0.001,
    "fallbacks": ["acme/large"],
    "reason": "best_value",
    "bundle": "fake-1",
    "propensity": 1.0,
    "also": None,
}


@dataclass
class Said:
    """An answer: its status, its body (bytes as they are, anything else as JSON) and its headers."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Stub:
    """A router that says what `behave` makes of the path and the body; `asked` has what it was asked."""

    behave: Callable[[str, dict[str, Any]], Said] = lambda path, body: Said(body=DECISION)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)  # each Idempotency-Key
    url: str = ""


def _handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stub.asked.append((self.path, body))
            stub.authorizations.append(self.headers.get("authorization"))
            stub.keys.append(self.headers.get("idempotency-key"))
            said = stub.behave(self.path, body)
            if said.status == 0:  # it is killed
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            try:
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # who asked is gone
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler


@contextmanager
def answering(behave: Callable[[str, dict[str, Any]], Said] = Stub.behave) -> Iterator[Stub]:
    """A stub at its `url` while the block runs."""
    stub = Stub(behave)
    with on_loopback(_handler(stub)) as url:
        stub.url = url.removesuffix("/v1")
        yield stub


@dataclass
class Socket:
    """A listener that is no web server; `connections` counts who came."""

    url: str
    connections: int = 0


@contextmanager
def listening(trickle: bytes = b"", every_s: float = 0.05) -> Iterator[Socket]:
    """Takes connections and says nothing, or one byte of `trickle` at a time."""
    server = socket.create_server(("127.0.0.1", 0))
    found = Socket(f"http://127.0.0.1:{server.getsockname()[1]}")
    ended = threading.Event()

    def speak(connection: socket.socket) -> None:
        with connection:
            for byte in trickle:
                if ended.is_set():
                    return
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return
                time.sleep(every_s)
            ended.wait(60)

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            found.connections += 1
            threading.Thread(target=speak, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
