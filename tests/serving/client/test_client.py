"""The client against routers that answer, refuse, and fail in every way that they can."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any

import httpx
import pytest

from serving.client import AsyncRouterClient, FeedbackError, RouterClient, RouteRefusedError, asynchronous
from serving.client.breaker import Breaker
from serving.client.exchange import MOST_ANSWER_BYTES
from tests.conftest import ROOT
from tests.serving.client.away import DECISION, Said, answering, listening

USUAL = "gpt-4o"
BODY = {"messages": [{"role": "user", "content": "hello \ud800"}], "workflow": "easy"}
REFUSED = {"type": "urn:outcome-router:no-eligible-candidate", "title": "No eligible candidate", "detail": "d"}
CLOSED = "http://127.0.0.1:9"


def client(url: str, **options: Any) -> RouterClient:
    return RouterClient(url, fallback=USUAL, **options)


def test_a_decision_arrives_typed_and_whole() -> None:
    also = {"model": "acme/large", "propensity": 0.05, "expected_cost_usd": 0.004}
    said = {**DECISION, "also": also, "held_back": None}
    with answering(lambda path, body: Said(body=said)) as stub, client(stub.url + "/", api_key="secret") as router:
        route = router.route(BODY)
    assert (route.id, route.model, route.fallbacks) == ("d1", "acme/small", ("acme/large",))
    assert (route.confidence, route.expected_cost_usd, route.propensity) == (0.9, 0.001, 1.0)
    assert (route.reason, route.bundle, route.failed) == ("best_value", "fake-1", False)
    assert route.also is not None
    assert (route.also.model, route.also.propensity, route.also.expected_cost_usd) == ("acme/large", 0.05, 0.004)
    assert route.document == said
    assert stub.asked == [("/v1/route", BODY)]
    assert stub.authorizations == ["Bearer secret"]


def test_the_asynchronous_one_says_the_same_on_every_event_loop() -> None:
    async def ask(router: AsyncRouterClient) -> list[str]:
        return [route.model for route in await asyncio.gather(*(router.route(BODY) for _ in range(20)))]

    with answering() as stub:
        router = AsyncRouterClient(stub.url, fallback=USUAL, timeout_seconds=10)
        loops = asyncio.new_event_loop(), asyncio.new_event_loop()
        for loop in (*loops, *loops):
            assert loop.run_until_complete(ask(router)) == ["acme/small"] * 20
        for loop in loops:
            loop.run_until_complete(router.close())
            loop.close()

        async def within() -> str:
            async with AsyncRouterClient(stub.url, fallback=USUAL) as another:
                return (await another.route(BODY)).model

        assert asyncio.run(within()) == "acme/small"


@pytest.mark.parametrize(
    "said",
    [
        Said(status=500, body=b"oops"),
        Said(status=503, body={"status": 503, "type": "about:blank"}),
        Said(status=200, body=b"<html>"),
        Said(status=200, body=b"[" * 100_000),
        Said(status=200, body=[]),
        Said(status=200, body={**DECISION, "model": None}),
        Said(status=200, body={**DECISION, "model": 7}),
        Said(status=200, body={**DECISION, "id": ""}),
        Said(status=200, body={**DECISION, "fallbacks": "acme/large"}),
        Said(status=200, body={**DECISION, "confidence": True}),
        Said(status=200, body={**DECISION, "confidence": float("nan")}),
        Said(status=200, body={**DECISION, "also": {"model": "acme/large"}}),
        Said(status=200, body=b" " * (MOST_ANSWER_BYTES + 1) + json.dumps(DECISION).encode()),
        Said(status=200, body=DECISION, headers={"content-encoding": "gzip"}),
        Said(status=307, body=b"", headers={"location": "/elsewhere"}),
        Said(status=204, body=b""),
        Said(status=403, body=b"<html>a gateway's own page</html>"),
        Said(status=422, body={"detail": [{"loc": ["body"], "msg": "of another service"}]}),
    ],
    ids=lambda said: f"{said.status} {str(said.body)[:30]}",
)
def test_what_is_no_decision_falls_back_and_is_not_asked_again_at_once(said: Said) -> None:
    with answering(lambda path, body: said) as stub, client(stub.url, timeout_seconds=10) as router:
        for _ in range(3):
            route = router.route(BODY)
            assert (route.model, route.id, route.failed, route.reason) == (USUAL, None, True, "router_unavailable")
        assert router.is_open
    assert len(stub.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 429])
def test_what_concerns_this_request_or_key_falls_back_and_the_next_one_asks_again(status: int) -> None:
    problem = {"status": status, "type": "about:blank", "title": "t", "detail": "d"}
    with answering(lambda path, body: Said(status=status, body=problem)) as stub, client(stub.url) as router:
        assert [router.route(BODY).failed for _ in range(3)] == [True] * 3
        assert not router.is_open
    assert len(stub.asked) == 3


@pytest.mark.parametrize("status", [402, 403, 422])
def test_a_refusal_is_an_answer(status: int) -> None:
    problem = {**REFUSED, "status": status, "ruled_out": {"acme/small": "region"}}
    with answering(lambda path, body: Said(status=status, body=problem)) as stub, client(stub.url) as router:
        for _ in range(2):
            with pytest.raises(RouteRefusedError, match=f"{status} No eligible candidate: d") as refused:
                router.route(BODY)
            assert (refused.value.status, refused.value.problem) == (status, problem)
        assert not router.is_open
    assert len(stub.asked) == 2


def test_a_lost_connection_is_asked_again_once_under_the_same_name() -> None:
    killed = [True]

    def behave(path: str, body: Any) -> Said:
        return Said(status=0) if killed.pop() else Said(body=DECISION)

    with answering(behave) as stub, client(stub.url, timeout_seconds=10) as router:
        killed[:] = [False, True]
        assert router.route(BODY).model == "acme/small"
        killed[:] = [False]
        assert router.route(BODY).model == "acme/small"
        killed[:] = [True, True]
        assert router.route(BODY).failed
        assert router.is_open
    first, again, other, *third = stub.keys
    assert first == again != other
    assert first is not None
    assert len(set(third)) == 1


def test_feedback_has_no_such_name() -> None:
    said = {"recorded": 1, "repeated": 0, "results": ["recorded"]}
    with answering(lambda path, body: Said(body=said)) as stub, client(stub.url) as router:
        assert router.feedback({"decision_id": "d1", "quality": 1.0}) == ["recorded"]
    assert stub.keys == [None]


@pytest.mark.parametrize("trickle", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b" " * 1000])
def test_a_router_that_hangs_costs_one_time_out_in_all(trickle: bytes) -> None:
    """Also where a byte comes again and again, which is no end to what a socket's own limit allows."""
    with listening(trickle) as silent, client(silent.url, timeout_seconds=0.3, retry_after_seconds=60) as router:
        assert all(router.route(BODY).failed for _ in range(50))
    assert silent.connections == 1


