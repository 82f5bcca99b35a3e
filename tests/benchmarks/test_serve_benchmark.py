"""Serving's benchmark: its load, its checks by hand, and the report with and without it."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from benchmarks.routing.report import templates
from benchmarks.serving import adversarial, explained
from benchmarks.serving.load import LoadError, bodies, wrk
from benchmarks.serving.noop import create_app
from benchmarks.serving.run import checks, medians
from benchmarks.serving.watch import processor_seconds
from serving.bundle.manifest import open_bundle
from serving.bundle.neighbours import Neighbours
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests import fake_bundle


def figures(static: float = 0.9) -> dict[str, Any]:
    """Figures of short prompts; the router's p50 at one connection is `static` ms."""
    rows = {
        "no-op": (0.4, 4000.0),
        "no-op, bare": (0.3, 5000.0),
        "static": (static, 2100.0),
        "transformer": (9.0, 170.0),
    }
    cells = [
        {"endpoint": name, "tokens": 32, "prompts": "distinct", "connections": connections, "p50_ms": p50,
         "p99_ms": 3 * p50, "per_second": per_second, "errors": 0}
        for name, (p50, per_second) in rows.items() for connections in (1, 16, 64)
    ]  # fmt: skip
    by_tokens = {"32": 80.0, "100": 250.0, "1000": 900.0}
    return {
        "machine": {"cores": 2, "system": "Linux", "processor": "x86_64"}, "seconds": 4.0, "turns": 3, "cells": cells,
        "raw_us": {"static": by_tokens, "transformer": {**by_tokens, "100": 10_000.0}},
    }  # fmt: skip


def render(serve: dict[str, Any]) -> str:
    return templates().get_template("bench_serve.md.j2").render(serve=serve)


def test_the_checks_by_hand() -> None:
    found = [(one["value"], one["limit"], one["holds"]) for one in checks(figures())]
    assert found == [
        (80.0, 70.0, False),
        (0.9, 0.8, False),  # twice 0.4
        (0.9, 0.6, False),
        (2.7, 3.6, True),
        (2100.0, 1600.0, True),
        (2100.0, 2000.0, True),
    ]


def test_a_cell_is_the_median_of_its_turns_and_all_of_their_errors() -> None:
    turns = [
        {"endpoint": "static", "per_second": float(n), "p50_ms": 1.0 / n, "p99_ms": 5.0 + n, "errors": n}
        for n in (1, 9, 2)
    ]
    assert medians(turns) == {"endpoint": "static", "per_second": 2.0, "p50_ms": 0.5, "p99_ms": 7.0, "errors": 12}


def test_bodies_are_distinct_or_not_and_batches_have_their_size() -> None:
    assert bodies(["a"], distinct=True) == ['{"prompt": "@@ a"}']
    assert bodies(["a"], distinct=False) == ['{"prompt": "a"}']
    assert bodies(["a"], distinct=False, fields={"explain": True}) == ['{"prompt": "a", "explain": true}']
    batches = [json.loads(one) for one in bodies(["a"] * 7, distinct=True, batch=3)]
    assert [len(one["requests"]) for one in batches] == [3, 3]


def test_without_wrk_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(LoadError, match=r"wrk is not installed.*apt-get install wrk"):
        wrk("http://127.0.0.1:1", ["{}"], tmp_path, connections=1, seconds=1)


def test_the_no_op_takes_a_body_and_gives_the_document_either_way() -> None:
    with TestClient(create_app()) as client:
        framework, bare = (client.post(path, json={"prompt": "hello"}) for path in ("/v1/route", "/bare"))
        assert framework.json() == bare.json()
        assert len(bare.json()["candidates"]) == 6
        assert client.post("/v1/route", json={}).status_code == 422


def test_the_section_has_the_figures_there_are() -> None:
    serve = figures()
    section = render({**serve, "checks": checks(serve)})
    assert "| static | 32 | distinct | 16 | 2,100 | 0.90 | 2.70 |" in section
    assert len(re.findall(r"\| holds \|", section)) == 3
    assert (
        "of 32, 100, 1000 tokens take 80, 250, 900 µs with the static encoder, 80, 10000, 900 µs with the transformer encoder."
        in section
    )
    assert "A long load" not in section


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return Router.load(fake_bundle.build(tmp_path_factory.mktemp("models")))


