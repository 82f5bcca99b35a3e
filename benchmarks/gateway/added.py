"""What the plug-in adds to a call through LiteLLM's proxy: in its process and over HTTP, beside the same proxy without it.

The three proxies run at the same time and get each request one after the other, in an order that is drawn, so that what else
the machine does falls on all of them. What the plug-in's own hooks take is measured inside the proxy as well: a proxy's answers
differ by milliseconds from call to call, the hooks do not.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.gateway.kill import served
from benchmarks.gateway.proxy import GROUP, IN_THE_WAY, Proxy
from benchmarks.paired import interval
from serving.bundle.catalogue import Candidate

WITHOUT, IN_PROCESS, OVER_HTTP = "without", "in process", "over HTTP"
_WARM = 50
_TEXT = (
    "#{number}# Please tell me in two sentences what the sum of {number} theorems is, and why anybody would want it."
)


def added(
    folder: Path, bundle: Path, candidates: Sequence[Candidate], *, requests: int, seed: int = 0
) -> dict[str, Any]:
    """Milliseconds of a call, p50 and p99, by proxy; `added_ms` are the medians of the differences within a request.

    `added_95` are the 95% intervals of these medians, bootstrapped over the requests.
    """
    draw = random.Random(seed)
    with ExitStack() as running:
        proxies: dict[str, Proxy] = {}
        for name in (WITHOUT, IN_PROCESS, OVER_HTTP):
            place = folder / name.replace(" ", "-")
            proxy = running.enter_context(served(place, bundle, candidates, over_http=name == OVER_HTTP))
            proxy.costs, proxy.routed, proxy.times = False, name != WITHOUT, name != WITHOUT
            proxies[name] = running.enter_context(proxy)
        clients = {
            name: running.enter_context(httpx.Client(base_url=one.url, headers=one.headers, timeout=60))
            for name, one in proxies.items()
        }
        taken: dict[str, list[float]] = {name: [] for name in proxies}
        for number in range(_WARM + requests):
            for name in draw.sample(sorted(clients), len(clients)):
                taken[name].append(_call(clients[name], number))
        hooks = {name: _hooks(one, requests) for name, one in proxies.items() if name != WITHOUT}
    measured = {name: np.array(each[_WARM:]) for name, each in taken.items()}
    gaps = {name: each - measured[WITHOUT] for name, each in measured.items() if name != WITHOUT}
    return {
        "requests": requests,
        "ms": {name: _percentiles(each) for name, each in measured.items()},
        "added_ms": {name: float(np.median(each)) for name, each in gaps.items()},
        "added_95": {name: interval(each, np.median) for name, each in gaps.items()},
        "hooks_ms": hooks,
    }


def _call(client: httpx.Client, number: int) -> float:
    body = {"model": GROUP, "messages": [{"role": "user", "content": _TEXT.format(number=number)}]}
    began = time.perf_counter()
    answer = client.post("/v1/chat/completions", json=body)
    taken = 1e3 * (time.perf_counter() - began)
    answer.raise_for_status()
    return taken


def _hooks(proxy: Proxy, requests: int) -> Mapping[str, Mapping[str, float]]:
    """What the hooks that a call waits for take together, call by call, in milliseconds: by the clock, and of the processor.

    `clock` has what else the machine does in it, and a router's answer over HTTP; `processor` has the loop's own thread alone.
    """
    lines = (proxy.folder / "costs.jsonl.times").read_text(encoding="utf-8").splitlines()
    by_hook: dict[str, list[tuple[float, float]]] = {name: [] for name in IN_THE_WAY}
    for name, clock, processor in map(json.loads, lines):
        by_hook[name].append((clock, processor))
    # Calls came one after the other, and each calls every hook once.
    sums = np.sum([each[-requests:] for each in by_hook.values()], axis=0)
    return {"clock": _percentiles(sums[:, 0]), "processor": _percentiles(sums[:, 1])}


def _percentiles(values: Any) -> dict[str, float]:
    return {"p50": float(np.percentile(values, 50)), "p99": float(np.percentile(values, 99))}
