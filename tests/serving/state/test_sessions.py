"""Conversations keep their candidate, unless a rule or a clear gain says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.manifest import Bundle
from serving.bundle.request import RouteRequest
from serving.decide.decision import Reason, Situation
from serving.decide.eligibility import Rule
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state.sessions import Marks, Read, Session, Sessions, derived_id, given_id, goes_on
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def router(folder: Path) -> Router:
    return Router.load(folder)


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    service = Service(Settings(bundle=str(folder), store=None))
    yield service
    service.close()


def on(candidate: str, margin: float = 0.03, tokens: float = 0.0) -> Situation:
    return Situation(session=candidate, session_margin=margin, cached={candidate: tokens})


# On "hello" P is .7311, .8808, .9820 and the cost $.0000402, .001, .0060: at knob 20 OPEN is worth .8608, LARGE .8619.
BALANCED = Policy(knob=20.0)


def test_a_conversation_stays_while_little_is_to_be_gained(router: Router) -> None:
    assert router.route("hello", BALANCED).candidate == LARGE
    kept = router.route("hello", BALANCED, on(OPEN))
    assert (kept.candidate, kept.reason, kept.fallbacks[0]) == (OPEN, Reason.SESSION, LARGE)
    assert kept.certificate is None


def test_a_conversation_moves_for_a_clear_gain(router: Router) -> None:
    assert router.route("hello", BALANCED, on(SMALL)).candidate == LARGE  # .8619 against .7303
    assert router.route("hello", BALANCED, on(SMALL, margin=0.14)).candidate == SMALL
    moved = router.route("hello", BALANCED, on(OPEN, margin=0.001))
    assert (moved.candidate, moved.reason) == (LARGE, Reason.BEST_VALUE)


def test_a_constraint_moves_a_conversation(router: Router) -> None:
    policy = Policy(knob=20.0, deny=(OPEN,))
    assert router.route("hello", policy, on(OPEN, margin=1.0)).candidate == LARGE


def test_at_an_infinite_knob_only_a_lower_cost_moves_it(router: Router) -> None:
    assert router.route("hello", Policy(knob=inf), on(OPEN, margin=1.0)).candidate == SMALL
    assert router.route("hello", Policy(knob=inf), on(SMALL)).candidate == SMALL


def test_a_session_on_a_candidate_that_is_gone_is_free(router: Router) -> None:
    assert router.route("hello", BALANCED, on("acme/retired")).candidate == LARGE


def test_the_cached_part_is_priced_at_the_cache_read_price(router: Router) -> None:
    def with_prices(**prices: float) -> Router:
        cached = tuple(
            c.model_copy(update=prices) if c.name == LARGE else c.model_copy() for c in router.manifest.candidates
        )
        return Router(Bundle(router.bundle.folder, router.manifest.model_copy(update={"candidates": cached})))

    prompt = "hello world " * 200  # 760 tokens, at $5 a million, $.5 from the cache
    written = 300 * 20e-6

    def cost(reading: Router, tokens: float, session: str = LARGE) -> float:
        decision = reading.route(prompt, BALANCED, on(session, tokens=tokens))
        return next(one.expected_cost_usd or 0.0 for one in decision.alternatives if one.candidate == LARGE)

    read_price = with_prices(cache_read_usd_per_mtok=0.5)
    assert cost(read_price, 0.0) == pytest.approx(760 * 5e-6 + written, rel=1e-4)
    assert cost(read_price, 400.0) == pytest.approx(360 * 5e-6 + 400 * 0.5e-6 + written, rel=1e-4)
    assert cost(read_price, 10_000.0) == pytest.approx(760 * 0.5e-6 + written, rel=1e-4)  # never more than the prompt
    assert cost(read_price, 400.0, session=OPEN) == cost(read_price, 0.0)
    assert cost(router, 400.0) == pytest.approx(760 * 5e-6 + written, rel=1e-4)  # no cache-read price known
    too_short = with_prices(cache_read_usd_per_mtok=0.5, cache_minimum_tokens=500)
    assert cost(too_short, 400.0) == cost(router, 400.0)
    assert cost(too_short, 600.0) == pytest.approx(160 * 5e-6 + 600 * 0.5e-6 + written, rel=1e-4)
    surcharge = with_prices(cache_read_usd_per_mtok=0.5, cache_write_usd_per_mtok=6.25)
    assert cost(surcharge, 400.0) == pytest.approx(360 * 6.25e-6 + 400 * 0.5e-6 + written, rel=1e-4)
    outside = surcharge.route(prompt, BALANCED).alternatives[2].expected_cost_usd
    assert outside == pytest.approx(760 * 5e-6 + written, rel=1e-4)  # nothing is cached outside of a conversation
    # Where writing to the cache makes it dearer than a limit, it is over that limit; a cache's discount admits nobody.
    for factor, tokens, rule in ((1.01, 0.0, Rule.MAX_COST), (0.99, 400.0, Rule.MAX_COST), (1.2, 0.0, None)):
        limited = Policy(knob=20.0, max_cost_usd=factor * outside)
        assert surcharge.route(prompt, limited, on(LARGE, tokens=tokens)).alternatives[2].ruled_out is rule


KEY = b"k" * 32


def test_sessions_are_forgotten_in_time_and_bounded_in_bytes() -> None:
    now = 0.0
    marks = Marks.of(KEY, b"hello")
    sessions = Sessions(2_500, 60.0, lambda: now)
    for name in ("a", "b", "c"):
        sessions.put(name, OPEN, now, marks)
    assert sessions.bytes <= 2_500
    assert (sessions.get("a"), len(sessions)) == (None, 2)
    assert sessions.get("c") == Session(OPEN, 0.0, (Read(OPEN, marks, 0.0),))
    sessions.put("huge", OPEN, now, Marks(10, bytes(10_000)))
    assert (sessions.get("huge"), len(sessions)) == (None, 2)
    now = 59.0
    assert sessions.get("c") is not None
    now = 60.5
    assert (sessions.get("c"), len(sessions)) == (None, 0)


def test_a_later_word_counts_and_ones_own_before_anothers() -> None:
    sessions, marks = Sessions(100_000, 60.0, lambda: 10.0), Marks.of(KEY, b"hello")
    sessions.put("a", OPEN, 5.0, marks)
    sessions.heard("a", LARGE, 4.0, marks)
    sessions.heard("a", LARGE, 5.0, marks)
    assert sessions.get("a") == Session(OPEN, 5.0, (Read(OPEN, marks, 5.0),))
    sessions.heard("a", LARGE, 6.0, marks)
    assert sessions.get("a") == Session(LARGE, 6.0, (Read(LARGE, marks, 6.0), Read(OPEN, marks, 5.0)))
    for number, name in enumerate((SMALL, OPEN, "d", "e")):
        sessions.put("a", name, 7.0 + number, marks)
    known = sessions.get("a")
    assert known is not None
    assert [one.candidate for one in known.read] == ["e", "d", OPEN]


@given(st.binary(max_size=3_000), st.binary(max_size=3_000), st.binary(max_size=3_000))
def test_what_two_prompts_have_in_common_is_never_overstated(begins: bytes, one: bytes, other: bytes) -> None:
    first, second = begins + one, begins + other
    common = Marks.of(KEY, first).common(KEY, second)
    assert first[:common] == second[:common]
    longer = Marks.of(KEY, begins).common(KEY, second)
    assert longer == len(begins), "what only went on has all of it in common"


def test_the_beginning_of_long_prompts_is_told_within_a_sixteenth_and_in_few_marks() -> None:
    text = bytes(range(256)) * 16_384  # 4 MB
    marks = Marks.of(KEY, text)
    assert len(marks.packed()) < 2_000
    assert Marks.unpacked(marks.packed()) == marks
    for differs in (100_000, 1_000_000, 4_000_000):
        common = marks.common(KEY, text[:differs] + b"!" + text[differs + 1 :])
        assert 15 / 16 * differs - 512 <= common <= differs
    assert marks.common(KEY, b"!" + text) == 0
    assert marks.common(b"another key", text) == 0


def test_a_conversation_is_told_by_how_it_begins() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    later = [*turns, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]
    known = derived_id(KEY, "bot", turns, None)
    assert known == derived_id(KEY, "bot", later, None)
    others = [
        derived_id(KEY, "other", turns, None),
        derived_id(KEY, "bot", turns, [{"name": "search"}]),
        derived_id(KEY, "bot", [{"role": "system", "content": "Be long."}, turns[1]], None),
        derived_id(KEY, "bot", [turns[0], {"role": "user", "content": "hello!"}], None),
        derived_id(b"another key", "bot", turns, None),
    ]
    assert len({known, *others}) == 6
    assert derived_id(KEY, "bot", turns[:1], None) is None
    assert (goes_on(turns), goes_on(later)) == (False, True)
    assert given_id(KEY, "bot", "s") != given_id(KEY, "other", "s")
    assert derived_id(KEY, None, [{"role": "user", "content": ["\ud800", 10**400]}], None)


def case_of(service: Service, session: str | None, key: str | None = None, **policy: Any) -> Any:
    return service.case(RouteRequest("hello", session_id=session), Policy(**policy), key)


def decided(service: Service, session: str | None, **policy: Any) -> Any:
    serving = service.live.current
    return service.decide(case_of(service, session, **policy), serving, serving.embed("hello"), 0.0)[1]


def test_the_service_remembers_where_a_conversation_is(service: Service) -> None:
    assert decided(service, "one", knob=20.0, deny=(LARGE,)).candidate == OPEN
    assert decided(service, "one", knob=20.0).candidate == OPEN
    assert decided(service, "two", knob=20.0).candidate == LARGE
    assert decided(service, None, knob=20.0).candidate == LARGE
    case = case_of(service, "one")
    before = service.conversations.before(case.session, case.request, service.live.current.router.manifest.candidates)
    assert (before.candidate, before.cached[OPEN]) == (OPEN, 2.0)  # five common letters
    assert decided(service, "one", knob=20.0, deny=(OPEN,)).candidate == LARGE
    assert decided(service, "one", knob=20.0).candidate == LARGE


def test_a_decision_made_in_haste_does_not_move_a_conversation(service: Service) -> None:
    assert decided(service, "one", knob=20.0, deny=(LARGE,)).candidate == OPEN
    _, hasty = service._without_estimates(case_of(service, "one"), service.live.current, Reason.TIMEOUT, 0.0)
    assert hasty.candidate == LARGE
    assert decided(service, "one", knob=20.0).candidate == OPEN