def test_an_attack_counts_only_prompts_that_went_elsewhere_before(router: Router) -> None:
    # the fake bundle sends "hello" to the small candidate, and more of "prove" to the large one
    requests = [RouteRequest(prompt="hello"), RouteRequest(prompt="hello world")]
    knob = Policy(knob=0.5)
    before = {one.candidate for one in router.route_many(requests, knob)}
    assert before == {fake_bundle.LARGE}
    outcome = adversarial._measured(router, requests, fake_bundle.LARGE, "prove", "append", knob)
    assert (outcome.prompts, outcome.flipped, outcome.cost) == (0, 0.0, 1.0)
    outcome = adversarial._measured(router, requests, fake_bundle.SMALL, "prove", "append", knob)
    assert (outcome.prompts, outcome.flipped) == (2, 0.0)


def test_the_search_finds_the_word_that_moves_decisions(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial, "BY_HAND", {"strongest": ("prove",), "cheapest": ()})
    requests = [RouteRequest(prompt="hello")]
    assert "prove" in adversarial.search(router, requests, fake_bundle.LARGE, "append", steps=2).split()


@pytest.mark.parametrize(("place", "prompt"), [("append", "hello\nprove"), ("prepend", "prove\nhello")])
def test_where_a_text_is_added(place: adversarial.Place, prompt: str) -> None:
    request = RouteRequest(prompt="hello", workflow="hard")
    assert adversarial.added([request], "prove", place) == [RouteRequest(prompt=prompt, workflow="hard")]


def test_a_bundle_is_copied_with_as_many_logged_requests_as_asked_for_and_with_none(tmp_path: Path) -> None:
    folder = fake_bundle.build(tmp_path / "models", neighbours=True)
    own = len(Neighbours.in_bundle(open_bundle(folder)) or ())
    made = explained.copies(folder, tmp_path, rows=2 * own + 1)
    loaded = {line: Router.load(copy) for line, copy in made.items()}
    assert loaded[explained.WITHOUT].neighbours is None
    kept = loaded[explained.WITH].neighbours
    assert kept is not None
    assert (len(kept), kept.texts) == (2 * own + 1, None)
    asked = RouteRequest(prompt="hello")
    assert len({router.route(asked).candidate for router in loaded.values()}) == 1
    with pytest.raises(ValueError, match="has no logged requests"):
        explained.copies(made[explained.WITHOUT], tmp_path / "again")


def test_pairs_are_compared_by_their_own_differences() -> None:
    """The machine slows down by a hundred times what the difference is: pairs tell it all the same."""
    load = {"per_second": 100.0, "p99_ms": 9.0, "processor_ms": 0.5, "errors": 0.0}
    slow = [1.0 + turn for turn in range(9)]
    found = {
        f"1 {explained.WITH}": [{**load, "p50_ms": base + 0.01} for base in slow],
        f"1 {explained.WITHOUT}": [{**load, "p50_ms": base} for base in slow],
    }
    one = explained.paired(found, 1)
    assert one["more"]["p50_ms"] == pytest.approx([0.01, 0.01, 0.01])
    assert one["more"]["processor_ms"] == [0.0, 0.0, 0.0]
    assert (one["with"]["p50_ms"], one["without"]["p50_ms"]) == pytest.approx((5.01, 5.0))
    figures_ = {"rows": 20_000, "tokens": 100, "pairs": 9, "seconds": 4.0, "unasked": [one], "errors": 0}
    section = render({"explained": {**figures_, "asked": {"explain": {**load, "p50_ms": 3.0}}}})
    assert (
        "| 1 | 0.500 | 0.500 | +0.000 (+0.000 … +0.000) | 5.01 | 5.00 | +0.01 (+0.01 … +0.01) | 9.00 | 9.00 |"
        in section
    )
    assert "| explain | 0.50 | 3.00 | 9.00 | 100 |" in section


def test_processor_time_is_what_a_process_took() -> None:
    before, taken = processor_seconds(os.getpid()), time.process_time()
    while time.process_time() - taken < 0.2:
        sum(range(1000))
    assert 0.1 < processor_seconds(os.getpid()) - before < 10
