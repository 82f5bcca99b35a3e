"""A stand-in for a Langfuse project: OTLP/JSON ingestion, scores and observations over HTTP, as its documentation has them.

As Langfuse 4 does, it keeps every copy of a span it is sent, and overwrites a score whose id, name and day are the same. What
it has taken in can be read some seconds later. `faults` are what it does instead of answering well.
"""

from __future__ import annotations

import base64
import json
import random
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

PUBLIC, SECRET = "pk-lf-stand-in", "sk-lf-stand-in"
# Answered when all that was sent before has been taken in: before a clock of one's own is moved.
SETTLED = "/settled"
Row = dict[str, Any]
# A fault: the status to answer, or "lost" (taken in, no answer), "slow" (the same, and late), "broken" (500, taken in).
Fault = int | str | None


class Project:
    """What arrived, and how the server behaves."""

    def __init__(self, clock: Callable[[], float] = time.time, seed: int = 0) -> None:
        self.clock, self.random = clock, random.Random(seed)
        self.spans: defaultdict[str, list[Row]] = defaultdict(list)
        self.visible: dict[str, float] = {}
        self.scores: dict[tuple[str, str, str], Row] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.faults: Callable[[str], Fault] = lambda path: None
        self.refuses: Callable[[Row], bool] = lambda row: False  # a span or score that is bad in itself
        self.takes_lists, self.can_be_asked, self.delay, self.slow_seconds = True, True, 5.0, 1.0
        self.lock = threading.Lock()

    def take_spans(self, body: Row) -> tuple[int, Row]:
        found = [
            span for of in body["resourceSpans"] for scope in of["scopeSpans"] for span in scope["spans"]
        ]  # fmt: skip
        if any(len(span["traceId"]) != 32 or len(span["spanId"]) != 16 for span in found):
            return 400, {"error": "Failed to parse OTel JSON Trace"}
        bad = [span for span in found if self.refuses(span)]
        for span in found:
            if span not in bad:
                self.spans[span["spanId"]].append(span)
                self.visible.setdefault(span["spanId"], self.clock() + self.random.random() * self.delay)
        return 200, {"partialSuccess": {"rejectedSpans": str(len(bad)), "errorMessage": "bad"}} if bad else {}

    def take_scores(self, body: Any) -> tuple[int, Row]:
        if isinstance(body, list) and not self.takes_lists:
            return 400, {"message": "Invalid request data"}
        rows = body if isinstance(body, list) else [body]
        bad = [row for row in rows if not self._keep_score(row)]
        if bad:
            return 207, {
                "accepted": len(rows) - len(bad),
                "rejected": len(bad),
                "errors": [{"message": "bad"}] * len(bad),
            }
        return 202, {"message": "Accepted"}

    def take_events(self, body: Row) -> tuple[int, Row]:
        if not body["batch"]:
            return 400, {"message": "empty"}
        failed = [event["id"] for event in body["batch"] if not self._keep_score(event["body"])]
        taken = [{"id": event["id"], "status": 201} for event in body["batch"] if event["id"] not in failed]
        return 207, {"successes": taken, "errors": [{"id": one, "status": 400, "message": "bad"} for one in failed]}

    def _keep_score(self, row: Row) -> bool:
        if self.refuses(row) or not isinstance(row.get("value"), int | float) or "traceId" not in row:
            return False
        self.scores[row["id"], row["name"], row["timestamp"][:10]] = row
        return True

    def page(self, query: dict[str, list[str]]) -> tuple[int, Row]:
        if not self.can_be_asked:
            return 404, {"message": "not found"}
        first, last = (datetime.fromisoformat(query[name][0]).timestamp() for name in ("fromStartTime", "toStartTime"))
        now, start, limit = self.clock(), int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        rows = [
            {"id": span["spanId"], "traceId": span["traceId"], "type": "SPAN"}
            for copies in self.spans.values()
            for span in copies
            if span["name"] == query["name"][0]
            and first <= int(span["startTimeUnixNano"]) / 1e9 < last
            and self.visible[span["spanId"]] <= now
        ]
        more = {"cursor": str(start + limit)} if len(rows) > start + limit else {}
        return 200, {"data": rows[start : start + limit], "meta": more}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    project: Project

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json"
        take = {
            "/api/public/otel/v1/traces": self.project.take_spans,
            "/api/public/scores": self.project.take_scores,
            "/api/public/ingestion": self.project.take_events,
        }
        self.project.bodies.append(body)
        self._answer(lambda path: take[path](json.loads(body)) if path in take else (404, {}))

    def do_GET(self) -> None:
        query = parse_qs(urlparse(self.path).query)
        assert isinstance(self.server, _Server)
        self.server.wait_for_earlier(self.connection)
        if self.path == SETTLED:
            return self._say(200, {})
        self._answer(lambda path: self.project.page(query) if path == "/api/public/v2/observations" else (404, {}))

    def _answer(self, take: Callable[[str], tuple[int, Row]]) -> None:
        path = urlparse(self.path).path
        expected = "Basic " + base64.b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()
        with self.project.lock:
            self.project.requests.append((self.command, path))
            fault = self.project.faults(path)
            if self.headers["Authorization"] != expected:
                status, answer = 401, {"message": "Invalid credentials"}
            elif isinstance(fault, int):
                status, answer = fault, {"message": "fault"}
            else:
                status, answer = take(path)
        if fault == "slow":
            time.sleep(self.project.slow_seconds)
        if fault in ("lost", "slow"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._say(500 if fault == "broken" else status, answer)

    def _say(self, status: int, answer: Row) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 429:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(ThreadingHTTPServer):
    """Answers a question after all that was sent before it: what a sender has given up may still be on its way here."""

    daemon_threads = True
    disable_nagle_algorithm = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that has given up takes no answer."""

    def wait_for_earlier(self, asking: socket.socket) -> None:
        """Until no connection that was made before this one holds anything that is not read; a quarter of a minute at most."""
        until = time.monotonic() + 15.0
        while time.monotonic() < until:
            earlier = self._connections[: self._connections.index(asking)]
            if not any(_readable(one) for one in earlier):
                return
            time.sleep(0.002)


def _readable(connection: socket.socket) -> bool:
    try:
        return bool(select.select([connection], [], [], 0)[0])
    except (OSError, ValueError):  # closed meanwhile
        return False


@contextmanager
def langfuse_server(project: Project) -> Iterator[str]:
    """The URL of a server that has this project."""
    handler = type("Handler", (_Handler,), {"project": project})
    server = _Server(handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def at_random(draw: random.Random, share: float, faults: Sequence[Fault]) -> Callable[[str], Fault]:
    """One of some faults for a share of the requests."""
    return lambda path: draw.choice(faults) if draw.random() < share else None