class Clock:
    """What the breaker takes for the time, moved by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(asynchronous, "Breaker", partial(Breaker, clock=made))
    return made


def test_a_router_that_is_gone_falls_back_and_one_that_is_back_is_found(clock: Clock) -> None:
    gone = [True]

    def behave(path: str, body: Any) -> Said:
        return Said(status=500, body=b"") if gone[0] else Said(body=DECISION)

    with answering(behave) as stub, client(stub.url, retry_after_seconds=0.1, timeout_seconds=10) as router:
        assert router.route(BODY).failed
        gone[0] = False
        assert router.route(BODY).failed
        clock.now += 0.12
        assert [router.route(BODY).model for _ in range(2)] == ["acme/small"] * 2
    with client(CLOSED) as router:
        assert router.route(BODY).model == USUAL


def test_of_many_at_once_one_looks_whether_it_is_back(clock: Clock) -> None:
    async def ask(url: str) -> None:
        async with AsyncRouterClient(url, fallback=USUAL, timeout_seconds=0.2, retry_after_seconds=0.1) as router:
            assert (await router.route(BODY)).failed
            clock.now += 0.15
            assert all(route.failed for route in await asyncio.gather(*(router.route(BODY) for _ in range(30))))

    with listening() as silent:
        asyncio.run(ask(silent.url))
    assert silent.connections == 2


def test_who_gives_up_waiting_does_not_take_the_probe_with_him(clock: Clock) -> None:
    async def ask(url: str) -> None:
        async with AsyncRouterClient(url, fallback=USUAL, timeout_seconds=0.5, retry_after_seconds=0.01) as router:
            assert (await router.route(BODY)).failed
            clock.now += 0.05
            probe = asyncio.create_task(router.route(BODY))
            while silent.connections < 2:  # it is under way
                await asyncio.sleep(0.001)
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
            assert (await router.route(BODY)).failed

    with listening() as silent:
        asyncio.run(ask(silent.url))
    assert silent.connections == 3


def test_why_it_falls_back_is_said_once_a_minute_and_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), client("http://me:hidden@127.0.0.1:9", api_key="hidden") as router:
        for _ in range(5):
            router.route(BODY)
    (line,) = caplog.messages
    assert line.startswith("outcome-router: the router at http://127.0.0.1:9 gave no decision (ConnectError")
    assert line.endswith(f"{USUAL} answers instead, 1 request since the last such line")
    assert "hidden" not in line


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("localhost:1", {}, "expected http://host:port, as http://localhost:1, got the scheme 'localhost'"),
        ("router/v1", {}, "expected http://host:port, as http://router/v1, got"),
        ("me:secret@host:1", {}, "expected http://host:port, got the scheme 'me'"),
        ("ftp://localhost", {}, "expected http://host:port, got the scheme 'ftp'"),
        ("http://\n", {}, "expected http://host:port"),
        (CLOSED, {"fallback": ""}, "fallback: expected the name"),
        (CLOSED, {"timeout_seconds": 0}, "timeout_seconds: expected seconds above 0, got 0"),
        (CLOSED, {"retry_after_seconds": float("nan")}, "retry_after_seconds: expected"),
        (CLOSED, {"api_key": "secret\n"}, "api_key: expected printable ASCII"),
    ],
)
def test_a_wrong_option_is_said_at_the_start(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        AsyncRouterClient(url, **{"fallback": USUAL, **options})
    assert "secret" not in str(refused.value)


def test_a_text_is_a_prompt() -> None:
    with answering() as stub, client(stub.url) as router:
        assert router.route("hello").model == "acme/small"
    assert stub.asked == [("/v1/route", {"prompt": "hello"})]


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}])
def test_a_body_that_is_no_json_is_its_callers_fault(body: dict[str, Any]) -> None:
    with client(CLOSED) as router:
        with pytest.raises((TypeError, ValueError), match="JSON"):
            router.route(body)
        assert not router.is_open


def test_closing_ends_who_waits_and_what_comes_later() -> None:
    with listening() as silent:
        router, said = client(silent.url, timeout_seconds=60), []

        def wait() -> None:
            try:
                router.route(BODY)
            except RuntimeError as error:
                said.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        while not silent.connections:
            time.sleep(0.01)
        router.close()
        thread.join(10)
        assert said == ["this client is closed"]
        with pytest.raises(RuntimeError, match="this client is closed"):
            router.route(BODY)


def test_a_child_after_a_fork_asks_with_connections_of_its_own() -> None:
    code = """
