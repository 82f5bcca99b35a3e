"""The LLM that grades, against a stand-in server on loopback that speaks the chat completions protocol."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from training.config import Judge, load_params
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.quality.llm_calls import RUBRIC
from training.quality.llm_grader import grade_answers
from training.quality.llm_prices import GraderError, Price, parse_price

ROOT = Path(__file__).parents[3]
MODEL = "openai/stand-in"
PRICE = Price(1.0, 10.0)
SETTINGS = replace(load_params().judge, parallel=1, wait_s=0.0, attempts=3)
Answer = tuple[int, str, tuple[int, int] | None]


def says(score: Any, usage: tuple[int, int] | None = (100, 10)) -> Answer:
    return 200, json.dumps({"score": score}), usage


@dataclass
class StandIn:
    """Answers each request as `behave(number, body)` says: status, content, (prompt, completion) tokens."""

    behave: Callable[[int, dict[str, Any]], Answer]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def seen(self) -> list[dict[str, Any]]:
        """What the grader was sent as its user message, one per call."""
        return [json.loads(body["messages"][1]["content"]) for body in self.bodies]


def handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with stand_in.lock:
                stand_in.bodies.append(body)
                number = len(stand_in.bodies)
            status, content, usage = stand_in.behave(number, body)
            reply: dict[str, Any] = {"error": {"message": f"refused: {body['messages'][1]['content']}", "type": "x"}}
            if status == 200:
                message = {"role": "assistant", "content": content}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                reply = {"id": f"c-{number}", "object": "chat.completion", "created": 1, "model": body["model"]}
                reply["choices"] = [choice]
            if usage is not None and status == 200:
                spent = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
                reply["usage"] = spent
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[int, dict[str, Any]], Answer]], StandIn]]:
    """Starts a stand-in and points the provider's address at it."""
    servers: list[ThreadingHTTPServer] = []

    def start(behave: Callable[[int, dict[str, Any]], Answer]) -> StandIn:
        stand_in = StandIn(behave)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(stand_in))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        return stand_in

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def log(answers: list[Any], **columns: list[Any]) -> Outcomes:
    n = len(answers)
    rows = {
        "request_id": [f"r{i}" for i in range(n)],
        "prompt": [f"question {i}" for i in range(n)],
        "candidate": ["acme-large-9"] * n,
        "answer": answers,
    }
    return validate(pd.DataFrame(rows | columns, dtype=object), source="log", format="test")


def grade(table: Outcomes, cache: Path, settings: Judge = SETTINGS, **kw: Any) -> tuple[list[float], Any]:
    arguments: dict[str, Any] = {"budget_usd": 1.0, "price": PRICE, **kw}
    result, account = grade_answers(table, MODEL, cache=cache, settings=settings, **arguments)
    return result.frame["quality"].fillna(-1).tolist(), account


def score_of(body: dict[str, Any]) -> Answer:
    """The score that the answer itself states, so that every grade is known whatever the order."""
    return says(int(json.loads(body["messages"][1]["content"])["answer"][-1]))


def test_grades_become_quality_where_nobody_judged(serve: Any, tmp_path: Path) -> None:
    stand_in = serve(lambda n, body: score_of(body))
    table = log(["is 1", "is 2", "is 3", "is 4", "is 5", "is 5", None, " "], quality=[None] * 5 + [0.1, None, None])
    quality, account = grade(table, tmp_path)
    assert quality == [0.0, 0.25, 0.5, 0.75, 1.0, 0.1, -1, -1]
    assert (account.judged, account.cached, account.left, account.calls) == (5, 0, 0, 5)
    assert account.left_out == {"already judged": 1, "no answer text": 1, "empty answer": 1}
    assert account.spent_usd == pytest.approx(5 * (100 * 1.0 + 10 * 10.0) / 1e6)
    assert stand_in.bodies[0]["max_tokens"] == SETTINGS.max_output_tokens
    assert stand_in.bodies[0]["messages"][0] == {"role": "system", "content": RUBRIC}


def test_the_grader_is_blind_and_its_order_is_random_by_the_seed(serve: Any, tmp_path: Path) -> None:
    stand_in = serve(lambda n, body: says(4))
    messages = [
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yo", "name": "acme-large-9"},
            {"role": "user", "content": "who?"},
        ]
    ]
    answers = ["I am ACME-large-9, version 9 of acme", *(f"answer {i}" for i in range(1, 12))]
    table = log(
        answers,
        messages=messages + [None] * 11,
        candidate=["lab/acme-large-9", "plain"] * 6,
        expected=["ref", *[None] * 11],
    )
    grade(table, tmp_path / "a")
    sent = json.dumps(stand_in.bodies)
    assert "large-9" not in sent.lower()
    assert "plain" not in sent
    first = next(seen for seen in stand_in.seen if "reference" in seen)
    assert first["answer"] == "I am [model], version 9 of acme"
    assert [set(message) for message in first["request"]] == [{"role", "content"}] * 3
    order = [seen["answer"] for seen in stand_in.seen]
    grade(table, tmp_path / "b")
    assert [seen["answer"] for seen in stand_in.seen[12:]] == order != sorted(order)
    grade(table, tmp_path / "c", replace(SETTINGS, seed=1))
    assert [seen["answer"] for seen in stand_in.seen[24:]] != order


