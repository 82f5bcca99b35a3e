"""What the page asks for, answered by a few lines instead of a trained bundle: each figure can be worked out by hand.

A prompt with "prove" in it is hard. P(acceptable) and cost are `EASY` and `HARD`; the choice at a knob is the highest
P(acceptable) - knob x cost, so where on the knob it flips is arithmetic.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.decide.value import knob_for
from serving.page import html, mount

VERSION = "20261127-0a3c5f"
OLDER = "20261030-77b2e1"
CANDIDATES = {
    # name: (P(acceptable) of an easy prompt, of a hard one, cost in USD)
    "acme/small": (0.86, 0.31, 0.00004),
    "open/medium": (0.90, 0.48, 0.00021),
    "nord/flash-2": (0.93, 0.62, 0.0006),
    "acme/large": (0.97, 0.88, 0.0051),
}
REFERENCE = "acme/large"
KNOBS = [0.0, *(10 ** (exponent / 4) for exponent in range(0, 19)), math.inf]
POINTS = {"quality-0.9": (0.9, 316.2, 0.081, 0.62), "quality-0.95": (0.95, 56.2, 0.043, 0.47)}
SECRET = {"observer-secret": "observer", "operator-secret": "operator"}
WORKFLOWS = ["support", "sql", "proofs"]


@dataclass
class Backend:
    """Its switches, and what it was asked."""

    keys: bool = False
    why_no_frontier: str | None = None
    refuses_reload: bool = False
    over_rate: int = 0
    closes_stream: bool = False
    decided: int = 1200
    routed: list[dict[str, Any]] = field(default_factory=list)
    streams: int = 0
    costs_told: bool = True
    summed: int = 0

    def app(self) -> Starlette:
        routes = [
            Route("/", _page),
            Route("/v1/me", self.me),
            Route("/v1/bundle", self.bundle),
            Route("/v1/candidates", self.candidates),
            Route("/v1/route", self.route, methods=["POST"]),
            Route("/v1/frontier", self.frontier),
            Route("/v1/live", self.live),
            Route("/v1/savings", self.savings),
            Route("/v1/bundles", self.bundles),
            Route("/v1/shadow", self.shadow),
            Route("/v1/admin/reload", self.reload, methods=["POST"]),
        ]
        return Starlette(routes=[*routes, mount()])

    def refusal(self, request: Request, admin: bool = False) -> Response | None:
        name = SECRET.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if self.keys and name is None:
            return _problem(401, "An API key is needed: Authorization: Bearer <key>.")
        if self.keys and admin and name != "operator":
            return _problem(403, f"The key {name} may not administer (admin = true in the rule file).")
        if self.over_rate:
            self.over_rate -= 1
            return _problem(429, f"The key {name} is over its rate.", {"Retry-After": "1"})
        return None

    async def me(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        name = SECRET.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        tabs = ["try", "frontier", "live", "bundles"]
        known = {"store": True, "prompts": True, "shadow": True, "workflows": [], "page_tabs": tabs}
        return JSONResponse({"key": name, "admin": not self.keys or name == "operator", "keys": self.keys, **known})

    async def bundle(self, request: Request) -> Response:
        points = [_operating_point(name) for name in POINTS]
        knobs = [None if math.isinf(knob) else knob for knob in KNOBS]
        head = {"estimator": "blend", "calibration": "isotonic", "workflows": WORKFLOWS}
        shown = {"version": VERSION, "created": "2026-11-27T09:00:00Z", "simulated": True, "reference": REFERENCE}
        return JSONResponse(
            {**shown, "acceptable": 0.5, "head": head, "knobs": knobs, "metrics": {"aiq": 0.883, "ece": 0.021}}
            | {"operating_points": points, "default_point": "quality-0.95"}
        )

    async def candidates(self, request: Request) -> Response:
        rows = [{"name": name, "provider": name.split("/")[0], "cost_from": "tokens"} for name in CANDIDATES]
        return JSONResponse({"reference": REFERENCE, "candidates": rows})

    async def route(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        body = await request.json()
        self.routed.append(body)
        if body.get("prompt") is None and body.get("messages") is None:
            return _problem(422, "Wrong body.", errors=[{"field": "prompt", "message": "give one of prompt, messages"}])
        text = body.get("prompt") or json.dumps(body.get("messages"))
        ruled_out = {name: "denied" for name in CANDIDATES if name in body.get("deny", [])}
        if body.get("max_cost_usd") is not None:
            dear = (name for name, values in CANDIDATES.items() if values[2] > body["max_cost_usd"])
            ruled_out = dict.fromkeys(dear, "max_cost_usd") | ruled_out
        if len(ruled_out) == len(CANDIDATES):
            return _problem(422, "no candidate is eligible", ruled_out=ruled_out)
        return JSONResponse(decision(body, "prove" in text.lower(), ruled_out))

    async def frontier(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        if self.why_no_frontier is not None:
            return _problem(404, self.why_no_frontier)
        return JSONResponse(frontier())

    async def live(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused

        async def events() -> AsyncIterator[str]:
            self.streams += 1
            yield "retry: 2000\n\n"
            for number in range(600):
                shown = json.dumps(snapshot(self.decided, self.costs_told))
                yield f"event: snapshot\nid: {number}\ndata: {shown}\n\n: beat\n\n"
                if self.closes_stream:
                    yield 'event: end\ndata: {"why": "The key was taken away."}\n\n'
                    return
                await asyncio.sleep(0.25)  # a busy machine draws no page twenty times a second

        return StreamingResponse(events(), media_type="text/event-stream")

    async def savings(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        self.summed += 1
        by = request.query_params.get("by", "day")
        names = {"workflow": WORKFLOWS, "candidate": list(CANDIDATES), "key": ["observer"]}.get(by, ["2026-11-26"])
        lines = [_saved(name, 100 * (place + 1), -0.4 if place == 2 else 1.2) for place, name in enumerate(names)]
        total = _saved(None, self.decided, 2.0)
        if not self.costs_told:
            total |= {"costed": 0, "compared": 0, "uncosted": self.decided}
        correction = {"reference": REFERENCE, "method": "reference's own answers", "ratio": 1.04, "low": 0.98}
        correction |= {"high": 1.1, "answers": 412, "conversations": 390}
        method = {"by": by, "method": "reference's own answers", "references": [correction], "other": None}
        window = {"from": "2026-10-28T00:00:00Z", "to": "2026-11-27T00:00:00Z"}
        return JSONResponse({**window, **method, "total": total, "lines": lines})

    async def bundles(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        both = [bundle_entry(VERSION, current=True), bundle_entry(OLDER, previous=True)]
        both += [bundle_entry("20261121-91ff02", shadow=True, comparable=False), bundle_entry("20261001-broken")]
        both[-1] |= {"broken": "manifest.json: format_version 5 arrived, 8 is expected"}
        seen = both if self.refusal(request, admin=True) is None else both[:1]
        return JSONResponse({"live": VERSION, "shadow": "20261121-91ff02", "source": "models", "bundles": seen})

    async def shadow(self, request: Request) -> Response:
        if refused := self.refusal(request, admin=True):
            return refused
        line = {"decisions": 5120, "agreement": 0.83, "live_cost_usd": 0.00121, "shadow_cost_usd": 0.00112}
        line |= {"live_confidence": 0.914, "shadow_confidence": 0.917}
        rows = [{**line, "workflow": name, "decisions": 1700} for name in WORKFLOWS]
        held = {"total": None, "workflows": []}
        names = {"bundle": VERSION, "shadow": "20261121-91ff02", "hours": 24.0, "held_back": held}
        return JSONResponse({**names, "total": {**line, "workflow": None}, "workflows": rows})

    async def reload(self, request: Request) -> Response:
        if refused := self.refusal(request, admin=True):
            return refused
        if self.refuses_reload:
            return _problem(409, "models/current: head.onnx has another hash than manifest.json says")
        workers = [{"worker": number, "bundle": VERSION, "shadow": None} for number in (0, 1)]
        return JSONResponse({"changed": False, "bundle": VERSION, "workers": workers})


def chosen(knob: float, hard: bool, ruled_out: dict[str, str]) -> str:
    """The candidate of the highest P(acceptable) - knob x cost; at an infinite knob the cheapest."""
    left = {name: values for name, values in CANDIDATES.items() if name not in ruled_out}
    if math.isinf(knob):
        return min(left, key=lambda name: left[name][2])
    return max(left, key=lambda name: left[name][hard] - knob * left[name][2])


def decision(body: dict[str, Any], hard: bool, ruled_out: dict[str, str]) -> dict[str, Any]:
    """The answer of /v1/route with `explain`."""
    target, trade = body.get("quality_target"), body.get("cost_quality")
    point = None if trade is not None else next((n for n in POINTS if POINTS[n][0] == target), "quality-0.95")
    knob = POINTS[point][1] if point is not None else knob_for(trade, KNOBS)
    model = chosen(knob, hard, ruled_out)
    told = _certificate(point) if point is not None and not ruled_out else None
    rows = [
        {"model": name, "confidence": values[hard], "expected_cost_usd": values[2], "expected_quality": values[hard]}
        | {"expected_latency_ms": 400.0, "expected_latency_p95_ms": 1200.0, "ruled_out": ruled_out.get(name)}
        for name, values in CANDIDATES.items()
    ]
    here = CANDIDATES[model]
    saving = CANDIDATES[REFERENCE][2] - here[2]
    answer: dict[str, Any] = {
        "id": "dry-run" if body.get("dry_run") else "0f" * 16,
        "model": model,
        "confidence": here[hard],
        "expected_cost_usd": here[2],
        "fallbacks": [name for name in CANDIDATES if name != model and name not in ruled_out],
        "reason": "best_value",
        "operating_point": point,
        "quality_target": None if point is None else POINTS[point][0],
        "certificate": told,
        "knob": None if math.isinf(knob) else knob,
        "propensity": 1.0,
        "novelty": 1.02,
        "bundle": VERSION,
        "warnings": [],
        "also": None,
        "held_back": None,
        "candidates": rows,
    }
    if not body.get("explain"):
        return answer
    near = [
        {"id": f"r-{1000 + row}", "workflow": WORKFLOWS[row % 3], "similarity": 0.93 - 0.03 * row}
        | {"text": None if row == 2 else f"Prove that the sum of {row + 2} odd numbers is what it is."}
        | {"outcomes": [_outcome(name, row) for name in CANDIDATES if (row + len(name)) % 3]}
        for row in range(6)
    ]
    answer["dry_run"] = True
    answer["explanation"] = {
        "nearest": near,
        "searched": 20000,
        "of": 48211,
        "why_none": None,
        "flips": flips(hard, ruled_out),
        "points": [
            {"name": name, "quality_target": POINTS[name][0], "certificate": True}
            | {"model": chosen(POINTS[name][1], hard, ruled_out)}
            for name in POINTS
        ],
        "overrides": [],
        "counterfactual": {"model": REFERENCE, "expected_cost_usd": CANDIDATES[REFERENCE][2]}
        | {"saving_usd": saving, "saving": saving / CANDIDATES[REFERENCE][2]},
        "rules": [{"model": name, "rule": rule, "scopes": ["default"]} for name, rule in ruled_out.items()],
        "seconds": 0.0042,
    }
    return answer


def flips(hard: bool, ruled_out: dict[str, str]) -> list[dict[str, Any]]:
    """Who is chosen along the knob, by hundredths of it."""
    found: list[dict[str, Any]] = []
    for step in range(1001):
        model = chosen(knob_for(step / 100, KNOBS), hard, ruled_out)
        if found and found[-1]["model"] == model:
            found[-1]["to_cost_quality"] = step / 100
        else:
            begins = {"from_cost_quality": step / 100, "to_cost_quality": step / 100}
            found.append({**begins, "knob_low": 0.0, "knob_high": None, "model": model, "certified": False})
    for earlier, later in itertools.pairwise(found):
        earlier["to_cost_quality"] = later["from_cost_quality"]
    return found


def frontier() -> dict[str, Any]:
    """The bundle's frontier: half of the requests easy, half of them hard."""
    means = {name: ((values[0] + values[1]) / 2, values[2]) for name, values in CANDIDATES.items()}
    places = [None, *(10 - 10 * place / 18 for place in range(19)), None]
    sweep = [_swept(knob, place) for knob, place in zip(KNOBS, places, strict=True)]
    sweep[0]["cost_quality"], sweep[-1]["cost_quality"] = 10.0, 0.0
    points = [
        {"name": name, "quality_target": target, "knob": knob, "always": None, "default": name == "quality-0.95"}
        | {"certified": True, "alpha": 1 - target, "delta": 0.1, "bound": bound, "requests": 8123}
        | {
            "method": "clopper-pearson",
            "calibration": _figures(knob, bound, saving),
            "test": _figures(knob, bound, saving),
        }
        for name, (target, knob, bound, saving) in POINTS.items()
    ]
    singles = [
        {"candidate": name, "cost_usd": cost, "cost_low": cost * 0.96, "cost_high": cost * 1.04, "requests": 2400}
        | {"quality": quality, "quality_low": quality - 0.012, "quality_high": quality + 0.012}
        for name, (quality, cost) in means.items()
    ]
    month = {"requests": 61200.0, "reference_usd": 312.12, "routed_usd": 165.42, "saved_usd": 146.7}
    month |= {"reference_usd_per_request": 0.0051, "saving": 0.47, "saving_from": "calibration"}
    month |= {"saved_low": 131.0, "saved_high": 160.4, "logged_usd": 201.0, "saved_against_logged_usd": 35.6}
    log = {"first": "2026-09-01", "last": "2026-10-30", "days": 60.0, "requests": 48211, "requests_a_month": 24460.0}
    seen = {"requests_a_month": 61200.0, "days": 28.0, "decisions": 56300, "from": "store", "scope": "all"}
    head = {"schema": 2, "version": VERSION, "simulated": True, "basis": "complete", "basis_requests": 2400}
    head |= {"why_not": None, "operating_point": "quality-0.95", "reference": REFERENCE, "effective_requests": 2400.0}
    return {**head, "sweep": sweep, "guarded": sweep, "points": points, "singles": singles} | {
        "month": month,
        "log": log,
        "seen": seen,
    }


