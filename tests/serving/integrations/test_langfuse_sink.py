"""Decisions and their numbers at Langfuse: what is sent, that it is there once whatever goes wrong, and what never is sent."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.integrations.langfuse import LangfuseSink, langfuse_sink_of, payload
from serving.integrations.langfuse.ids import parent_of, span_of
from serving.integrations.outcome import Attempt, SinkError, ToldOutcome
from serving.settings import LangfuseSettings
from tests.langfuse_server import PUBLIC, SECRET, SETTLED, Project, at_random, langfuse_server

NOW = 1_790_000_000.0
TRACE, GENERATION = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
DECISION = {
    "decision_id": "d-0", "model": "mini", "ranks": ["mini", "large"], "confidence": 0.93, "reason": "cheapest acceptable",
    "bundle": "20260901-1", "expected_cost_usd": 0.0002, "reference": "large", "reference_cost_usd": 0.004,
    "propensity": 0.95, "held_back": None, "session": "a hash", "prompt": "canary, to be sent to nobody",
}  # fmt: skip


class Clock:
    """Epoch seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def told(number: int = 0, **cells: Any) -> ToldOutcome:
    plain = ToldOutcome(
        decision_id=f"d-{number}", trace_id=TRACE, observation_id=GENERATION, call_id=f"c-{number}", model="mini",
        started=NOW + number / 100, ended=NOW + number / 100 + 1.5, cost_usd=0.00025, input_tokens=120, output_tokens=30,
        latency_ms=1500.0, error=False, attempts=(Attempt("mini"),), decision=DECISION,
    )  # fmt: skip
    return replace(plain, **cells)


def sent(url: str, outcomes: list[ToldOutcome], clock: Clock | None = None, **cells: Any) -> LangfuseSink:
    """The sink after it has sent some outcomes; raises what it raises."""
    sink = LangfuseSink(url, PUBLIC, SECRET, clock=clock or Clock(), **cells)

    async def once() -> None:
        try:
            await sink.send(outcomes)
        finally:
            await sink.close()

    asyncio.run(once())
    return sink


