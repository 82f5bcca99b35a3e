"""A stand-in for providers: on loopback, in OpenAI's protocol, it answers as the simulator's candidates would, and bills.

Whether an answer is good is drawn from the truth behind the simulated log, once for each request and candidate. Good ones
begin with `GOOD`, so that a check can grade them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving.bundle.catalogue import Candidate
from training.simulation.simulate import SimulatedLog

GOOD, POOR = "Here is the answer.", "I am not sure that I can answer this."
CHECK = f"regex:^{GOOD[:4]}"


@dataclass
class Faults:
    """Every so-manyth call is refused for its rate, fails, is garbage that nobody is billed for, or stalls; 0: none."""

    refused: int = 0
    failing: int = 0
    garbage: int = 0
    stalling: int = 0
    stall_s: float = 3.0


@dataclass
class Provider:
    """`bill` has the cost in USD of each answer that was made, by its idempotency key where it has one, so that an answer that
    is asked for again is made once."""

    log: SimulatedLog
    catalogue: Mapping[str, Candidate]
    faults: Faults = field(default_factory=Faults)
    bill: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._acceptable, self._cost_usd = (
            {name: dict(zip(truth.index, truth[name].tolist(), strict=True)) for name in truth}
            for truth in (self.log.acceptable, self.log.cost_usd)
        )
        rows = self.log.outcomes.drop_duplicates("request_id")
        prompts = zip(rows["request_id"], rows["prompt"], rows["messages"], strict=True)
        self._requests = {_key(prompt, messages): request for request, prompt, messages in prompts}
        self._lock = threading.Lock()

    @property
    def billed_usd(self) -> float:
        return sum(self.bill.values())

    def answer(self, body: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        """The chat completion, which is billed."""
        name, request = body["model"], self._requests[_key(None, body["messages"])]
        good = _draw(request, name) < self._acceptable[name][request]
        entry, cost = self.catalogue[name], self._cost_usd[name][request]
        sent = max(1, round(len(json.dumps(body["messages"]).encode()) / 4))
        room = cost - entry.cost_usd(sent, 0)
        got = max(1, round(1e6 * max(room, 0.0) / (entry.output_usd_per_mtok or 1.0)))
        with self._lock:
            self.bill[key or f"call {self.calls}"] = entry.cost_usd(sent, got)
        message = {"role": "assistant", "content": f"{GOOD if good else POOR} ({name})"}
        return {
            "id": "chatcmpl-simulated",
            "object": "chat.completion",
            "created": 0,
            "model": name,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got},
        }

    def counted(self) -> int:
        with self._lock:
            self.calls += 1
            return self.calls


def _key(prompt: object, messages: object) -> bytes:
    said = messages if isinstance(messages, list) else [{"role": "user", "content": prompt}]
    return blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).digest()


def _draw(request: object, candidate: str) -> float:
    """A number in [0, 1) that is the same whenever this candidate is asked this."""
    return int.from_bytes(blake2b(f"{request}\0{candidate}".encode(), digest_size=7).digest()) / 2**56


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            number, faults = provider.counted(), provider.faults
            if faults.refused and number % faults.refused == 0:
                self._reply(429, b'{"error": {"message": "slow down"}}', {"retry-after": "0"})
            elif faults.failing and number % faults.failing == 0:
                self._reply(500, b'{"error": {"message": "try again"}}')
            elif faults.garbage and number % faults.garbage == 0:
                self._reply(200, b"<html>garbage</html>")
            else:
                document = provider.answer(body, self.headers.get("idempotency-key"))
                if faults.stalling and number % faults.stalling == 0:
                    time.sleep(faults.stall_s)
                self._reply(200, json.dumps(document).encode())

        def _reply(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
            try:
                self.send_response(status)
                for name, value in {"content-type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # who asked is gone
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked is gone."""


@contextmanager
def on_loopback(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server with this handler, while the block runs."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(provider: Provider) -> Iterator[Provider]:
    """The provider at its `url` while the block runs."""
    with on_loopback(_handler(provider)) as provider.url:
        yield provider
