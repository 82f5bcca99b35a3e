"""Real bodies with something wrong in each, sent to a server: whatever comes, it is decided or refused, and costs little.

No answer may be a 5xx, the event loop may not be held up, and memory has to stay where it was.
"""

from __future__ import annotations

import http.client
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.load import environment, process, serve
from benchmarks.serving.watch import resident_mib, ticking

ROUTE, BATCH, FEEDBACK = "/v1/route", "/v1/route/batch", "/v1/feedback"
_CHAT: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "You answer questions about invoices in one sentence."},
        {"role": "user", "content": [{"type": "text", "text": "Which of these is overdue? Größe: 3 m² – 日本語"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"number": 17}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "due 2026-03-01"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
        },
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "find",
                "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}},
            },
        }
    ],
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
    "max_completion_tokens": 300,
    "temperature": 0.2,
    "stream": True,
    "metadata": {"workflow": "billing"},
    "session_id": "s-17",
    "workflow": "billing",
}
_RULED: dict[str, Any] = {
    "prompt": "Prove that the square root of two is irrational.",
    "allow": ["*"],
    "deny": ["acme/l*"],
    "requires": ["tools"],
    "privacy": {"zero_retention": True, "regions": ["eu"]},
    "max_cost_usd": 0.05,
    "max_latency_ms": 5_000,
    "quality_target": 0.9,
    "abstain_below": 0.2,
}
_A_DECISION = "0" * 32  # stands for the id of the last decision
_TOLD: dict[str, Any] = {
    "decision_id": _A_DECISION,
    "accepted": True,
    "quality": 0.75,
    "cost_usd": 0.001,
    "input_tokens": 120,
    "output_tokens": 80,
    "latency_ms": 900.0,
    "error": False,
    "replace": True,
}
_REAL: tuple[tuple[str, Any], ...] = (
    (ROUTE, _CHAT),
    (ROUTE, _RULED),
    (BATCH, {"requests": [_CHAT, _RULED, {"prompt": "hello", "cost_quality": 3}]}),
    (FEEDBACK, _TOLD),
    (FEEDBACK, {"feedback": [_TOLD, {**_TOLD, "model": "acme/small"}]}),
)
_NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 - 1, -(2**63), 10**30, 10**400, 0.0, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), "", " ", "\0", "\ud800", "\udfff\ud800", "a" * 300, "word " * 3_000, "日" * 5_000, "null",
    "*" * 200, "[" * 200, "' or 1=1 --", "../../etc/passwd", "{{7*7}}", [], {}, [[]], [{}], {"": None}, ["", None, 1.5],
    [0] * 2_000, [{}] * 500, {"type": "text"}, {"type": "input_audio", "input_audio": {"data": "A"}}, {"a": {"b": []}},
)  # fmt: skip


@dataclass
class Fuzzed:
    """What came of the bodies: answers by status, those that were a 5xx with their body's beginning, and what it cost.

    `stall_ms` is the longest that the event loop was held up; `memory_mib` the server's, after each tenth of the bodies.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    stall_ms: float = float("nan")
    memory_mib: list[float] = field(default_factory=list)


def fuzz(port: int, pid: int, count: int, seed: int) -> Fuzzed:
    """Sends so many mutated bodies, one after the other, to the server that is this process; feedback is on its decisions."""
    draw, found, decided = random.Random(seed), Fuzzed(), _A_DECISION
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with ticking(port, pid) as stall:
        for number in range(count):
            path, document = draw.choice(_REAL)
            body = mutated(draw, document).replace(_A_DECISION.encode(), decided.encode())
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if path == ROUTE and answer.status == 200:
                decided = json.loads(content)["id"]
            found.statuses[answer.status] += 1
            if answer.status >= 500:
                found.faults.append(f"{path}: {answer.status}: {body[:500]!r}")
            if (number + 1) % max(count // 10, 1) == 0:
                found.memory_mib.append(resident_mib(pid))
    connection.close()
    found.stall_ms = 1e3 * stall.worst
    return found


def fuzz_figures(bundle: Path, count: int, port: int, seed: int = 0) -> dict[str, Any]:
    """The same on a server of its own, as figures."""
    with tempfile.TemporaryDirectory() as name:
        arguments = serve(bundle, port, Path(name) / "decisions.db")
        with process(arguments, f"http://127.0.0.1:{port}/readyz", environment()) as pid:
            fuzz(port, pid, count // 20, seed + 1)  # what is filled once, and stays
            found = fuzz(port, pid, count, seed)
    return {
        "bodies": count,
        "statuses": {str(status): found.statuses[status] for status in sorted(found.statuses)},
        "faults": found.faults[:5],
        "stall_ms": found.stall_ms,
        "memory_mib": found.memory_mib,
    }


def mutated(draw: random.Random, document: Any) -> bytes:
    """A document with up to four changes of its values, and now and then of its bytes."""
    changed = deepcopy(document)
    for _ in range(draw.randrange(5)):
        places = list(_places(changed))
        if not places:
            break
        _change(draw, *draw.choice(places))
    body = json.dumps(changed, ensure_ascii=draw.random() < 0.8).encode("utf-8", "surrogatepass")
    for _ in range(draw.choice((0, 0, 0, 1, 3))):
        body = _cut(draw, body)
    return body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) in a document."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = one.keys() if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            yield one, key
            waiting.append(one[key])


def _change(draw: random.Random, container: Any, key: Any) -> None:
    match draw.randrange(6):
        case 0:
            del container[key]
        case 1:
            container[key] = [container[key]]
        case 2:
            container[key] = {draw.choice(("a", "type", "role", "", "\ud800")): container[key]}
        case 3 if isinstance(container, list):
            container.extend(deepcopy(container[key]) for _ in range(draw.choice((1, 20, 300))))
        case 4 if isinstance(container, dict):
            container[draw.choice(("x", "prompt", "messages", "quality", str(key).upper()))] = deepcopy(container[key])
        case _:
            container[key] = deepcopy(draw.choice(_NASTY))


def _cut(draw: random.Random, body: bytes) -> bytes:
    start, end = sorted((draw.randrange(len(body) + 1), draw.randrange(len(body) + 1)))
    match draw.randrange(5):
        case 0:
            return body[:start]
        case 1:
            return body[:start] + body[end:]
        case 2:
            return body[:start] + draw.randbytes(draw.randrange(1, 9)) + body[start:]
        case 3:
            return body[:end] + body[start:end] + body[end:]
        case _:
            return body[:start] + bytes([draw.choice(b'{}[]",:\\\0\xff')]) + body[start + 1 :]
