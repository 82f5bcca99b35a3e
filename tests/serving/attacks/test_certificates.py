"""A certificate is claimed for the certified policy's own choice alone, and what is explored was paid for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.bundle.manifest import OperatingPoint
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.attacks.conftest import Attack, Attacked, running

SHARE = 0.05
LONG = "hello " * 800  # 1,360 counted tokens
_PROOF = fake_bundle.certificate(alpha=0.3)
_POINT = OperatingPoint(
    name="q0.7", quality_target=0.7, knob=1000.0, calibration_requests=100, certificate=_PROOF, explore=SHARE
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A certified point at knob 1,000, where "hello" goes to SMALL (.69) before OPEN (-.12), a long one to OPEN.

    SMALL's input is dear, $5 a million, and costs nothing from its cache.
    """
    small = fake_bundle.CANDIDATES[0].model_copy(
        update={"input_usd_per_mtok": 5.0, "cache_read_usd_per_mtok": 0.0, "cache_seconds": 3600.0}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_bundle, "CANDIDATES", (small, *fake_bundle.CANDIDATES[1:]))
        patch.setattr(fake_bundle, "POINTS", (*fake_bundle.POINTS, _POINT))
        folder = tmp_path_factory.mktemp("certified")
        with running(fake_bundle.build(folder / "models"), folder, explore=0.2) as started:
            yield started


def certified(service: Attacked, **body: Any) -> tuple[str, bool]:
    """The model of a decision that was not explored, and whether it has a certificate."""
    while True:
        answer = service.route(**{"quality_target": 0.7, **body})
        if answer["reason"] != "explore":
            return answer["model"], answer["certificate"] is not None
        assert answer["certificate"] is None


def test_a_workflow_that_nothing_was_certified_on_has_no_certificate(service: Attacked) -> None:
    assert certified(service, prompt="hello") == (SMALL, True)
    assert certified(service, prompt="hello", workflow="easy") == (SMALL, True)
    assert certified(service, prompt="hello", workflow="Easy") == (SMALL, False)
    assert certified(service, prompt="hello", workflow="unheard of") == (SMALL, False)
    assert certified(service, prompt="hello", workflow="unheard of", allow=[LARGE]) == (LARGE, True)


def test_a_choice_that_a_conversation_s_cache_made_has_no_certificate(service: Attacked) -> None:
    assert certified(service, prompt=LONG) == (OPEN, True)
    for number in range(20):
        session = f"session-{number}"
        assert certified(service, prompt=LONG, session_id=session, allow=[SMALL]) == (SMALL, False)
        answer = service.route(prompt=LONG, session_id=session, quality_target=0.7)
        if answer["reason"] != "explore":
            assert (answer["model"], answer["certificate"]) == (SMALL, None)
            return
    pytest.fail("twenty in a row were explored")


def test_no_more_is_explored_than_was_set_aside_and_nothing_of_it_is_certified(service: Attacked) -> None:
    """The bound leaves .28 of alpha, and .2 is asked for; .05 was set aside."""
    body = {"requests": [{"prompt": "hello", "quality_target": 0.7}] * 200}
    answers = [one for _ in range(3) for one in service.post("/v1/route/batch", body).json()["results"]]
    explored = [one for one in answers if one["reason"] == "explore"]
    assert 0 < len(explored) < 70  # 30 are expected; at .2 it would be 120
    assert {one["certificate"] is None for one in explored} == {True}
    assert {one["certificate"] is None for one in answers if one["reason"] != "explore"} == {False}


def test_nothing_is_explored_where_the_reference_always_answers(service: Attacked) -> None:
    body = {"requests": [{"prompt": "hello", "quality_target": 0.99}] * 100}
    assert {one["model"] for one in service.post("/v1/route/batch", body).json()["results"]} == {LARGE}


def test_under_a_pace_nobody_is_chosen_whom_another_beats_in_both(
    attacked: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMALL is surer than LARGE, the reference, and cheaper; a budget so small is paced from the first request on."""
    monkeypatch.setattr(fake_bundle, "BASE", (5.0, 2.0, 4.0))
    rules = '[default.budget]\nday_usd = 1.0\nat_limit = "cheapest"\npacing = true\n'
    service = attacked(bundle=fake_bundle.build(tmp_path / "models"), rules=rules)
    paced = 0
    for _ in range(40):
        answer = service.route(prompt="hello", quality_target=0.99)
        if answer["knob"] > 0:
            paced += 1
            assert answer["model"] == SMALL
    assert paced
