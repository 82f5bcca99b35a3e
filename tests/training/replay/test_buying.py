"""Buying in one process, against a provider on loopback: what each thing that it does becomes."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.replay.provider import Provider, Said, completion, prompt_of, serving
from training.config import Replay, load_params
from training.quality.llm_prices import Price, quiet_litellm
from training.replay.answers import status_fault
from training.replay.ask import Asker
from training.replay.buy import Account, Purchase, _Lane
from training.replay.errors import ReplayError
from training.replay.ledger import Ledger
from training.replay.pairs import Pair
from training.replay.providers import Endpoint
from training.replay.rows import write_outcomes

SETTINGS = replace(load_params().replay, parallel=1, attempts=3, wait_s=0.0, timeout_s=60.0, max_output_tokens=100)
PRICE = Price(1.0, 10.0)
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PAID = (10 * 1.0 + 5 * 10.0) / 1e6  # what the provider's usual answer costs


def pair(name: str = "r1", candidate: str = "small", **changed: Any) -> Pair:
    made = Pair(name, candidate, "learn", 0.5, 0.001, f"question {name}", None, {}, "w", "s", "2026-10-01T00:00:00Z")
    return replace(made, **changed)


def most(asked: Pair, max_tokens: int = 100) -> float:
    """The worst case by hand: a token per byte of the request, 64 for the format and 16 for its message."""
    body = {"messages": [{"content": asked.prompt, "role": "user"}]}
    return (len(json.dumps(body)) + 64 + 16 + 10 * max_tokens) / 1e6


def buy(
    provider: Provider, out: Path, pairs: list[Pair], settings: Replay = SETTINGS, budget: float = 1.0, **kw: Any
) -> tuple[Account, list[dict[str, Any]]]:
    """A run, and the rows that it wrote."""
    places = kw.pop("endpoint", {})
    endpoints = {
        name: replace(Endpoint(name, name, PRICE, f"{provider.url}/chat/completions"), **places)
        for name in {one.candidate for one in pairs}
    }
    with closing(Ledger(out)) as ledger, closing(Asker(quiet_litellm(), settings.timeout_s)) as ask:
        purchase = Purchase(ledger, ask, endpoints, settings, budget, **kw)
        account = purchase.run(pairs, lambda done, total: None)
        write_outcomes(ledger, out)
    written = out / "outcomes.jsonl"
    lines = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
    return account, [json.loads(line) for line in lines]


def test_an_answer_becomes_an_outcome_and_is_asked_for_once(tmp_path: Path) -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"}
    asked = [
        pair(),
        pair("r2", prompt=None, messages=[{"role": "user", "content": "hi"}], parameters=tools, expected="yes"),
    ]
    with serving() as provider:
        account, rows = buy(provider, tmp_path, asked)
        again, same = buy(provider, tmp_path, asked)
    assert rows[0] == {
        "request_id": "r1",
        "prompt": "question r1",
        "candidate": "small",
        "cost_usd": pytest.approx(PAID),
        "input_tokens": 10,
        "output_tokens": 5,
        "latency_ms": rows[0]["latency_ms"],
        "timestamp": "2026-10-01T00:00:00Z",
        "session_id": "s",
        "workflow": "w",
        "propensity": 0.5,
        "purpose": "learn",
        "status": "success",
        "answer": "re: question r1",
        "finish_reason": "stop",
    }
    assert rows[1]["messages"] == asked[1].messages
    assert (rows[1]["expected"], rows[1]["parameters"]) == ("yes", tools)
    first, second = provider.bodies
    assert first == {
        "model": "small",
        "messages": [{"role": "user", "content": "question r1"}],
        "max_tokens": 100,
        "stream": False,
    }
    assert {name: second[name] for name in tools} == tools
    assert provider.authorizations == ["", ""]
    assert (account.bought, account.had, account.spent, account.paid) == (
        2,
        0,
        pytest.approx(2 * PAID),
        pytest.approx(2 * PAID),
    )
    assert account.expected == pytest.approx(0.002)
    assert (again.bought, again.had, again.spent, same) == (0, 2, pytest.approx(2 * PAID), rows)
    assert stat.S_IMODE((tmp_path / "outcomes.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "_ledger.sqlite").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("document", "row"),
    [
        (completion("half", finish="length"), {"answer": "half", "finish_reason": "length", "status": "success"}),
        (completion(""), {"answer": "", "status": "success"}),
        (completion(None), {"answer": "", "status": "success"}),
        (completion(None, refusal="I will not."), {"answer": "I will not.", "status": "success"}),
        (completion([{"type": "text", "text": "parts"}]), {"answer": "parts", "status": "success"}),
        (completion(None, tool_calls=[{"id": "1"}]), {"tool_calls": [{"id": "1"}], "status": "success"}),
        ({"usage": {"prompt_tokens": 10, "completion_tokens": 5}, "choices": []}, {"status": "error"}),
    ],
)
def test_what_was_billed_is_an_outcome(document: Any, row: dict[str, Any], tmp_path: Path) -> None:
    with serving(lambda n, body: Said(document=document)) as provider:
        account, rows = buy(provider, tmp_path, [pair()])
    known = {"answer", "finish_reason", "status", "tool_calls"}
    assert {name: value for name, value in rows[0].items() if name in known} == {"finish_reason": "stop", **row} or (
        row["status"] == "error" and "answer" not in rows[0]
    )
    assert rows[0]["cost_usd"] == pytest.approx(PAID)
    assert (account.bought, len(provider.bodies)) == (1, 1)


def test_without_a_usage_the_cost_is_estimated_and_the_most_is_counted(tmp_path: Path) -> None:
    with serving(lambda n, body: Said(document=completion("12345678", usage=None))) as provider:
        account, rows = buy(provider, tmp_path, [pair()])
    body = json.dumps({"messages": [{"role": "user", "content": "question r1"}]})
    assert rows[0]["cost_usd"] == pytest.approx((-(-len(body) // 4) + 2 * 10) / 1e6)
    assert rows[0]["cost_estimated"] is True
    assert "input_tokens" not in rows[0]
    assert account.spent == pytest.approx(most(pair()))


def test_rate_limits_and_faults_are_waited_out_and_cost_nothing(tmp_path: Path) -> None:
    said = [Said(429, headers={"retry-after": "0"}), Said(500), Said()]
    with serving(lambda n, body: said[n - 1]) as provider:
        account, rows = buy(provider, tmp_path, [pair()])
    assert (len(provider.bodies), account.bought, len(rows)) == (3, 1, 1)
    assert account.spent == pytest.approx(PAID)
    assert len(set(provider.keys)) == 1


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(None, 0), ("7", 7), ("1.5", 1.5), ("-3", 0), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("nan", 0)],
)
def test_retry_after_is_read(told: str | None, seconds: float) -> None:
    assert status_fault(429, told).retry_after == seconds


def test_retry_after_may_be_a_date() -> None:
    assert status_fault(503, "Wed, 21 Oct 2099 07:28:00 GMT").retry_after > 1e6


def test_the_wait_that_a_server_asks_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: waited.append)
    with serving(lambda n, body: Said(429, headers={"retry-after": "77"}) if n == 1 else Said()) as provider:
        account, _ = buy(provider, tmp_path, [pair()])
    assert (waited, account.bought) == ([77.0], 1)


@pytest.mark.parametrize(
    "said",
    [Said(drop=True), Said(content=b"<html>"), Said(content=b'{"a"'), Said(document={}), Said(document=[1])],
)  # fmt: skip
def test_what_may_have_been_billed_is_in_doubt_and_no_outcome(said: Said, tmp_path: Path) -> None:
    with serving(lambda n, body: said) as provider:
        account, rows = buy(provider, tmp_path, [pair()])
        assert len(provider.bodies) == SETTINGS.attempts
        assert len(set(provider.keys)) == 1
        assert (account.bought, account.in_doubt, account.failed, rows) == (0, 1, {}, [])
        assert account.spent == account.doubtful == pytest.approx(3 * most(pair()))
        provider.behave = lambda n, body: Said()
        skipped, _ = buy(provider, tmp_path, [pair()])
        assert (skipped.in_doubt, skipped.bought, len(provider.bodies)) == (1, 0, 3)
        again, rows = buy(provider, tmp_path, [pair()], ask_again=True)
    assert (again.in_doubt, again.bought, len(rows)) == (0, 1, 1)
    assert again.spent == pytest.approx(3 * most(pair()) + PAID)


def test_a_stall_is_in_doubt(tmp_path: Path) -> None:
    ends = threading.Event()
    with serving(lambda n, body: Said(wait=ends)) as provider:
        account, _ = buy(provider, tmp_path, [pair()], replace(SETTINGS, timeout_s=1.0, attempts=1))
        ends.set()
    assert (account.in_doubt, account.spent) == (1, pytest.approx(most(pair())))
    assert account.doubts == {("small", "no answer in time"): 1}


def test_where_servers_bill_one_key_once_a_doubt_is_cleared(tmp_path: Path) -> None:
    with serving(lambda n, body: Said(drop=n == 1), dedupe=True) as provider:
        account, rows = buy(provider, tmp_path, [pair()], replace(SETTINGS, attempts=1), endpoint={"idempotent": True})
        assert (account.in_doubt, account.bought) == (1, 0)
        again, rows = buy(provider, tmp_path, [pair()], endpoint={"idempotent": True})
    assert (again.bought, again.in_doubt, len(rows), len(provider.bill)) == (1, 0, 1, 1)
    assert again.spent == pytest.approx(PAID)


def test_a_server_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    with serving() as provider:
        pass
    account, rows = buy(provider, tmp_path, [pair()])
    assert (account.failed, account.spent, rows) == ({("small", "no connection"): 1}, 0.0, [])


def test_a_refusal_is_no_outcome_and_ends_that_candidate_alone(tmp_path: Path) -> None:
    asked = [pair(f"r{i}", name) for i in range(3) for name in ("small", "large")]
    with serving(lambda n, body: Said(401 if body["model"] == "large" else 200)) as provider:
        account, rows = buy(provider, tmp_path, asked)
    assert [row["candidate"] for row in rows] == ["small"] * 3
    assert account.failed == {("large", "HTTP 401"): 1, ("large", "not asked any more: HTTP 401"): 2}
    assert len(provider.bodies) == 4


def test_ten_failures_in_a_row_end_a_candidate(tmp_path: Path) -> None:
    with serving(lambda n, body: Said(400)) as provider:
        account, _ = buy(provider, tmp_path, [pair(f"r{i}") for i in range(12)])
    why = "not asked any more: 10 calls in a row failed, the last: HTTP 400"
    assert account.failed == {("small", "HTTP 400"): 10, ("small", why): 2}
    assert len(provider.bodies) == 10


@pytest.mark.parametrize("parallel", [1, 4])
def test_the_cap_holds_over_all_runs(tmp_path: Path, parallel: int) -> None:
    asked = [pair(f"r{i}", prompt="same length") for i in range(8)]
    dear = {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
    one, budget = (100 + 1000) / 1e6, 3 * most(asked[0]) * 0.999
    settings = replace(SETTINGS, parallel=parallel)
    with serving(lambda n, body: Said(document=completion(usage=dear))) as provider:
        account, rows = buy(provider, tmp_path, asked, settings, budget)
        assert account.spent == pytest.approx(len(provider.bill) * one)
        assert account.spent <= budget
        assert account.left == 8 - account.bought > 0
        again, _ = buy(provider, tmp_path, asked, settings, budget)
        assert (again.bought, again.left) == (0, account.left)
        more, rows = buy(provider, tmp_path, asked, settings, 1.0)
    assert (more.had, more.bought, more.left, len(rows)) == (account.bought, account.left, 0, 8)


def test_a_budget_too_small_for_one_call_makes_none(tmp_path: Path) -> None:
    with serving() as provider:
        account, rows = buy(provider, tmp_path, [pair()], budget=most(pair()) * 0.999)
    assert (account.left, provider.bodies, rows, account.spent) == (1, [], [], 0.0)


def test_a_stopped_run_finishes_what_is_under_way(tmp_path: Path) -> None:
    asked = [pair(f"r{i}") for i in range(5)]
    endpoint = {"small": Endpoint("small", "small", PRICE, "")}
    with serving() as provider, closing(Ledger(tmp_path)) as ledger, closing(Asker(None, 60.0)) as ask:
        endpoint = {"small": replace(endpoint["small"], url=f"{provider.url}/chat/completions")}
        purchase = Purchase(ledger, ask, endpoint, SETTINGS, 1.0)

        def behave(number: int, body: dict[str, Any]) -> Said:
            if number == 2:
                purchase.stop.set()
            return Said()

        provider.behave = behave
        account = purchase.run(asked, lambda done, total: None)
    assert (account.bought, account.left, account.interrupted, len(provider.bodies)) == (2, 3, True, 2)


def test_another_request_by_the_same_name_is_refused(tmp_path: Path) -> None:
    with serving() as provider:
        buy(provider, tmp_path, [pair()])
        with pytest.raises(ReplayError, match="an answer of small to another request named 'r1'"):
            buy(provider, tmp_path, [pair(prompt="something else")])
        _, rows = buy(provider, tmp_path, [pair("r2")])  # another plan adds to the folder
    assert [row["request_id"] for row in rows] == ["r1", "r2"]


def test_one_process_at_a_time_and_a_folder_that_can_be_written(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "a")), pytest.raises(ReplayError, match="another replay is buying into this folder"):
        Ledger(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "_ledger.sqlite").write_text("no database, but long enough to be looked at" * 9, encoding="utf-8")
    with pytest.raises(ReplayError, match=r"cannot be used as a ledger .*Give another --out"):
        Ledger(tmp_path / "b")
    (tmp_path / "c").write_text("")
    with pytest.raises(ReplayError, match="cannot be used as a ledger"):
        Ledger(tmp_path / "c")


def test_a_response_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.replay.ask._MOST_BYTES", 1000)
    with serving(lambda n, body: Said(content=b" " * 5000)) as provider:
        account, _ = buy(provider, tmp_path, [pair()])
    assert (account.in_doubt, len(provider.bodies)) == (1, 1)


@pytest.fixture
def by_litellm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Provider], dict[str, Any]]]:
    def place(provider: Provider) -> dict[str, Any]:
        monkeypatch.setenv("OPENAI_API_BASE", provider.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        return {"url": None, "model": "openai/stand-in"}

    return place


@pytest.mark.parametrize(
    ("said", "bought", "doubt", "failed", "calls"),
    [
        (Said(), 1, 0, {}, 1),
        (Said(document=completion(None, tool_calls=[CALL])), 1, 0, {}, 1),
        (Said(400), 0, 0, {("small", "HTTP 400"): 1}, 1),
        (Said(404), 0, 0, {("small", "HTTP 404"): 1}, 1),
        (Said(429), 0, 0, {("small", "HTTP 429"): 1}, 3),
        (Said(503), 0, 0, {("small", "HTTP 503"): 1}, 3),
        (Said(drop=True), 0, 1, {}, 3),
        (Said(content=b"<html>"), 0, 1, {}, 3),
        (Said(document={"usage": None}), 0, 1, {}, 3),
    ],
)  # fmt: skip
def test_through_litellm_all_is_the_same(
    said: Said, bought: int, doubt: int, failed: Any, calls: int, by_litellm: Any, tmp_path: Path
) -> None:
    with serving(lambda n, body: said) as provider:
        account, rows = buy(provider, tmp_path, [pair()], endpoint=by_litellm(provider))
    assert (account.bought, account.in_doubt, account.failed) == (bought, doubt, failed)
    assert (len(provider.bodies), len(rows)) == (calls, bought)
    assert len(set(provider.keys)) == 1
    assert len(provider.keys[0]) == 40
    assert account.spent == pytest.approx(bought * PAID + doubt * 3 * most(pair()))


def test_through_litellm_without_a_usage(by_litellm: Any, tmp_path: Path) -> None:
    with serving(lambda n, body: Said(document=completion("12345678", usage=None))) as provider:
        account, rows = buy(provider, tmp_path, [pair()], endpoint=by_litellm(provider))
    assert (rows[0]["cost_estimated"], rows[0]["answer"]) == (True, "12345678")
    assert account.spent == pytest.approx(most(pair()))


def test_each_candidate_has_its_own_pace(tmp_path: Path) -> None:
    lane = _Lane(Endpoint("small", "small", PRICE, rpm=60.0))
    assert lane.pause() == 0.0
    assert 0.0 < lane.pause() <= 1.0
    assert 1.0 < lane.pause() <= 2.0
    with serving() as provider:
        account, _ = buy(provider, tmp_path, [pair(f"r{i}") for i in range(4)], endpoint={"rpm": 1e6, "parallel": 1})
    assert account.bought == 4
    assert prompt_of(provider.bodies[3]) == "question r3"
