"""What a kill -9 of LiteLLM's proxy leaves of what became of its calls: each one's cost, once, as LiteLLM has it."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.gateway.proxy import GROUP, Proxy, free_port, upstream
from benchmarks.serving.load import process, serve
from serving.bundle.catalogue import Candidate

_STREAMED, _FAILING, _AT_ONCE = 10, 17, 8
_SETTLED_SECONDS = 150.0


@dataclass
class Seen:
    """What the client saw: of each answer its decision and the cost in its header, None for a stream; and what broke."""

    answers: dict[str, tuple[str, float | None]] = field(default_factory=dict)
    broken: int = 0
    refused: int = 0


@contextmanager
def served(folder: Path, bundle: Path, candidates: Sequence[Candidate], *, over_http: bool) -> Iterator[Proxy]:
    """A proxy that is not started yet, with the LLMs behind it and, over HTTP, the router beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "decisions.db"
    variables = {"ROUTER_LITELLM_SPOOL": str(folder / "spool.db"), "ROUTER_EMBED_WAIT_MS": "10000"}
    with ExitStack() as running:
        address = running.enter_context(upstream(folder, candidates))
        if over_http:
            port = free_port()
            running.enter_context(process(serve(bundle, port, store), f"http://127.0.0.1:{port}/readyz"))
            variables |= {"ROUTER_URL": f"http://127.0.0.1:{port}", "ROUTER_LITELLM_TIMEOUT_SECONDS": "5"}
        else:
            variables |= {"ROUTER_BUNDLE": str(bundle), "ROUTER_STORE": str(store)}
        yield Proxy(folder, candidates, address, variables, costs=True)


def kept_through_kill(
    folder: Path, bundle: Path, candidates: Sequence[Candidate], *, requests: int, over_http: bool
) -> dict[str, Any]:
    """Figures of so many requests, of which one in ten is a stream, with a kill -9 of the proxy after half of them.

    `differing` are calls whose cost in the store is not LiteLLM's, by its log, by the answer's header or by the bill; `missing`
    are those of which the store has none. `streams_lost` are streams whose end LiteLLM had not logged when it was killed.
    """
    seen = Seen()
    with served(folder, bundle, candidates, over_http=over_http) as proxy:
        proxy.start()
        try:
            began = time.monotonic()
            asyncio.run(_ask(proxy, candidates, range(requests), seen, kill_after=requests // 2))
            unanswered = [number for number in range(requests) if str(number) not in seen.answers]
            proxy.start()
            asyncio.run(_ask(proxy, candidates, unanswered, seen))
            taken = time.monotonic() - began
            _settle(folder)
        finally:
            proxy.end()
        bill = httpx.get(f"{proxy.upstream}/bill").json()
    return {"requests": requests, "over_http": over_http, "seconds": taken, **_compared(folder, seen, bill)}


async def _ask(
    proxy: Proxy, candidates: Sequence[Candidate], numbers: Sequence[int], seen: Seen, kill_after: int | None = None
) -> None:
    """Sends requests, several at a time; after so many answers the proxy is killed, and what is under way breaks."""
    waiting = iter(numbers)
    alive = True

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal alive
        for number in waiting:
            if not alive:
                return
            await _one(client, candidates, number, seen)
            if kill_after is not None and alive and len(seen.answers) >= kill_after:
                alive = False
                proxy.end(signal.SIGKILL)

    async with httpx.AsyncClient(base_url=proxy.url, headers=proxy.headers, timeout=60) as client:
        await asyncio.gather(*(worker(client) for _ in range(_AT_ONCE)))


async def _one(client: httpx.AsyncClient, candidates: Sequence[Candidate], number: int, seen: Seen) -> None:
    streamed = number % _STREAMED == 0
    dies = f" die:{candidates[number % len(candidates)].name}" if number % _FAILING == 0 else ""
    text = f"#{number}# hello world, the sum of {number} theorems{dies}"
    body = {"model": GROUP, "messages": [{"role": "user", "content": text}], "stream": streamed}
    try:
        answer = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError:
        seen.broken += 1
        return
    if answer.status_code != 200 or (streamed and "[DONE]" not in answer.text):
        seen.refused += 1
        return
    cost = None if streamed else float(answer.headers["x-litellm-response-cost"])
    seen.answers[str(number)] = (answer.headers["x-router-decision-id"], cost)


def _settle(folder: Path) -> None:
    """Waits until nothing is left to deliver."""
    until = time.monotonic() + _SETTLED_SECONDS
    while time.monotonic() < until:
        time.sleep(1.0)
        with sqlite3.connect(folder / "spool.db", timeout=30) as spool:
            [left] = spool.execute("select count(*) from told").fetchone()
        if not left:
            return


def _compared(folder: Path, seen: Seen, bill: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    with sqlite3.connect(folder / "decisions.db", timeout=30) as store:
        decided = {row[0] for row in store.execute("select id from decision")}
        costs = dict(store.execute("select decision_id, cost_usd from feedback"))
    logged: dict[str, list[float]] = {}
    for line in (folder / "costs.jsonl").read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        logged.setdefault(said["id"], []).append(said["cost_usd"])
    lost = [one for one, cost in seen.answers.values() if cost is None and one not in logged and one not in costs]
    expected = {
        one: [*logged.get(one, ()), *([cost] if cost is not None else [])] for one, cost in seen.answers.values()
    }
    expected |= {one: said for one, said in logged.items() if one not in expected}
    billed = {
        one: sum(line["cost_usd"] for line in bill[mark][-1:])
        for mark, (one, _) in seen.answers.items()
        if mark in bill
    }
    differing = [
        one
        for one, values in expected.items()
        if costs.get(one) is not None and any(not _same(costs[one], value) for value in values)
    ]
    differing += [one for one, value in billed.items() if costs.get(one) is not None and not _same(costs[one], value)]
    missing = [one for one, values in expected.items() if values and costs.get(one) is None]
    return {
        "answered": len(seen.answers),
        "broken_by_the_kill": seen.broken,
        "refused": seen.refused,
        "logged_by_litellm": sum(map(len, logged.values())),
        "logged_twice": sum(len(values) > 1 for values in logged.values()),
        "kept_without_a_log_event": sum(one not in logged and one in costs for one, _ in seen.answers.values()),
        "streams": sum(cost is None for _, cost in seen.answers.values()),
        "streams_lost": len(lost),
        "missing": len(missing),
        "differing": len(set(differing)),
        "not_decided": len([one for one in expected if one not in decided]),
        "cost_usd": sum(costs[one] for one in expected if costs.get(one) is not None),
        "litellm_usd": sum(values[0] for values in expected.values() if values),
    }


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(abs(one), abs(other))