def test_what_was_judged_is_not_judged_again_and_equal_answers_once(serve: Any, tmp_path: Path) -> None:
    stand_in = serve(lambda n, body: score_of(body))
    table = log(["is 5", "is 5", "is 2"], prompt=["same", "same", "same"], candidate=["a", "b", "c"])
    assert grade(table, tmp_path)[0] == [1.0, 1.0, 0.25]
    quality, account = grade(table, tmp_path)
    assert len(stand_in.bodies) == 2
    assert quality == [1.0, 1.0, 0.25]
    assert (account.judged, account.cached, account.calls, account.spent_usd) == (0, 3, 0, 0.0)


def test_the_cache_holds_no_text(serve: Any, tmp_path: Path) -> None:
    serve(lambda n, body: says(4))
    grade(log(["canary-answer-7f3a"], prompt=["canary-prompt-91bc"], expected=["canary-expected-55d0"]), tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["judgements.sqlite"]
    assert all(b"canary" not in path.read_bytes() for path in files)


def test_rate_limits_and_faults_are_waited_out(serve: Any, tmp_path: Path) -> None:
    replies = [(429, "", None), (500, "", None), says(5)]
    stand_in = serve(lambda n, body: replies[n - 1])
    quality, account = grade(log(["x"]), tmp_path)
    assert quality == [1.0]
    assert len(stand_in.bodies) == 3
    assert account.spent_usd == pytest.approx(0.0002)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "4",
        "good",
        '{"score": 6}',
        '{"score": 4.5}',
        '{"score": "4"}',
        '{"score": true}',
        '{"score": 4, "x": 1}',
        '```{"score": 4}```',
    ],
)
def test_a_malformed_grade_is_asked_for_again_and_paid(serve: Any, tmp_path: Path, content: str) -> None:
    stand_in = serve(lambda n, body: (200, content, (100, 10)) if n == 1 else says(3))
    quality, account = grade(log(["x"]), tmp_path)
    assert (quality, len(stand_in.bodies)) == ([0.5], 2)
    assert account.spent_usd == pytest.approx(0.0004)


def test_a_grader_that_never_answers_in_form_is_counted(serve: Any, tmp_path: Path) -> None:
    stand_in = serve(lambda n, body: says("high"))
    quality, account = grade(log(["x", "y"]), tmp_path)
    assert (quality, len(stand_in.bodies)) == ([-1, -1], 6)
    assert account.left_out == {"the grader gave no valid grade": 2}
    assert account.spent_usd == pytest.approx(6 * 0.0002)


def most(answer: str = "answer 00") -> float:
    """What one call is reserved for, by hand: a token per byte, 64 for the format, and the longest grade."""
    content = json.dumps({"request": "question 0", "answer": answer})
    tokens = len(RUBRIC.encode()) + len(content) + 64
    return (tokens * 1.0 + SETTINGS.max_output_tokens * 10.0) / 1e6


@pytest.mark.parametrize("parallel", [1, 4])
def test_it_stops_before_the_budget_is_exceeded_and_says_what_is_left(
    serve: Any, tmp_path: Path, parallel: int
) -> None:
    largest = (len(RUBRIC.encode()) + 90, SETTINGS.max_output_tokens)
    stand_in = serve(lambda n, body: says(4, largest))
    table = log([f"answer {i:02}" for i in range(20)], prompt=["question 0"] * 20)
    budget = 3.5 * most()
    settings = replace(SETTINGS, parallel=parallel)
    quality, account = grade(table, tmp_path, settings, budget_usd=budget)
    assert len(stand_in.bodies) == account.calls == account.judged == 3
    assert account.left == quality.count(-1) == 17
    assert 0 < account.spent_usd <= budget
    quality, account = grade(table, tmp_path, settings, budget_usd=budget)  # a run that ended leaves a new budget
    assert (account.judged, account.cached, account.left) == (3, 3, 14)


def test_a_budget_too_small_for_one_call_makes_none(serve: Any, tmp_path: Path) -> None:
    stand_in = serve(lambda n, body: says(4))
    _, account = grade(log(["answer 00"]), tmp_path, budget_usd=most() * 0.99)
    assert (stand_in.bodies, account.left, account.spent_usd) == ([], 1, 0.0)