def snapshot(decided: int, costs_told: bool = True) -> dict[str, Any]:
    """One event of /v1/live; its total is `decided`. No cost is told of one minute in 20, or of all."""
    now = time.time()
    series = [
        {"minute": int(now / 60) * 60 - 60 * (59 - place), "decisions": 14 + (place * 7) % 11}
        | {"expected_usd": 0.02 + 0.001 * (place % 9), "reference_usd": 0.07}
        | {"actual_usd": 0.021 + 0.001 * (place % 7) if costs_told and place % 20 != 7 else None}
        for place in range(60)
    ]
    scope = {"scope": "default", "period": "month", "limit_usd": 400.0, "spent_usd": 171.2, "reserved_usd": 3.1}
    scope |= {"left_usd": 225.7, "resets_at": "2026-12-01T00:00:00+00:00", "at_limit": "cheapest", "pace": 0.0}
    spent = {**scope, "scope": "workflow:support", "period": "day", "limit_usd": 5.0, "spent_usd": 5.2, "left_usd": 0.0}
    return {
        "at": now,
        "from": "store",
        "note": None,
        "scope": "all",
        "window_seconds": 60,
        "decisions_per_minute": 17.0 + decided % 5,
        "total_decisions": decided,
        "shares": {"acme/small": 0.41, "open/medium": 0.22, "nord/flash-2": 0.28, "acme/large": 0.09},
        "reasons": {"best_value": 190, "session": 33, "novel": 4, "explore": 6},
        "cost": {"expected_usd": 12.31, "actual_usd": 12.9, "reference_expected_usd": 41.2}
        | {"costed": 1102 if costs_told else 0}
        | {"expected_of_costed_usd": 12.2, "since": now - 86400, "as_of": now},
        "saved": None
        if not costs_told
        else {"usd": 28.3, "low": 25.1, "high": 30.9, "as_of": now}
        | {
            "method": "reference's own answers",
            "counterfactual": f"all to {REFERENCE}, by the reference's own answers",
        },
        "budgets": [scope, spent],
        "drift": {"psi": 0.06, "novel_share": 0.012, "calibration_error": 0.13, "scope": "this server"}
        | {"thresholds": {"psi": 0.25, "novel_share": 0.05, "calibration_error": 0.1}},
        "abstentions": [
            {"id": f"{number:032x}", "at": now - 40 * number, "workflow": "sql", "reason": "novel", "model": REFERENCE}
            for number in range(1, 5)
        ],
        "faults": [{"id": "fa" * 16, "at": now - 400, "workflow": None, "reason": "timeout", "model": REFERENCE}],
        "problems": {"422": 3, "429": 1},
        "latency_ms": {"p50": 2.1, "p99": 7.4},
        "series": series,
        "queue_rows": 0,
        "bundle": VERSION,
        "shadow": None,
    }