import os, sys
from serving.client import RouterClient
router = RouterClient(sys.argv[1], fallback="gpt-4o", timeout_seconds=10)
assert router.route({"prompt": "x"}).model == "acme/small"
child = os.fork()
assert router.route({"prompt": "x"}).model == "acme/small"
if child == 0:
    router.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
router.close()
"""
    with answering() as stub:
        command = [sys.executable, "-W", "ignore", "-c", code, stub.url]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(stub.asked) == 3


def test_a_client_of_ones_own_is_used_and_left_open() -> None:
    async def ask() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json=DECISION))
        async with httpx.AsyncClient(transport=transport) as http:
            async with AsyncRouterClient("https://router.example", fallback=USUAL, http=http) as router:
                assert (await router.route(BODY)).model == "acme/small"
            assert not http.is_closed

    asyncio.run(ask())


def taking(path: str, body: dict[str, Any]) -> Said:
    """Takes what is told of "known…", knows "other" otherwise, and refuses a list with "wrong" in it."""
    told = [one["decision_id"] for one in body["feedback"]]
    if "wrong" in told:
        field = f"feedback.{told.index('wrong')}.quality"
        return Said(422, {"status": 422, "type": "urn:t", "title": "t", "detail": field})
    statuses = {"nobody": 404, "other": 409}
    results = [{"status": statuses[one], "type": "urn:t"} if one in statuses else "recorded" for one in told]
    return Said(body={"recorded": 1, "repeated": 0, "results": results})


def told(*names: str) -> list[dict[str, Any]]:
    return [{"decision_id": name, "quality": 1.0, "cost_usd": None} for name in names]


def test_feedback_is_split_and_each_has_its_result() -> None:
    names = [f"known{number}" for number in range(600)]
    names[3], names[500] = "nobody", "other"
    with answering(taking) as stub, client(stub.url, feedback_timeout_seconds=60) as router:
        results = router.feedback(told(*names))
        assert router.feedback([]) == []
        assert router.feedback({"decision_id": "known"}) == ["recorded"]
    assert [len(body["feedback"]) for _, body in stub.asked] == [256, 256, 88, 1]
    assert stub.asked[0][1]["feedback"][0] == {"decision_id": "known0", "quality": 1.0}
    assert [one["status"] for one in results if not isinstance(one, str)] == [404, 409]
    assert [results[3], results[500]] == [{"status": 404, "type": "urn:t"}, {"status": 409, "type": "urn:t"}]
    assert results.count("recorded") == 598


def test_one_that_is_not_valid_does_not_take_the_others_with_it() -> None:
    names = [f"known{number}" for number in range(100)]
    names[17] = names[64] = "wrong"
    with answering(taking) as stub, client(stub.url, feedback_timeout_seconds=60) as router:
        results = router.feedback(told(*names))
    assert [place for place, one in enumerate(results) if not isinstance(one, str)] == [17, 64]
    assert len(stub.asked) < 40


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (Said(503, {"status": 503, "type": "about:blank", "detail": "not stored"}, {"retry-after": "7"}), 503),
        (Said(429, {"status": 429, "type": "about:blank", "detail": "rate"}, {"retry-after": "7"}), 429),
        (Said(401, b"who?"), 401),
        (Said(413, b"<html>"), 413),
        (Said(200, {"results": ["recorded"] * 7}), None),
        (Said(200, {"results": [{"status": 500, "type": "about:blank"}]}), None),
        (Said(200, b"ok"), None),
        (Said(302, b"", {"location": "/v1/feedback"}), 302),
    ],
)
def test_what_is_not_known_to_be_stored_is_raised_with_what_is(said: Said, status: int | None) -> None:
    def behave(path: str, body: Any) -> Said:
        return taking(path, body) if len(body["feedback"]) == 256 else said

    names = [f"known{number}" for number in range(257)]
    with (
        answering(behave) as stub,
        client(stub.url, feedback_timeout_seconds=60) as router,
        pytest.raises(FeedbackError, match="feedback is not known to be stored") as raised,
    ):
        router.feedback(told(*names))
    assert raised.value.results == ["recorded"] * 256
    assert raised.value.status == status
    assert raised.value.retry_after_seconds == (7.0 if "retry-after" in said.headers else None)
    assert len(stub.asked) == 2


def test_feedback_does_not_wait_for_ever_and_stops_no_routing() -> None:
    with listening() as silent, client(silent.url, feedback_timeout_seconds=0.2) as router:
        with pytest.raises(FeedbackError, match=r"no whole answer within 0\.2 s"):
            router.feedback(told("d"))
        assert not router.is_open
