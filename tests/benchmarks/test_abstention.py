"""Abstaining to the reference: for prompts unlike the training prompts, and where confidence is low."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulated.abstention import abstention_figures
from serving.bundle.manifest import Bundle, Novelty
from serving.bundle.request import RouteRequest
from serving.decide.decision import Reason, Situation
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests import fake_bundle
from tests.conftest import Trained
from tests.fake_bundle import LARGE, OPEN, SMALL
from training.simulation.simulate import simulate


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    """The fake bundle: its cluster centres are its words, so a text of one word has novelty 0 and of four .5."""
    loaded = Router.load(fake_bundle.build(tmp_path_factory.mktemp("models")))
    novelty = Novelty(threshold=0.4, shares=loaded.manifest.novelty.shares)
    return Router(Bundle(loaded.bundle.folder, loaded.manifest.model_copy(update={"novelty": novelty})))


CHEAP = Policy(knob=1000.0)
FOUR = "hello world sum two"


def test_novelty_by_hand(router: Router) -> None:
    one, four = router.route("hello", CHEAP), router.route(FOUR, CHEAP)
    assert (one.novelty, one.cluster) == (pytest.approx(0.0, abs=1e-6), fake_bundle.WORDS.index("hello"))
    assert four.novelty == pytest.approx(1 - 1 / np.sqrt(4))


def test_a_novel_prompt_goes_to_the_reference(router: Router) -> None:
    assert (router.route("hello", CHEAP).candidate, router.route("hello", CHEAP).reason) == (SMALL, Reason.BEST_VALUE)
    novel = router.route(FOUR, CHEAP)
    assert (novel.candidate, novel.reason, novel.fallbacks) == (LARGE, Reason.NOVEL, (SMALL, OPEN))


def test_a_novel_prompt_goes_elsewhere_when_the_reference_is_ruled_out(router: Router) -> None:
    decision = router.route(FOUR, Policy(knob=1000.0, deny=(LARGE,)))
    assert (decision.candidate, decision.reason) == (SMALL, Reason.BEST_VALUE)


def test_a_novel_prompt_leaves_a_conversation_s_candidate_and_is_not_explored_with(router: Router) -> None:
    situation = Situation(session=SMALL, session_margin=1.0, explore=0.2, draw=0.0)
    decision = router.route(FOUR, CHEAP, situation)
    assert (decision.candidate, decision.reason, decision.propensity) == (LARGE, Reason.NOVEL, 1.0)


def test_low_confidence_goes_to_the_reference_if_that_is_surer(router: Router) -> None:
    # SMALL's P is .7311 on "hello"; in the workflow "hard" .1192, the reference's .9707.
    assert router.route("hello", Policy(knob=1000.0, abstain_below=0.7)).candidate == SMALL
    unsure = router.route("hello", Policy(knob=1000.0, abstain_below=0.75))
    assert (unsure.candidate, unsure.reason) == (LARGE, Reason.LOW_CONFIDENCE)
    hard = RouteRequest("hello", workflow="hard")
    assert router.route(hard, CHEAP).candidate == SMALL
    assert router.route(hard, Policy(knob=1000.0, abstain_below=0.2)).reason is Reason.LOW_CONFIDENCE


def test_what_is_the_reference_s_anyway_is_no_abstention(router: Router) -> None:
    decision = router.route(FOUR, Policy(knob=0.0, abstain_below=1.0))
    assert (decision.candidate, decision.reason) == (LARGE, Reason.BEST_VALUE)


STRANGE = [
    "xq zvw kjj ptlk qqqq wzzx brrf",
    "ᛒᛖᛟᚹᚢᛚᚠ ᚻᚹᚫᛏ ᚹᛖ ᚷᚪᚱᛞᛖᚾᚪ",
    "0x7f3a 0x11 0xdead 0xbeef 0x00 0x00 0xff",
    "♜♞♝♛♚♝♞♜ ♟♟♟♟♟♟♟♟",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Ngiyabonga kakhulu ngosizo lwakho mngani wami omuhle",
]


def test_a_trained_bundle_finds_strange_text_stranger_than_its_traffic(trained: Trained) -> None:
    router = Router.load(trained.bundle)
    candidates = list(router.manifest.candidates)
    figures = abstention_figures(router, simulate(candidates, requests=800, seed=301))
    # The threshold leaves .5% of the calibration prompts out; other days of the same traffic are much like them.
    assert figures["novel_share"] < 0.03
    # What abstains goes to the reference, which is hardly worse there.
    assert figures["quality_change"] > -0.005
    strange = [router.route(text, Policy(knob=1e6)) for text in STRANGE]
    ordinary = [router.route(text, Policy(knob=1e6)) for text in ("List all customers in SQL.", "Translate: hello")]
    assert np.median([one.novelty for one in strange]) > max(one.novelty or 0.0 for one in ordinary)
    assert sum(one.reason is Reason.NOVEL for one in strange) >= 4