def bundle_entry(version: str, **changes: Any) -> dict[str, Any]:
    """One line of /v1/bundles."""
    metrics = {"aiq": 0.883 if version == VERSION else 0.871, "ece": 0.021, "saving": 0.47, "test_requests": 2400}
    points = [
        {"name": name, "quality_target": target, "knob": knob, "certified": True, "alpha": 1 - target}
        | {"delta": 0.1, "bound": bound, "requests": 8123, "default": name == "quality-0.95", "always": None}
        | {"method": "clopper-pearson", "quality": 0.93, "cost_usd": 0.0027, "saving": saving}
        | {"saving_low": saving - 0.05, "saving_high": saving + 0.04, "violation_rate": bound - 0.012}
        for name, (target, knob, bound, saving) in POINTS.items()
    ]
    state = {"current": False, "previous": False, "shadow": False, "broken": None, "comparable": True}
    made = {"version": version, "created": "2026-11-27T09:00:00Z", "simulated": True, "estimator": "blend"}
    chosen_from = {"candidates": list(CANDIDATES), "reference": REFERENCE, "default_point": "quality-0.95"}
    return {**made, **state, **chosen_from, "points": points, "metrics": metrics, **changes}


async def _page(request: Request) -> Response:
    return html(request)


def _operating_point(name: str) -> dict[str, Any]:
    target, knob, _, saving = POINTS[name]
    made = {"name": name, "quality_target": target, "knob": knob, "always": None, "quality": 0.93, "saving": saving}
    return {**made, "cost_usd": 0.0027, "certificate": {**_certificate(name), "method": "clopper-pearson"}}


