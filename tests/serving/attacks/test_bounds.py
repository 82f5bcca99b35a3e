"""Bounded everything: what a client may send is limited before it costs anything, and the answer that says so is short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.attacks.conftest import Attacked, key_rules, running

MB = 1_000_000
RULES = key_rules("slow", "slow", 'rate = "10/hour"') + key_rules("batch", "batch", 'rate = "10/hour"')
RULES += key_rules("judge", "judge", 'rate = "10/hour"') + key_rules("free", "free")


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with running(bundle, tmp_path_factory.mktemp("bounds"), rules=RULES) as service:
        yield service


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/route", b'{"messages": [' + b"1," * 500_000 + b"1]}"),
        ("/v1/route", b'{"messages": [' + b"1," * 9_000 + b"1]}"),
        ("/v1/route", b'{"messages": [{"content": [' + b"1," * 900 + b"1]}]}"),
        ("/v1/route", b'{"prompt": "a", "tools": [' + b"1," * 1_000 + b"1]}"),
        ("/v1/route", b'{"prompt": "a", "privacy": {' + b",".join(b'"%d": 1' % one for one in range(9_000)) + b"}}"),
        ("/v1/route", b'{"prompt": "a", "privacy": {"' + b"k" * MB + b'": 1}}'),
        ("/v1/route/batch", b'{"requests": [' + b"{}," * 300_000 + b"{}]}"),
        ("/v1/route/batch", b'{"requests": [' + b"{}," * 200 + b"{}]}"),
        ("/v1/feedback", b'{"feedback": [' + b"{}," * 300_000 + b"{}]}"),
        ("/v1/feedback", b'{"decision_id": "a", ' + b",".join(b'"%d": 1' % one for one in range(9_000)) + b"}"),
    ],
    ids=[
        "items",
        "some",
        "parts",
        "tools",
        "fields",
        "name",
        "requests",
        "some requests",
        "feedback",
        "feedback's fields",
    ],
)
def test_a_body_of_nothing_but_errors_gets_a_short_answer(service: Attacked, path: str, body: bytes) -> None:
    answer = service.post(path, body, "free")
    assert answer.status_code == 422
    assert 1 <= len(answer.json()["errors"]) <= 20
    assert len(answer.content) < 8_192


@pytest.mark.parametrize("field", ["workflow", "session_id"])
def test_what_is_kept_of_a_client_has_a_length(service: Attacked, field: str) -> None:
    before = service.memory()
    for number in range(100):
        assert service.post("/v1/route", {"prompt": "hello", field: f"{number}" * MB}, "free").status_code == 422
    assert service.memory() - before < 50 * MB


def test_globs_that_are_all_new_cost_no_memory(service: Attacked) -> None:
    def body(number: int) -> dict[str, object]:
        return {"prompt": "hello", "deny": [f"{number}-{place}-{'?*[!x]' * 18}" for place in range(64)]}

    service.route("free", **body(0))
    before = service.memory()
    for number in range(1, 100):
        service.route("free", **body(number))
    assert service.memory() - before < 50 * MB


def test_a_batch_larger_than_the_rate_is_refused_for_good_and_says_so(service: Attacked) -> None:
    body = {"requests": [{"prompt": "hello"}] * 11}
    answer = service.post("/v1/route/batch", body, "slow")
    assert answer.status_code == 422
    assert "11 arrived together, and the key's rate is 10 in 3600 s" in answer.json()["detail"]
    assert [one["field"] for one in answer.json()["errors"]] == ["requests"]


def test_a_batch_that_does_not_fit_now_takes_nothing(service: Attacked) -> None:
    assert service.post("/v1/route/batch", {"requests": [{"prompt": "hello"}] * 3}, "batch").status_code == 200
    for _ in range(5):
        answer = service.post("/v1/route/batch", {"requests": [{"prompt": "hello"}] * 8}, "batch")
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert service.post("/v1/route/batch", {"requests": [{"prompt": "hello"}] * 7}, "batch").status_code == 200
    assert service.post("/v1/route", {"prompt": "hello"}, "batch").status_code == 429


def test_feedback_counts_as_routes_do(service: Attacked) -> None:
    said = [{"decision_id": service.route("judge", prompt="hello")["id"]} for _ in range(4)]
    answer = service.post("/v1/feedback", {"feedback": said * 3}, "judge")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "feedback")
    assert service.post("/v1/feedback", {"feedback": [*said, *said[:1]]}, "judge").status_code == 200
    assert service.post("/v1/feedback", said[0], "judge").status_code == 429
