"""What a trained router must do whatever it learned: invariances and directions."""

from __future__ import annotations

import numpy as np
import pytest

from serving.bundle.manifest import Bundle
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.decide.value import Setting, choose
from tests.conftest import Trained

PROMPTS = [
    ("translation", "Translate to French: good morning"),
    ("sql", "Write a query that lists all customers."),
    ("maths", "Prove that there are infinitely many primes congruent to 3 mod 4."),
    ("json-extraction", "Extract the name and the date from this invoice as JSON."),
    ("creative-writing", "Write a short poem about the sea."),
    ("support-triage", "My invoice shows the wrong address, please fix it."),
]


@pytest.fixture(scope="module")
def router(trained: Trained) -> Router:
    return Router.load(trained.bundle)


def test_case_and_white_space_flip_no_choice_but_one_between_equals(router: Router) -> None:
    point = router.operating_point(Policy())
    assert point is not None
    setting, flips = Setting.of(router.manifest, point), 0
    for workflow, prompt in PROMPTS:
        asked = [prompt, "  " + prompt.replace(" ", "  ") + "\n", prompt.lower()]
        plain, *reworded = (router.route(RouteRequest(prompt=one, workflow=workflow)).candidate for one in asked)
        estimates = router.estimate([RouteRequest(prompt=prompt, workflow=workflow)])
        worth = (
            setting.worth(estimates.acceptable, estimates.violation).astype(np.float64)
            - setting.knob * estimates.cost_usd
        )
        for other in reworded:
            flips += other != plain
            lost = worth[0, router.candidates.index(plain)] - worth[0, router.candidates.index(other)]
            assert lost < 0.02, f"{plain} or {other} for {prompt!r}"
    assert flips <= 1


def test_raising_a_price_never_raises_a_share(router: Router) -> None:
    requests = [RouteRequest(prompt=prompt, workflow=workflow) for workflow, prompt in PROMPTS]
    estimates = router.estimate(requests)
    for knob in router.manifest.knobs[:: max(1, len(router.manifest.knobs) // 10)]:
        before = choose(estimates.acceptable, estimates.cost_usd, knob)
        for column in range(len(router.candidates)):
            dearer = estimates.cost_usd.copy()
            dearer[:, column] *= 3
            after = choose(estimates.acceptable, dearer, knob)
            assert (after == column).sum() <= (before == column).sum()


def test_a_changed_price_changes_the_expected_cost_without_training(router: Router) -> None:
    manifest = router.manifest
    doubled = tuple(
        c.model_copy(
            update={"input_usd_per_mtok": 2 * c.input_usd_per_mtok, "output_usd_per_mtok": 2 * c.output_usd_per_mtok}
        )
        for c in manifest.candidates
    )
    dearer = Router(Bundle(router.bundle.folder, manifest.model_copy(update={"candidates": doubled})))
    prompts = [prompt for _, prompt in PROMPTS]
    np.testing.assert_allclose(dearer.estimate(prompts).cost_usd, 2 * router.estimate(prompts).cost_usd, rtol=1e-5)


def test_the_same_over_and_over_never_costs_less(router: Router) -> None:
    for workflow, prompt in PROMPTS:
        requests = [RouteRequest(prompt=(prompt + "\n") * 2**n, workflow=workflow) for n in range(13)]
        cost = router.estimate(requests).cost_usd
        # a prompt that is cut for embedding is not embedded exactly as before
        assert (cost[1:] >= 0.999 * cost[:-1]).all()


def test_a_harder_prompt_has_a_lower_chance_with_the_cheapest(router: Router) -> None:
    cheapest = int(router.estimate(["Hello"]).cost_usd[0].argmin())
    pairs = [
        (
            "maths",
            "What is 7 plus 5?",
            "Prove rigorously, by strong induction, the general theorem for every prime power.",
        ),
        ("sql", "List all users.", "Write a recursive CTE with window functions joining seven tables and a self-join."),
    ]
    for workflow, easy, hard in pairs:
        p = router.estimate(
            [RouteRequest(prompt=easy, workflow=workflow), RouteRequest(prompt=hard, workflow=workflow)]
        )
        assert p.acceptable[0, cheapest] > p.acceptable[1, cheapest]


def test_no_prompt_is_too_strange(router: Router) -> None:
    strange = ["", " ", "a" * 1_000_000, "\x00\x01", "日本語のテキスト" * 500, "\ud800", "🤖" * 300]
    estimates = router.estimate(strange)
    assert np.isfinite(estimates.acceptable).all()
    assert (estimates.cost_usd > 0).all()
    for prompt in strange[:2] + strange[3:]:
        assert router.route(prompt).candidate in router.candidates


def test_confidence_and_cost_do_not_depend_on_what_else_is_in_the_batch(router: Router) -> None:
    requests = [RouteRequest(prompt=prompt, workflow=workflow) for workflow, prompt in PROMPTS]
    together = router.estimate(requests)
    for row, request in enumerate(requests):
        alone = router.estimate([request])
        np.testing.assert_allclose(alone.acceptable[0], together.acceptable[row], atol=1e-5)
        np.testing.assert_allclose(alone.cost_usd[0], together.cost_usd[row], rtol=1e-4)