def _certificate(name: str) -> dict[str, Any]:
    target, _, bound, _ = POINTS[name]
    return {"alpha": round(1 - target, 6), "delta": 0.1, "bound": bound, "requests": 8123}


def _swept(knob: float, place: float | None) -> dict[str, Any]:
    models = [chosen(knob, hard, {}) for hard in (False, True)]
    quality = sum(CANDIDATES[model][hard] for hard, model in enumerate(models)) / 2
    cost = sum(CANDIDATES[model][2] for model in models) / 2
    saving = 1 - cost / CANDIDATES[REFERENCE][2]
    bands = {"quality_low": quality - 0.015, "quality_high": quality + 0.015, "cost_low": cost * 0.93}
    bands |= {"cost_high": cost * 1.07, "saving_low": saving - 0.03, "saving_high": saving + 0.02}
    shares = {name: models.count(name) / 2 for name in CANDIDATES if name in models}
    shown = {"knob": None if math.isinf(knob) else knob, "cost_quality": place, "violation_rate": 0.03}
    return {**shown, "cost_usd": cost, "quality": quality, "saving": saving, **bands, "shares": shares}


def _figures(knob: float, bound: float, saving: float) -> dict[str, Any]:
    at = _swept(knob, None)
    low = {"saving_low": saving - 0.05, "saving_high": saving + 0.04, "violation_rate": bound - 0.012}
    return {"requests": 2400, "quality": at["quality"], "cost_usd": at["cost_usd"], "saving": saving, **low}


