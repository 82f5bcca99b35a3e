"""Outcomes from events that a real proxy (1.108.7) logged: each decision is told once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.client import FeedbackError
from serving.integrations.litellm.decided import Decided, owner_of
from serving.integrations.litellm.told import delivery
from serving.integrations.litellm.told.envelopes import Outcome, Sure, combined, read
from serving.integrations.litellm.told.log_events import NotOursError, outcome_of_log
from serving.integrations.litellm.told.outcomes import Outcomes
from serving.integrations.litellm.told.spool import Spool
from serving.integrations.outcome import ToldOutcome
from tests.patience import PATIENCE

EVENTS = [json.loads(line) for line in Path(__file__).with_name("log_events.jsonl").read_text().splitlines()]
CANDIDATES = {"cand-a": "a", "cand-b": "b"}
KEY = "litellm_proxy_master_key"


def _events(case: str) -> list[dict[str, Any]]:
    """The events of a case, with the decision as the object that LiteLLM hands on."""
    found = [json.loads(json.dumps(one)) for one in EVENTS if one["case"] == case]
    for event in found:
        kwargs = event["kwargs"]
        logged = kwargs["standard_logging_object"]["metadata"]
        decided = Decided(logged["spend_logs_metadata"]["outcome_router"], "auto")
        decided.owner = KEY
        logged["spend_logs_metadata"] = {"outcome_router": decided}
        kwargs["litellm_params"]["metadata"]["spend_logs_metadata"] = logged["spend_logs_metadata"]
    return found


def _key(token: str = KEY) -> Any:
    return SimpleNamespace(token=token)


def _told(event: Mapping[str, Any]) -> ToldOutcome:
    return outcome_of_log(event["kwargs"], None, failed=event["failed"], candidate_of=CANDIDATES.get)


def _decision(event: Mapping[str, Any]) -> str:
    said = event["kwargs"]["standard_logging_object"]["metadata"]["spend_logs_metadata"]
    return str(said["outcome_router"]["decision_id"])


class Router:
    """A decider that keeps what it is told; `answers` are what it says to a decision, and `away` how often it fails first."""

    reference: str | None = "a"
    catalogue: Mapping[str, Mapping[str, Any]] = {}

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.said: list[Mapping[str, Any]] = []
        self.answers: dict[str, list[str | Mapping[str, Any]]] = {}
        self.restored: list[str] = []

    async def decide(self, body: Mapping[str, Any]) -> Any:
        raise AssertionError("nothing is decided here")

    async def feedback(self, said: Sequence[Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
        if self.away:
            self.away -= 1
            raise FeedbackError("it is away")
        self.said += said
        return [(self.answers.get(str(one["decision_id"])) or ["recorded"]).pop(0) for one in said]

    async def restore(self, missing: Sequence[ToldOutcome]) -> int:
        self.restored += [one.decision_id for one in missing]
        return len(missing)

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_LINGER", 0.0)
    monkeypatch.setattr(delivery, "_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(delivery, "_FIRST_WAIT", 0.02)


def _with_outcomes(
    folder: Path, router: Any, act: Callable[[Outcomes], Awaitable[None]], *sinks: Any, waits: bool = True
) -> Outcomes:
    """Outcomes that `act` tells; ends when nothing that is due is left."""
    spool = Spool(folder / "spool.db", combine=combined)
    outcomes = Outcomes(router, spool, None, sinks, candidate_of=CANDIDATES.get)

    async def run() -> None:
        await act(outcomes)
        for _ in range(int(PATIENCE / 0.02)):
            names = ("router", "thumbs", *(f"sink {type(sink).__name__}" for sink in sinks))
            left = [await asyncio.wrap_future(spool.waiting(name)) for name in names]
            if not waits or not any(left):
                break
            await asyncio.sleep(0.02)
        await outcomes.close()

    asyncio.run(run())
    return outcomes


def _telling(*events: Mapping[str, Any]) -> Callable[[Outcomes], Awaitable[None]]:
    async def act(outcomes: Outcomes) -> None:
        for event in events:
            await outcomes.told(event["kwargs"], failed=event["failed"])

    return act


# --- events as outcomes ---


def test_a_plain_answer() -> None:
    told = _told(_events("plain")[0])
    assert (told.model, told.cost_usd, told.input_tokens, told.output_tokens, told.error) == ("b", 0.0002, 10, 5, False)
    assert told.latency_ms == pytest.approx(54.771, abs=0.01)
    assert told.attempts == ()
    assert told.call_id == "d0048142-0a5e-4bcc-be91-f07d71ca134b"


def test_the_latency_of_a_stream_is_its_whole_time_and_not_that_to_the_first_token() -> None:
    [event] = _events("stream")
    said = event["kwargs"]["standard_logging_object"]
    assert _told(event).latency_ms == pytest.approx(1e3 * (said["endTime"] - said["startTime"]))
    assert _told(event).latency_ms > 1e3 * said["response_time"]


def test_a_failure_and_then_an_answer_is_one_outcome_of_who_answered() -> None:
    failure, success = _events("retry_a")
    assert (_told(failure).error, _told(success).error) == (True, False)
    told = _told(success)
    assert (told.model, told.cost_usd) == ("b", 0.0002)
    assert [(one.model, one.error) for one in told.attempts] == [("a", "InternalServerError")] * 2


def test_no_text_of_an_error_is_taken() -> None:
    for case in {event["case"] for event in EVENTS} - {"silent", "cache2"}:
        for event in _events(case):
            assert b"boom" not in _told(event).to_json()


def test_an_answer_of_another_group_names_that_group() -> None:
    assert _told(_events("fallback")[1]).model == "other"


def test_a_group_that_is_watched_answers_as_whom_it_was_decided_to_be() -> None:
    [event] = _events("unpriced")
    log = event["kwargs"]["standard_logging_object"]
    log["metadata"]["spend_logs_metadata"]["outcome_router"] |= {"model": "unpriced", "ranks": ["unpriced"]}
    assert _told(event).model == "unpriced"


def test_a_cost_of_zero_beside_tokens_is_not_known_and_no_free_answer() -> None:
    assert _told(_events("unpriced")[0]).cost_usd is None


@pytest.mark.parametrize(
    ("case", "place", "counted"), [("silent", 1, "silent_experiments"), ("cache2", 0, "cache_hits")]
)
def test_what_is_not_the_clients_own_call_is_no_outcome(case: str, place: int, counted: str) -> None:
    with pytest.raises(NotOursError, match=counted):
        _told(_events(case)[place])


@pytest.mark.parametrize("mark", ["internal_call_origin", "billed_retry_attempt"])
def test_what_litellm_marks_as_its_own_is_no_outcome(mark: str) -> None:
    [event] = _events("plain")
    event["kwargs"]["litellm_params"]["metadata"][mark] = "compaction"
    with pytest.raises(NotOursError):
        _told(event)


@pytest.mark.parametrize(
    "left",
    [
        None,
        {},
        {"outcome_router": "x"},
        {"outcome_router": {"decision_id": "0" * 32, "model": "a", "propensity": 1.0}},
        {"outcome_router": Decided({"decision_id": 7}, "auto")},
    ],
)
def test_a_call_without_a_decision_of_ours_is_no_outcome(left: Any) -> None:
    [event] = _events("plain")
    event["kwargs"]["standard_logging_object"]["metadata"]["spend_logs_metadata"] = left
    event["kwargs"]["litellm_params"]["metadata"]["spend_logs_metadata"] = left
    with pytest.raises(NotOursError, match="others"):
        _told(event)


def test_what_is_decided_is_read_from_the_call_where_litellm_logs_none_of_it() -> None:
    [event] = _events("plain")
    expected = _told(event)
    event["kwargs"]["standard_logging_object"]["metadata"]["spend_logs_metadata"] = {
        "outcome_router": {**expected.decision, "decision_id": "f" * 32}
    }
    assert _told(event) == expected


@pytest.mark.parametrize("place", ["metadata", "litellm_metadata"])
def test_of_a_claim_no_hook_takes_anything(tmp_path: Path, place: str) -> None:
    claim = {"decision_id": "ab" * 16, "model": "a", "propensity": 1e-9, "ranks": ["a"], "text": "x" * 1000}
    data = {place: {"user_api_key_hash": "another", "spend_logs_metadata": {"outcome_router": claim}}}
    response = SimpleNamespace(_hidden_params={"response_cost": 1.0, "model_id": "cand-b"}, usage=None)
    log = {"metadata": {**data[place]}, "response_cost": 1.0, "model_id": "cand-b"}
    router = Router()

    async def act(outcomes: Outcomes) -> None:
        await outcomes.failed(data)
        await outcomes.answered(data, response)
        for failed in (False, True):
            await outcomes.told({"standard_logging_object": log, "litellm_params": data}, failed=failed)
        assert await asyncio.wrap_future(outcomes.spool.owners(["ab" * 16])) == {}

    outcomes = _with_outcomes(tmp_path, router, act)
    assert (router.said, outcomes.counts.as_dict()) == ([], {"others": 2})


def test_of_a_record_its_own_fields_are_handed_on_and_of_each_so_much() -> None:
    [event] = _events("plain")
    long = "x" * 100_000
    decided = event["kwargs"]["litellm_params"]["metadata"]["spend_logs_metadata"]["outcome_router"]
    decided |= {"reason": long, "ranks": [long] * 1_000, "bundle": {"a": long}, "propensity": 10**400, "text": long}
    told = _told(event)
    assert (len(told.decision["reason"]), len(told.decision["ranks"]), len(told.to_json()) < 12_000) == (256, 32, True)
    assert (told.decision["bundle"], told.decision["propensity"], "text" in told.decision) == (None, None, False)


# --- one decision, one outcome ---


def test_the_surer_word_holds_whichever_comes_first() -> None:
    failure, success = (_told(event) for event in _events("retry_a"))
    bodies = [Outcome(failure, Sure.ATTEMPT_FAILED).to_json(), Outcome(success, Sure.LOGGED).to_json()]
    for first, second in (bodies, reversed(bodies)):
        one = read(combined(first, second))
        assert isinstance(one, Outcome)
        assert (one.told.error, one.told.model, one.told.cost_usd) == (False, "b", 0.0002)


def test_a_call_that_died_midway_and_was_billed_is_a_failure_with_its_cost() -> None:
    [event] = _events("dieall")
    event["kwargs"]["standard_logging_object"] |= {"response_cost": 0.01, "prompt_tokens": 9, "completion_tokens": 2}
    attempt = _told(event)
    given_up = ToldOutcome.from_json(
        json.dumps({"decision_id": attempt.decision_id, "started": 1.0, "ended": 2.0, "error": True})
    )
    one = read(combined(Outcome(given_up, Sure.FAILED).to_json(), Outcome(attempt, Sure.ATTEMPT_FAILED).to_json()))
    assert isinstance(one, Outcome)
    assert (one.sure, one.told.error, one.told.cost_usd, one.told.output_tokens) == (Sure.FAILED, True, 0.01, 2)


def test_what_is_told_reaches_the_router_once_and_names_who_answered_if_another_did(tmp_path: Path) -> None:
    router = Router()
    events = [*_events("plain"), *_events("stream"), *_events("retry_a"), *_events("cache2"), *_events("silent")]
    outcomes = _with_outcomes(tmp_path, router, _telling(*events))
    by_id = {str(one["decision_id"]): one for one in router.said}
    assert len(by_id) == len(router.said) == 4
    assert by_id[_decision(events[0])]["model"] == "b"
    stream = by_id[_decision(events[1])]
    assert "model" not in stream
    assert stream["cost_usd"] == 1.9999999999999998e-05
    assert (outcomes.counts["answered"], outcomes.counts["cache_hits"]) == (4, 1)
    assert outcomes.counts["silent_experiments"] == 1


def test_the_answer_is_on_disk_before_the_client_has_it_and_the_log_event_has_the_last_word(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")
    log = event["kwargs"]["standard_logging_object"]
    data = {"metadata": {"spend_logs_metadata": log["metadata"]["spend_logs_metadata"], "model_group": "auto"}}
    hidden = {"model_id": "cand-b", "response_cost": 0.0001, "_response_ms": 80.0}
    response = SimpleNamespace(_hidden_params=hidden, usage=SimpleNamespace(prompt_tokens=10, completion_tokens=5))

    async def act(outcomes: Outcomes) -> None:
        await outcomes.answered(data, response)
        assert await asyncio.wrap_future(outcomes.spool.waiting("router")) == 1
        await asyncio.sleep(0.2)
        assert router.said == []
        await outcomes.told(event["kwargs"], failed=False)

    _with_outcomes(tmp_path, router, act)
    [said] = router.said
    assert said["cost_usd"] == 0.0002
    assert said["latency_ms"] == pytest.approx(54.771, abs=0.01)


def test_of_a_killed_proxy_the_answer_that_was_not_logged_is_delivered_by_the_next(tmp_path: Path) -> None:
    log = _events("plain")[0]["kwargs"]["standard_logging_object"]
    data = {"metadata": {"spend_logs_metadata": log["metadata"]["spend_logs_metadata"]}}
    response = SimpleNamespace(_hidden_params={"response_cost": 0.0002, "model_id": "cand-b"}, usage=None)

    async def answer(outcomes: Outcomes) -> None:
        await outcomes.answered(data, response)

    first = Router()
    _with_outcomes(tmp_path, first, answer, waits=False)
    assert first.said == []
    second = Router()
    spool = Spool(tmp_path / "spool.db", combine=combined, clock=lambda: time.time() + 31)
    outcomes = Outcomes(second, spool, candidate_of=CANDIDATES.get)

    async def run() -> None:
        await outcomes.told(_events("stream")[0]["kwargs"], failed=False)
        for _ in range(500):
            if len(second.said) == 2:
                break
            await asyncio.sleep(0.02)
        await outcomes.close()

    asyncio.run(run())
    assert sorted(one["cost_usd"] for one in second.said) == [1.9999999999999998e-05, 0.0002]


def test_a_request_that_came_to_nothing_is_an_error_of_who_was_chosen(tmp_path: Path) -> None:
    router, [event] = Router(), _events("dieall")
    log = event["kwargs"]["standard_logging_object"]
    data = {"metadata": {"spend_logs_metadata": log["metadata"]["spend_logs_metadata"]}}

    async def act(outcomes: Outcomes) -> None:
        await outcomes.told(event["kwargs"], failed=True)
        await outcomes.failed(data)

    _with_outcomes(tmp_path, router, act)
    [said] = router.said
    assert said["error"] is True
    assert "model" not in said


# --- delivery ---


def test_a_router_that_is_away_is_told_when_it_is_back(tmp_path: Path) -> None:
    router = Router(away=3)
    outcomes = _with_outcomes(tmp_path, router, _telling(*_events("plain")))
    assert len(router.said) == 1
    assert outcomes.counts["retried"] == 3


def test_litellms_figures_take_the_place_of_others_and_leave_the_quality_alone(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")
    router.answers[_decision(event)] = [{"status": 409}, "recorded"]
    outcomes = _with_outcomes(tmp_path, router, _telling(event))
    first, second = router.said
    assert second == {**first, "replace": True}
    assert "quality" not in second
    assert outcomes.counts["replaced"] == 1


def test_an_error_that_contradicts_what_was_told_replaces_no_judgement(tmp_path: Path) -> None:
    router, [event] = Router(), _events("dieall")
    log = event["kwargs"]["standard_logging_object"]
    router.answers[_decision(event)] = [{"status": 409}, "recorded"]
    data = {"metadata": {"spend_logs_metadata": log["metadata"]["spend_logs_metadata"]}}
    _with_outcomes(tmp_path, router, lambda outcomes: outcomes.failed(data))
    assert [("error" in one, one.get("replace", False)) for one in router.said] == [(True, False), (False, True)]


def test_a_decision_that_a_killed_process_had_not_stored_is_stored_with_its_outcome(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")
    router.answers[_decision(event)] = [{"status": 404}, "recorded"]
    outcomes = _with_outcomes(tmp_path, router, _telling(event))
    assert router.restored == [_decision(event)]
    assert outcomes.counts["restored"] == 1


def test_a_decision_that_stays_unknown_is_let_go_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.integrations.litellm.told.to_router._UNKNOWN_SECONDS", 0.3)
    router, [event] = Router(), _events("plain")
    router.answers[_decision(event)] = [{"status": 404}] * 100
    outcomes = _with_outcomes(tmp_path, router, _telling(event))
    assert outcomes.counts["unknown"] == 1
    assert len(router.said) >= 4


def test_what_is_not_valid_is_let_go_and_counted(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")
    router.answers[_decision(event)] = [{"status": 422}]
    assert _with_outcomes(tmp_path, router, _telling(event)).counts["refused"] == 1


class Sink:
    def __init__(self, away: int) -> None:
        self.away, self.got = away, list[ToldOutcome]()

    async def send(self, told: Sequence[ToldOutcome]) -> None:
        if self.away:
            self.away -= 1
            raise RuntimeError("away")
        self.got += told


def test_a_sink_that_is_away_gets_everything_later_and_holds_up_nobody(tmp_path: Path) -> None:
    router, sink = Router(), Sink(away=4)
    _with_outcomes(tmp_path, router, _telling(*_events("plain"), *_events("stream")), sink)
    assert len(router.said) == 2
    assert sorted(one.model or "" for one in sink.got) == ["a", "b"]


# --- thumbs ---


def _asking(decision: str, **said: Any) -> dict[str, Any]:
    return {"metadata": {"tag": "t", "outcome_router_feedback": {"decision_id": decision, **said}}}


def test_a_thumb_in_the_next_requests_metadata_is_feedback_and_is_not_sent_on(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")

    async def act(outcomes: Outcomes) -> None:
        await outcomes.told(event["kwargs"], failed=False)
        data = _asking(_decision(event), accepted=True)
        assert outcomes.asked(data, _key()) == 1
        assert data == {"metadata": {"tag": "t"}}

    _with_outcomes(tmp_path, router, act)
    thumb = {"decision_id": _decision(event), "quality": 1.0, "source": "thumb"}
    assert thumb in router.said


def test_a_thumb_of_another_key_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.integrations.litellm.told.to_router._NOBODYS_SECONDS", 0.2)
    router, [event] = Router(), _events("plain")

    async def act(outcomes: Outcomes) -> None:
        outcomes.asked(_asking(_decision(event), accepted=False), _key("another"))
        await outcomes.told(event["kwargs"], failed=False)
        spoofed = _asking(_decision(event), accepted=False)
        spoofed["metadata"]["user_api_key_hash"] = KEY
        outcomes.asked(spoofed, _key("a third"))

    outcomes = _with_outcomes(tmp_path, router, act)
    assert [one for one in router.said if "quality" in one] == []
    # At once where the decision's owner is known by then, else when it is delivered.
    assert outcomes.spool.counts["nobodys"] + outcomes.counts["nobodys"] == 2


@pytest.mark.parametrize(
    "said",
    [
        {"quality": 1.5},
        {"quality": float("nan")},
        {"quality": 10**400},
        {"quality": -(10**400)},
        {"quality": True},
        {"accepted": 1},
        {},
        {"quality": 0.5, "accepted": True},
        {"quality": 0.5, "source": "judged"},
    ],
)
def test_a_thumb_that_is_not_valid_is_counted_and_told_nobody(tmp_path: Path, said: Mapping[str, Any]) -> None:
    router = Router()

    async def act(outcomes: Outcomes) -> None:
        assert outcomes.asked(_asking("0" * 32, **said), _key()) == 0

    assert _with_outcomes(tmp_path, router, act).counts["thumbs_refused"] == 1
    assert router.said == []


def test_one_thumb_that_is_not_valid_takes_no_others_with_it(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")
    good, bad = ({"decision_id": _decision(event), "quality": value} for value in (1, 10**400))

    async def act(outcomes: Outcomes) -> None:
        await outcomes.told(event["kwargs"], failed=False)
        assert outcomes.asked({"metadata": {"outcome_router_feedback": [bad, good]}}, _key()) == 1

    outcomes = _with_outcomes(tmp_path, router, act)
    assert [one["quality"] for one in router.said if "quality" in one] == [1.0]
    assert (outcomes.counts["thumbs_refused"], outcomes.counts["faults"]) == (1, 0)


def test_whoever_has_no_key_judges_its_own_decisions_and_no_others(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")
    users = [SimpleNamespace(token=None, api_key=None, user_id=user, team_id="t") for user in ("u1", "u2", "u1")]
    decided = event["kwargs"]["litellm_params"]["metadata"]["spend_logs_metadata"]["outcome_router"]
    decided.owner = owner_of(users[0])

    async def act(outcomes: Outcomes) -> None:
        await outcomes.told(event["kwargs"], failed=False)
        outcomes.asked(_asking(_decision(event), quality=0.25), users[1])
        outcomes.asked(_asking(_decision(event), quality=0.75), users[2])
        outcomes.asked(_asking(_decision(event), quality=0.5), SimpleNamespace())

    outcomes = _with_outcomes(tmp_path, router, act)
    assert [one["quality"] for one in router.said if "quality" in one] == [0.75]
    assert (outcomes.spool.counts["nobodys"], outcomes.counts["nobodys"]) == (1, 1)


@pytest.mark.parametrize(
    "decision", ["d", "0" * 31, "0" * 33, "0" * 31 + "G", "0" * 31 + "\ud800", "%" * 32, "0" * 32 + "\n"]
)
def test_a_thumb_on_what_is_no_decisions_id_is_refused(tmp_path: Path, decision: str) -> None:
    async def act(outcomes: Outcomes) -> None:
        assert outcomes.asked(_asking(decision, accepted=True), _key()) == 0

    assert _with_outcomes(tmp_path, Router(), act).counts["thumbs_refused"] == 1


# --- nothing of it reaches a call ---


@pytest.mark.parametrize("kwargs", [{}, {"standard_logging_object": None}, {"standard_logging_object": 7}])
def test_an_event_of_another_shape_raises_nothing(tmp_path: Path, kwargs: Mapping[str, Any]) -> None:
    router = Router()
    _with_outcomes(tmp_path, router, lambda outcomes: outcomes.told(kwargs, failed=False))
    assert router.said == []


def _answer(event: Mapping[str, Any], **usage: Any) -> tuple[dict[str, Any], Any]:
    log = event["kwargs"]["standard_logging_object"]
    hidden = {"model_id": "cand-b", "response_cost": 0.0001, "_response_ms": 80.0}
    data = {"metadata": {"spend_logs_metadata": log["metadata"]["spend_logs_metadata"]}}
    return data, SimpleNamespace(_hidden_params=hidden, usage=usage)


@pytest.mark.parametrize(
    "error",
    [
        json.JSONDecodeError("no", "{", 0),
        TypeError("Integer exceeds 64-bit range"),
        sqlite3.OperationalError("database is locked"),
        OverflowError("int too large"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        RecursionError(),
    ],
)
@pytest.mark.parametrize(
    "inner",
    [
        "outcomes.outcome_of_answer",
        "outcomes.outcome_of_failure",
        "outcomes.outcome_of_log",
        "outcomes.decided_of",
        "outcomes.owner_of",
        "log_events.bucket_of",
        "outcomes.thumbs_in",
        "outcomes.thumb_row",
        "outcomes.Delivery",
        "outcomes.Kept",
        "outcomes.Outcome.to_json",
        "outcomes.Said.to_json",
        "outcomes.Outcomes._put",
        "outcomes.Outcomes._kept",
        "spool.Spool.put",
        "spool.Spool._ask",
        "spool.Spool._written_now",
        "spool._in_transaction",
        "spool.keep",
        "log_events.served_by",
        "log_events.cost_of",
        "delivery.Delivery.begin",
    ],
)
def test_whatever_goes_wrong_inside_no_hook_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(f"serving.integrations.litellm.told.{inner}", fails)
    event = _events("plain")[0]

    async def run() -> None:
        outcomes = Outcomes(Router(), Spool(tmp_path / "spool.db", combine=combined), candidate_of=CANDIDATES.get)
        data, response = _answer(event, prompt_tokens=10)
        await outcomes.answered(data, response)
        await outcomes.failed(data)
        await outcomes.told(event["kwargs"], failed=False)
        await outcomes.told(event["kwargs"], failed=True)
        outcomes.asked(_asking(_decision(event), accepted=True), _key())
        if inner != "spool.Spool._ask":
            await outcomes.close()

    asyncio.run(run())


@pytest.mark.parametrize("tokens", [2**70, 10**400, -1, 2**53 + 1])
def test_a_count_that_no_counter_gives_is_not_known_and_the_outcome_is_kept(tmp_path: Path, tokens: int) -> None:
    router, [event] = Router(), _events("plain")
    log = event["kwargs"]["standard_logging_object"]
    log.update(prompt_tokens=tokens, completion_tokens=7, response_cost=0.25, startTime=tokens)
    outcomes = _with_outcomes(tmp_path, router, _telling(event))
    [said] = router.said
    assert (said.get("input_tokens"), said["output_tokens"], said["cost_usd"]) == (None, 7, 0.25)
    assert outcomes.counts["faults"] == 0
    log.update(response_cost=10**400)
    assert _told(event).cost_usd is None


def test_half_a_surrogate_pair_in_what_a_router_says_loses_no_outcome(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")
    data, response = _answer(event, prompt_tokens=2**70, completion_tokens=5)
    decision = data["metadata"]["spend_logs_metadata"]["outcome_router"]
    decision |= {"decision_id": "a\ud800", "reason": "\udfff", "ranks": ["\ud800", 2**70], "\ud800": {1, 2}}

    async def act(outcomes: Outcomes) -> None:
        await outcomes.answered(data, response)
        assert await asyncio.wrap_future(outcomes.spool.waiting("router")) == 1
        await outcomes.failed(data)

    outcomes = _with_outcomes(tmp_path, router, act)
    assert [one["decision_id"] for one in router.said] == ["a?"]
    assert outcomes.counts["faults"] == 0


def test_while_the_spool_is_locked_one_answer_waits_and_none_after_it(tmp_path: Path) -> None:
    router, [event] = Router(), _events("plain")

    async def act(outcomes: Outcomes) -> None:
        await outcomes.told(event["kwargs"], failed=True)
        other = sqlite3.connect(outcomes.spool.path, isolation_level=None)
        other.execute("begin immediate")
        for _ in range(20):
            await outcomes.answered(*_answer(event, prompt_tokens=10))
        other.execute("rollback")
        other.close()
        await outcomes.told(event["kwargs"], failed=False)

    outcomes = _with_outcomes(tmp_path, router, act)
    assert (outcomes.counts["slow"], outcomes.counts["faults"], len(router.said)) == (1, 0, 1)


def test_where_the_spool_cannot_be_made_outcomes_are_delivered_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "spool.db").mkdir()
    router = Router()
    _with_outcomes(tmp_path, router, _telling(*_events("plain")))
    assert len(router.said) == 1
