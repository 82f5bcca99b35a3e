"""Nothing in a body fails a decision or holds up the others: it is decided, or it is a 422."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.api.documents import BatchResponse, RouteResponse
from tests.serving.attacks.conftest import Attacked, running

HUGE = "9" * 30
LONGEST_STALL = 0.05


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with running(bundle, tmp_path_factory.mktemp("bodies")) as service:
        yield service


def nested(levels: int, kind: str = "[]") -> str:
    opened = "[" if kind == "[]" else '{"a":'
    return opened * levels + "1" + kind[1] * levels


NUMBERS = {
    "ignored": f'{{"prompt": "hello", "seed": {HUGE}}}',
    "in a message": f'{{"messages": [{{"role": "user", "content": "hello", "at": {HUGE}}}]}}',
    "in a part": f'{{"messages": [{{"content": [{{"type": "text", "text": "hello", "at": -{HUGE}}}]}}]}}',
    "in a tool": f'{{"prompt": "hello", "tools": [{{"type": "function", "function": {{"x": {HUGE}}}}}]}}',
    "of 5,000 digits": '{"messages": [{"content": "hello", "at": %s}]}' % ("9" * 5_000),
    "infinite": '{"messages": [{"content": "hello", "at": 1e999, "or": NaN}]}',
}
TEXTS = {
    "a lone surrogate": '{"prompt": "\\ud800"}',
    "one in a message": '{"messages": [{"role": "\\udc00", "content": "\\ud83d", "\\ud800": "\\ud800"}]}',
    "one in the tags": '{"prompt": "hello", "workflow": "\\ud800", "session_id": "\\udfff"}',
    "nothing but them": '{"prompt": "%s"}' % ("\\ud800" * 300_000),
    "nothing but escapes": '{"prompt": "%s"}' % ("\\\\" * 1_000_000),
    "a zero": '{"prompt": "\\u0000", "workflow": "\\u0000", "session_id": "\\u0000"}',
    "long": json.dumps({"prompt": "word " * 30_000}),
    "too long": json.dumps({"prompt": "word " * 700_000}),
    "not Latin": json.dumps({"prompt": "世界" * 500_000}, ensure_ascii=False),
    "without a space": json.dumps({"prompt": "x" * 4_000_000}),
    "nothing but commas": json.dumps({"prompt": '",' * 1_000_000}),
}
SHAPES = {
    **{f"nested {n} deep": f'{{"prompt": "hello", "other": {nested(n)}}}' for n in (10, 100, 150, 1_000, 100_000)},
    **{
        f"objects {n} deep": f'{{"messages": [{{"content": "hello", "x": {nested(n, "{}")}}}]}}'
        for n in (10, 100, 1_000)
    },
    "100,000 empty messages": json.dumps({"messages": [{}] * 100_000}),
    "10,000 empty messages": json.dumps({"messages": [{}] * 10_000}, separators=(",", ":")),
    "many parts": json.dumps({"messages": [{"content": [""] * 1_000}] * 15}),
    "numbers": '{"prompt": "hello", "other": [%s1]}' % ("1," * 2_000_000),
    "numbers in a message": '{"messages": [{"content": "hello", "x": [%s1]}]}' % ("1," * 2_000_000),
    "as many numbers as may be": '{"messages": [{"content": "hello", "x": [%s1]}]}' % ("1," * 19_900),
    "as many objects as may be": '{"messages": [{"content": "hello", "x": [%s1]}]}' % ("{}," * 9_900),
    "tools": json.dumps({"prompt": "hello", "tools": [{"a": {}}] * 100_000}),
    "globs": json.dumps({"prompt": "hello", "deny": [f"{n:03d}" + "?*[!x]" * 20 for n in range(64)]}),
    "too many globs": json.dumps({"prompt": "hello", "deny": [f"{n:03d}" + "?*" * 100 for n in range(512)]}),
    "an image": json.dumps({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "A" * 3_000_000}}]}]}),
}
LONG_NUMBERS = ",".join(["9" * 4_300] * 900)
SHAPES |= {
    "long numbers in a tool": f'{{"prompt": "hello", "tools": [{{"a": [{LONG_NUMBERS}]}}]}}',
    "long numbers in a part": f'{{"messages": [{{"content": [{{"type": "image", "x": [{LONG_NUMBERS}]}}]}}]}}',
}
BODIES = NUMBERS | TEXTS | SHAPES


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_it_is_decided_or_refused_and_holds_up_nobody(service: Attacked, body: str) -> None:
    content = body.encode()
    worst = []
    for _ in range(5):  # what else goes on here may hold up one of them, and not each
        with service.ticking() as stall:
            answer = service.post("/v1/route", content)
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 200:
            RouteResponse.model_validate_json(answer.content)
        worst.append(stall.worst)
        if stall.worst < LONGEST_STALL:
            return
    pytest.fail(f"the event loop was held up for {min(worst) * 1e3:.0f} ms")


@pytest.mark.parametrize("body", (NUMBERS | TEXTS).values(), ids=NUMBERS | TEXTS)
def test_one_of_a_batch_fails_no_other(service: Attacked, body: str) -> None:
    good = '{"prompt": "hello"}'
    answer = service.post("/v1/route/batch", f'{{"requests": [{good}, {body}, {good}]}}'.encode())
    if answer.status_code == 422:
        return  # it is no JSON that can be read, or refused as too much
    assert answer.status_code == 200, answer.text
    first, second, third = BatchResponse.model_validate_json(answer.content).results
    assert isinstance(first, RouteResponse)
    assert isinstance(third, RouteResponse)
    assert isinstance(second, RouteResponse) or second.status == 422


def test_a_huge_number_in_what_is_ignored_is_no_fault(service: Attacked) -> None:
    for name in ("ignored", "in a message", "in a part", "in a tool"):
        answer = service.post("/v1/route", NUMBERS[name].encode())
        assert (answer.status_code, answer.json()["reason"]) == (200, "best_value")


def test_a_large_body_is_decided_as_a_small_one_is(service: Attacked) -> None:
    body = {"prompt": "hello", "workflow": "easy", "quality_target": 0.8}
    small, large = service.route(**body), service.route(**body, other=" " * 100_000)
    assert large == {**small, "id": large["id"]}