def _outcome(name: str, row: int) -> dict[str, Any]:
    fine = CANDIDATES[name][1] > 0.2 + 0.09 * row
    return {"model": name, "acceptable": fine, "quality": float(fine), "cost_usd": CANDIDATES[name][2], "error": False}


def _saved(name: str | None, decisions: int, saved: float) -> dict[str, Any]:
    costs = {"exploration_usd": 0.02, "also_usd": 0.01, "judge_usd": 0.05}
    costs |= {"uncompared_exploration_usd": 0.0, "uncompared_also_usd": 0.0, "uncompared_judge_usd": 0.0}
    money = {
        "actual_usd": 1.1,
        "compared_usd": 1.1,
        "expected_usd": 1.0,
        "reference_usd": 1.1 + saved,
        "reference_low": 1.0,
    }
    money |= {"reference_high": 4.0, "saved_usd": saved, "saved_low": saved - 0.3, "saved_high": saved + 0.3}
    judged = {"judged": decisions // 2, "quality": 0.91, "quality_low": 0.88, "quality_high": 0.93}
    judged |= {"held_back_judged": 0, "held_back_quality": None}
    counts = {"name": name, "decisions": decisions, "costed": decisions, "uncosted": 0, "without_reference": 0}
    counts |= {"compared": decisions, "held_back": 0, "failed": 0}
    return {**counts, **money, "routing_costs": costs, "saving": saved / (1.1 + saved), **judged}


def _problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    shown = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail, "instance": "/"}
    return JSONResponse({**shown, **more}, status, headers, media_type="application/problem+json")