def test_a_response_without_usage_counts_at_its_most(serve: Any, tmp_path: Path) -> None:
    serve(lambda n, body: says(4, None))
    _, account = grade(log(["answer 00"]), tmp_path)
    assert account.spent_usd == pytest.approx(most())


KILLED = """
import pathlib, sys
from tests.training.quality import test_llm_grader as t
t.grade(t.log([f"answer {i:02}" for i in range(20)]), pathlib.Path(sys.argv[1]))
"""


def test_a_killed_run_is_taken_up_with_what_it_judged_and_spent(serve: Any, tmp_path: Path) -> None:
    killed = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def behave(number: int, body: dict[str, Any]) -> Answer:
        if number == 4:  # the fourth call is under way, and paid, when the run is killed
            running[0].kill()
            running[0].wait()
            killed.set()
        return says(4)

    stand_in = serve(behave)
    running.append(subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=dict(os.environ)))
    assert killed.wait(120)
    quality, account = grade(log([f"answer {i:02}" for i in range(20)]), tmp_path)
    assert quality == [0.75] * 20
    assert (account.cached, account.judged, account.calls) == (3, 17, 17)
    assert len(stand_in.bodies) == 4 + 17
    assert account.spent_usd == pytest.approx(20 * 0.0002 + most("answer 00"), rel=0.01)


def test_an_interrupted_budget_is_not_spent_twice(serve: Any, tmp_path: Path) -> None:
    serve(lambda n, body: says(4))
    grade(log(["warm up"]), tmp_path)
    with sqlite3.connect(tmp_path / "judgements.sqlite") as database:
        database.execute("insert into spending (model, usd, open) values (?, 0.9, 1)", (MODEL,))
    database.close()
    _, account = grade(log(["answer 00"]), tmp_path, budget_usd=0.9 + most() / 2)
    assert (account.calls, account.left, account.spent_usd) == (0, 1, 0.9)


@pytest.mark.parametrize("status", [401, 404])
def test_a_provider_that_refuses_ends_it_at_once_without_quoting_anyone(
    serve: Any, tmp_path: Path, status: int
) -> None:
    stand_in = serve(lambda n, body: (status, "", None))
    with pytest.raises(GraderError, match=rf"\({status}\)\. Check the model's name") as error:
        grade(log(["secret answer", "other"]), tmp_path)
    assert len(stand_in.bodies) == 1
    assert "secret" not in str(error.value)


def test_refused_answers_are_counted_but_not_for_ever(serve: Any, tmp_path: Path) -> None:
    serve(lambda n, body: (400, "", None) if "bad" in body["messages"][1]["content"] else says(4))
    quality, account = grade(log(["bad one", "good one"]), tmp_path)
    assert quality == [-1, 0.75]
    assert account.left_out == {"BadRequestError (400)": 1}
    stand_in = serve(lambda n, body: (400, "", None))
    with pytest.raises(GraderError, match="10 calls in a row failed, the last because BadRequestError"):
        grade(log([f"answer {i}" for i in range(30)]), tmp_path)
    assert len(stand_in.bodies) == 10


def test_a_server_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(GraderError, match="calls in a row failed"):
        grade(log([f"answer {i}" for i in range(12)]), tmp_path, replace(SETTINGS, attempts=1))


def test_the_price_is_the_maps_unless_it_is_given(serve: Any, tmp_path: Path) -> None:
    stand_in = serve(lambda n, body: says(4, (1000, 100)))
    _, account = grade_answers(log(["x"]), "openai/gpt-4o-mini", budget_usd=1, cache=tmp_path, settings=SETTINGS)
    assert account.spent_usd == pytest.approx(1000 * 0.15e-6 + 100 * 0.6e-6)
    for model, message in [
        ("openai/nobody-knows", "no price for it.*--judge-price"),
        ("nobody", "provider is not known"),
    ]:
        with pytest.raises(GraderError, match=message):
            grade_answers(log(["x"]), model, budget_usd=1, cache=tmp_path, settings=SETTINGS)
    with pytest.raises(GraderError, match="above 0"):
        grade(log(["x"]), tmp_path, budget_usd=0)
    assert len(stand_in.bodies) == 1


def test_prices_are_read() -> None:
    assert parse_price("0.15:0.6") == Price(0.15, 0.6)
    for text in ("1", "1:2:3", "a:b", "-1:2", "inf:1"):
        with pytest.raises(GraderError, match="expected INPUT:OUTPUT"):
            parse_price(text)


OFFLINE = """
import socket
def refuse(*a, **k):
    raise AssertionError("a network call at import")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from training.quality.llm_prices import quiet_litellm
litellm = quiet_litellm()
print(litellm.telemetry, len(litellm.model_cost) > 500)
"""


def test_the_import_asks_nobody() -> None:
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "False"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["False", "True"]), done.stderr
