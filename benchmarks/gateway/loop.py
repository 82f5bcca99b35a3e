"""The loop, closed through LiteLLM's proxy: simulated candidates answer, one user in ten says whether the answer was good.

As `benchmarks.simulated.loop`, but that the traffic of the shifted mix passes through a real proxy with the plug-in in its
process. Costs come from LiteLLM's log events, thumbs in the metadata of a user's next request. The new router is trained on the
first log and on what the proxy has stored, by the estimators that a user's training has: some ten seconds each. Both are
compared on later traffic, by the truth and by a judged log of it.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

from benchmarks.gateway.proxy import GROUP, Proxy
from benchmarks.simulated.loop import AFTER, BEFORE, COST_QUALITY, Day, compared, day, serve_all, shifted
from benchmarks.simulated.provider import GOOD, Provider, serving
from serving.decide.policy import Policy
from serving.decide.value import knob_for
from training.config import Params, load_params
from training.evaluate.baselines import Truth
from training.logs.sources import reading
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.run import train
from training.simulation.simulate import simulate

# Without the parts of an evaluation that take long and are not compared here.
UNMEASURED = ("evaluate.splits=false", "evaluate.resamples=10")
THUMBS, _EXPLORED, _AT_ONCE, _SETTLED_SECONDS = 0.1, 0.2, 8, 60.0


def close_loop(
    folder: Path, cache: Path, *, requests: int = 5_000, params: Params | None = None, seed: int = 0
) -> dict[str, Any]:
    """Everything once; figures by name, for a log of `requests` before each mix is drawn from it."""
    params = params or load_params(overrides=UNMEASURED)
    catalogue = load_catalogue(SHIPPED)
    candidates = [catalogue[name] for name in params.simulate.candidates]
    rng = np.random.default_rng(seed)
    logs = [simulate(candidates, requests=requests, days=params.simulate.days, seed=seed + n) for n in range(3)]
    first = validate(shifted(logs[0], BEFORE, rng), source="simulated", format="simulated")
    truth = Truth(logs[0].acceptable, logs[0].cost_usd)
    before = train(first, params, catalogue, out=folder / "before", cache=cache, truth=truth).bundle
    served, later = (day(log, AFTER, rng) for log in logs[1:])
    with serving(Provider(logs[1], catalogue)) as provider:
        place = folder / "proxy"
        variables = {
            "ROUTER_BUNDLE": str(before.folder),
            "ROUTER_STORE": str(folder / "decisions.db"),
            "ROUTER_EXPLORE": str(_EXPLORED),
            "ROUTER_EMBED_WAIT_MS": "60000",
            "ROUTER_LITELLM_SPOOL": str(folder / "spool.db"),
        }
        with Proxy(place, candidates, provider.url.removesuffix("/v1"), variables) as proxy:
            thumbs = asyncio.run(_ask(proxy, served, seed))
            _settle(folder / "spool.db")
        billed = provider.billed_usd
    stored = reading.read([str(folder / "decisions.db")])
    both = validate(pd.concat([first.frame, stored.frame], ignore_index=True), source="decisions", format="both")
    after = train(both, params, catalogue, out=folder / "after", cache=cache).bundle
    knob = knob_for(COST_QUALITY, before.manifest.knobs)
    serve_all(before, folder / "later.db", later, Policy(knob=knob), _EXPLORED, rng)
    return {
        "requests": {
            "before": int(first.frame["request_id"].nunique()),
            "served": len(served.requests),
            "later": len(later.requests),
        },
        "thumbs": thumbs,
        # With a call that failed, which needs no thumb.
        "judged": int(stored.frame["quality"].notna().sum()),
        "billed_usd": billed,
        "stored_usd": float(stored.frame["cost_usd"].sum()),
        "knob": knob,
        **compared({"before": before, "after": after}, later, folder / "later.db", knob),
    }


async def _ask(proxy: Proxy, traffic: Day, seed: int) -> int:
    """Sends the traffic; how many thumbs went along with later requests."""
    draw, said = random.Random(seed), list[Mapping[str, Any]]()
    waiting, told = iter(traffic.requests), 0

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal told
        for request in waiting:
            thumbs, said[:] = list(said), []
            told += len(thumbs)
            messages = request.messages or [{"role": "user", "content": request.prompt}]
            extra = {"workflow": request.workflow, "cost_quality": COST_QUALITY}
            metadata = {"outcome_router_feedback": thumbs} if thumbs else {}
            body = {"model": GROUP, "messages": messages, "metadata": metadata, **extra}
            answer = await client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            if draw.random() < THUMBS:
                good = answer.json()["choices"][0]["message"]["content"].startswith(GOOD)
                said.append({"decision_id": answer.headers["x-router-decision-id"], "accepted": good})

    async with httpx.AsyncClient(base_url=proxy.url, headers=proxy.headers, timeout=60) as client:
        await asyncio.gather(*(worker(client) for _ in range(_AT_ONCE)))
    return told


def _settle(spool: Path) -> None:
    until = time.monotonic() + _SETTLED_SECONDS
    while time.monotonic() < until:
        time.sleep(1.0)
        with sqlite3.connect(spool, timeout=30) as file:
            if not file.execute("select count(*) from told").fetchone()[0]:
                return
