"""After a time-out every hard rule still holds: limits mean something, budgets are kept to, the cheapest that fits is used."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.attacks.conftest import Attack, Attacked

# Too long for the event loop to embed, and the time to wait for the embedding of it is no time.
LONG = "hello world sum of two " * 1_500
NO_TIME = 0.01


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundle with windows that hold a long prompt, of some 13,000 counted tokens."""
    candidates = tuple(one.model_copy(update={"context_window": 200_000}) for one in fake_bundle.CANDIDATES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_bundle, "CANDIDATES", candidates)
        patch.setattr(fake_bundle, "MAX_TOKENS", 100_000)  # so that all of a prompt is embedded, which takes a while
        yield fake_bundle.build(tmp_path_factory.mktemp("wide"))


_NUMBERS = count()


def hasty(service: Attacked, **asked: Any) -> dict[str, Any]:
    """The decision on a long prompt that nobody has sent before, which took too long to embed."""
    for _ in range(50):  # an embedding may be done all the same, if the event loop was held up
        answer = service.route(prompt=f"{next(_NUMBERS)} {LONG}", **asked)
        if answer["reason"] == "timeout":
            assert answer["confidence"] is None
            return answer
    pytest.fail("fifty in a row were embedded in no time")


def test_after_a_time_out_the_limits_mean_something(attacked: Attack, wide: Path) -> None:
    service = attacked(bundle=wide, embed_wait_ms=NO_TIME, rules="[default]\nmax_latency_ms = 5000\n")
    for _ in range(5):
        answer = hasty(service)  # a 422 where nothing was known of latency
        assert answer["model"] == LARGE
        seen = {one["model"]: one for one in answer["candidates"]}
        assert seen[LARGE]["expected_latency_p95_ms"] <= 5000
        assert seen[OPEN]["ruled_out"] == "max_latency_ms"
        assert answer["expected_cost_usd"] > 0.05, "some 13,000 tokens at $5 a million, and an answer as long as usual"
    for _ in range(5):
        answer = hasty(service, max_cost_usd=0.01)
        assert answer["model"] == SMALL
        assert answer["expected_cost_usd"] <= 0.01
    refused = service.post("/v1/route", {"prompt": f"{next(_NUMBERS)} {LONG}", "max_cost_usd": 0.0001})
    assert refused.status_code == 422


def test_after_a_time_out_the_cheapest_that_fits_is_used_and_nothing_beyond_a_budget(
    attacked: Attack, wide: Path, tmp_path: Path
) -> None:
    rules = '[default.budget]\nday_usd = 0.2\nat_limit = "reject"\n'
    for budget in range(50):  # an embedding may be done all the same, if the event loop was held up
        service = attacked(bundle=wide, embed_wait_ms=NO_TIME, rules=rules, store=tmp_path / f"budget-{budget}.db")
        answers = until_spent(service)
        spent = sum(answer["expected_cost_usd"] for answer in answers)
        assert spent <= 0.2
        (line,) = (one for one in service.get("/v1/budgets").json()["budgets"] if one["period"] == "day")
        assert line["reserved_usd"] + line["spent_usd"] == pytest.approx(spent)
        if {answer["reason"] for answer in answers} == {"timeout"}:
            break
    else:
        pytest.fail("in each of fifty budgets some prompt was embedded in no time")
    chosen = [answer["model"] for answer in answers]
    assert chosen[0] == LARGE, "the reference, while the budget holds it"
    assert chosen[-1] == SMALL
    assert chosen == sorted(chosen), "the reference first, then the cheapest"  # acme/large before acme/small


def until_spent(service: Attacked) -> list[dict[str, Any]]:
    """The decisions on long prompts, as many as the budget holds."""
    answers = []
    for _ in range(60):
        response = service.post("/v1/route", {"prompt": f"{next(_NUMBERS)} {LONG}"})
        if response.status_code == 402:
            return answers
        answers.append(response.json())
    pytest.fail("the budget never ended")