def attributes(span: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"]["stringValue"] for one in span["attributes"]}


def test_a_decision_is_a_span_below_the_generation_with_the_same_metadata_for_the_trace() -> None:
    project = Project()
    with langfuse_server(project) as url:
        sent(url, [told()], environment="production")
    ((span,),) = project.spans.values()
    assert (span["traceId"], span["parentSpanId"], span["name"]) == (TRACE, GENERATION, "outcome-router")
    assert span["startTimeUnixNano"] == span["endTimeUnixNano"] == str(int(NOW) * 10**9)
    said = attributes(span)
    expected = {
        "decision_id": "d-0", "model": "mini", "reason": "cheapest acceptable", "bundle": "20260901-1", "confidence": "0.93",
        "expected_cost_usd": "0.0002", "reference": "large", "reference_cost_usd": "0.004", "propensity": "0.95",
        "ranks": '["mini","large"]', "answered": "mini", "cost_usd": "0.00025", "attempts": "1", "error": "false",
    }  # fmt: skip
    for kind in ("observation", "trace"):
        prefix = f"langfuse.{kind}.metadata.router_"
        assert {name.removeprefix(prefix): text for name, text in said.items() if name.startswith(prefix)} == expected
    assert (said["langfuse.observation.type"], said["langfuse.environment"]) == ("span", "production")


def test_its_numbers_are_scores_of_the_generation() -> None:
    project = Project()
    with langfuse_server(project) as url:
        sent(url, [told()], environment="production")
    found = {row["name"]: row["value"] for row in project.scores.values()}
    assert found == {
        "router_confidence": 0.93, "router_expected_cost_usd": 0.0002, "router_cost_usd": 0.00025,
        "router_reference_cost_usd": 0.004, "router_saved_usd": pytest.approx(0.00375),
    }  # fmt: skip
    row = project.scores["d-0-router_confidence", "router_confidence", "2026-09-21"]
    shown = {name: row[name] for name in ("traceId", "observationId", "dataType", "environment", "timestamp")}
    assert shown == {
        "traceId": TRACE, "observationId": GENERATION, "dataType": "NUMERIC", "environment": "production",
        "timestamp": "2026-09-21T14:13:21.500+00:00",
    }  # fmt: skip
    assert row["metadata"]["router_decision_id"] == "d-0"


def test_what_is_not_known_is_no_score_and_a_failed_call_saves_nothing() -> None:
    bare = told(cost_usd=None, decision={"model": "mini", "confidence": True, "expected_cost_usd": float("inf")})
    assert payload.scores(bare, None) == []
    failed = {row["name"] for row in payload.scores(told(error=True), None)}
    assert failed == set(payload.SCORES) - {"router_saved_usd"}


def test_nothing_but_the_named_fields_leaves_the_house() -> None:
    project = Project()
    with langfuse_server(project) as url:
        sent(url, [told()])
    assert all(b"canary" not in body and b"a hash" not in body for body in project.bodies)


def test_a_decision_without_a_trace_gets_one_and_without_a_generation_claims_no_root() -> None:
    alone, without = (
        payload.span(told(trace_id=None, observation_id=None), None),
        payload.span(told(observation_id=None), None),
    )
    assert "parentSpanId" not in alone
    assert len(alone["traceId"]) == 32
    assert without["parentSpanId"] == parent_of("d-0")
    (score, *_) = payload.scores(told(observation_id=None), None)
    assert score["observationId"] == without["spanId"] == span_of("d-0")


def test_the_spans_are_otlp() -> None:
    """Protobuf's own JSON has bytes as base64 where OTLP's has hexadecimal digits; all else is the same."""
    request = json.loads(
        payload.export_request([payload.span(told(), None), payload.span(told(1, trace_id=None), None)])
    )
    for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in span:
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    parsed = json_format.ParseDict(request, ExportTraceServiceRequest(), ignore_unknown_fields=False)
    first, second = parsed.resource_spans[0].scope_spans[0].spans
    assert (first.trace_id.hex(), first.parent_span_id.hex(), first.name) == (TRACE, GENERATION, "outcome-router")
    assert second.start_time_unix_nano == int(NOW * 1e9) + 10_000_000


def test_sending_the_same_twice_changes_nothing() -> None:
    project, clock = Project(), Clock()
    with langfuse_server(project) as url:
        sink = LangfuseSink(url, PUBLIC, SECRET, clock=clock)

        async def twice() -> None:
            await sink.send([told(), told()])
            scores = dict(project.scores)
            await sink.send([told()])
            assert project.scores == scores
            await sink.close()

        asyncio.run(twice())
    assert {len(copies) for copies in project.spans.values()} == {1}


def test_a_span_whose_answer_was_lost_is_asked_for_before_it_is_sent_again() -> None:
    project, clock = Project(), Clock()
    project.clock = clock
    project.faults = lambda path: "lost" if path.endswith("traces") and not project.spans else None
    with langfuse_server(project) as url:
        sink = LangfuseSink(url, PUBLIC, SECRET, clock=clock)

        async def thrice() -> None:
            with pytest.raises(SinkError, match="gave no answer"):
                await sink.send([told()])
            with pytest.raises(SinkError, match="may have 1 decisions already") as early:
                await sink.send([told()])
            clock.now += early.value.retry_after_seconds or 0.0
            await sink.send([told(), told(1)])
            await sink.close()

        asyncio.run(thrice())
    assert {span: len(copies) for span, copies in project.spans.items()} == {span_of("d-0"): 1, span_of("d-1"): 1}
    assert len(project.scores) == 10


def test_outcomes_older_than_the_process_are_asked_for_and_only_those_that_are_missing_sent() -> None:
    project, clock = Project(), Clock()
    project.clock = clock
    many = [told(number) for number in range(30)]
    with langfuse_server(project) as url:
        sent(url, many[:20], clock)
        clock.now += 100
        with pytest.raises(SinkError) as early:
            sent(url, many, clock)
        assert early.value.retry_after_seconds == pytest.approx(15.0)
        later = LangfuseSink(url, PUBLIC, SECRET, clock=clock)
        clock.now += 15

        async def again() -> None:
            await later.send(many)
            await later.close()

        asyncio.run(again())
    assert [len(copies) for copies in project.spans.values()] == [1] * 30


def test_a_server_that_cannot_be_asked_is_sent_them_again() -> None:
    project, clock = Project(), Clock()
    project.can_be_asked = False
    with langfuse_server(project) as url:
        sink = LangfuseSink(url, PUBLIC, SECRET, clock=clock)
        clock.now += 100

        async def once() -> None:
            await sink.send([told()])
            await sink.close()

        asyncio.run(once())
    assert len(project.spans) == 1


def test_an_older_server_gets_the_scores_as_events() -> None:
    project = Project()
    project.takes_lists = False
    with langfuse_server(project) as url:
        sent(url, [told(number) for number in range(150)])
    assert len(project.scores) == 150 * 5
    assert [path for _, path in project.requests].count("/api/public/scores") == 1


@pytest.mark.parametrize("lists", [True, False])
def test_what_is_refused_for_itself_is_dropped_and_the_rest_arrives(
    lists: bool, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project()
    project.takes_lists = lists
    project.refuses = lambda row: row.get("spanId") == span_of("d-3") or row.get("id") == "d-5-router_cost_usd"
    with langfuse_server(project) as url, caplog.at_level(logging.WARNING):
        sink = sent(url, [told(number) for number in range(8)])
    assert (len(project.spans), len(project.scores), sink.refused) == (7, 39, 2)
    assert caplog.text.count("Langfuse refused 1 of what was sent, which is dropped") == 2


def test_a_batch_that_is_refused_as_a_whole_is_halved_until_the_bad_one_stands_alone() -> None:
    project = Project()
    take = project.take_spans

    def whole(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        bad = span_of("d-3") in json.dumps(body)
        return (413, {"error": "too large"}) if bad else take(body)

    project.take_spans = whole  # type: ignore[method-assign]
    with langfuse_server(project) as url:
        sink = sent(url, [told(number) for number in range(8)])
    assert (len(project.spans), sink.refused) == (7, 1)


def test_an_outcome_of_no_time_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    project = Project()
    with langfuse_server(project) as url, caplog.at_level(logging.WARNING):
        sink = sent(url, [told(), told(1, started=1e300, ended=1e300)])
    assert (len(project.spans), len(project.scores), sink.refused) == (1, 5, 2)
    assert "expected seconds since 1970, before the year 10000; arrived: 1e+300" in caplog.text


@pytest.mark.parametrize(
    ("fault", "says", "retryable", "seconds"),
    [
        (429, "answered 429", True, 7.0),
        (500, "answered 500", True, None),
        (401, "check that LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are of a project", False, None),
        (404, "check LANGFUSE_HOST", False, None),
        (302, "check LANGFUSE_HOST", False, None),
    ],
)
def test_the_caller_is_told_whether_to_come_again_and_when(
    fault: int, says: str, retryable: bool, seconds: float | None
) -> None:
    project = Project()
    project.faults = lambda path: fault
    with langfuse_server(project) as url, pytest.raises(SinkError, match=says) as raised:
        sent(url, [told()])
    assert (raised.value.retryable, raised.value.retry_after_seconds) == (retryable, seconds)
    assert SECRET not in str(raised.value)
    assert not project.spans


def test_a_server_that_is_not_there_or_slow_is_for_later() -> None:
    with pytest.raises(SinkError, match="gave no answer") as away:
        sent("http://127.0.0.1:9", [told()])
    assert away.value.retryable
    project = Project()
    project.faults, project.slow_seconds = (lambda path: "slow"), 0.6
    with langfuse_server(project) as url, pytest.raises(SinkError, match="ReadTimeout"):
        sent(url, [told()], timeout_seconds=0.15)


def test_each_of_ten_thousand_arrives_once_though_answers_get_lost_and_the_sender_is_started_again(
    tmp_path: Path,
) -> None:
    draw, clock = random.Random(20), Clock()
    project = Project(clock, seed=21)
    project.slow_seconds = 0.2
    faults = at_random(draw, 0.15, [500, "broken", 503, 429, "lost", "lost", "slow"])
    project.faults = faults
    spool = tmp_path / "spool.jsonl"
    outcomes = [told(number, trace_id=f"{number // 3:032x}" if number >= 3 else TRACE) for number in range(10_000)]
    spool.write_bytes(b"".join(one.to_json() + b"\n" for one in outcomes))

    async def one_life(url: str, lines: list[bytes]) -> list[bytes]:
        """What is left to send when the sender ends: after some batches, often in the middle of one."""
        sink = LangfuseSink(url, PUBLIC, SECRET, httpx.AsyncClient(), timeout_seconds=0.15, clock=clock)
        for _ in range(draw.randint(10, 60)):
            batch = [ToldOutcome.from_json(line) for line in lines[:100]]
            sending = asyncio.ensure_future(sink.send(batch))
            if draw.random() < 0.1:  # killed while it sends
                await asyncio.sleep(draw.random() * 0.03)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                httpx.get(url + SETTLED, timeout=30.0)
                break
            try:
                await sending
            except SinkError as error:
                httpx.get(url + SETTLED, timeout=30.0)  # what was given up is taken in before its time has passed
                clock.now += error.retry_after_seconds or 1.0
                continue
            lines = lines[100:]
            clock.now += 2.0
            if not lines:
                break
        await sink.close()
        return lines

    with langfuse_server(project) as url:
        lives = 0
        while lines := spool.read_bytes().splitlines():
            spool.write_bytes(b"".join(line + b"\n" for line in asyncio.run(one_life(url, lines))))
            clock.now += draw.random() * 5
            lives += 1
    assert lives > 3
    assert sorted(project.spans) == sorted(span_of(one.decision_id) for one in outcomes)
    assert {len(copies) for copies in project.spans.values()} == {1}
    assert len(project.scores) == 50_000
    assert {row["metadata"]["router_decision_id"] for row in project.scores.values()} == {
        one.decision_id for one in outcomes
    }


def test_it_is_off_unless_it_is_switched_on_and_then_needs_both_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGFUSE_HOST", "LANGFUSE_BASE_URL", "LANGFUSE_SECRET_KEY", "ROUTER_LITELLM_LANGFUSE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", PUBLIC)
    assert langfuse_sink_of() is None
    monkeypatch.setenv("ROUTER_LITELLM_LANGFUSE", "true")
    with pytest.raises(ValueError, match="LANGFUSE_SECRET_KEY not set"):
        langfuse_sink_of()
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", SECRET)
    assert SECRET not in repr(LangfuseSettings())
    project = Project()
    with langfuse_server(project) as url:
        monkeypatch.setenv("LANGFUSE_HOST", url + "/")
        sink = langfuse_sink_of()
        assert sink is not None

        async def once() -> None:
            await sink.send([told(started=4e9, ended=4e9)])
            await sink.close()

        asyncio.run(once())
    assert len(project.spans) == 1
