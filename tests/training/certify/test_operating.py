"""Operating points: the cheapest knob that can be certified, and the reference where there is none."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from serving.bundle.manifest import OperatingPoint
from training.certify import operating
from training.certify.evidence import CalibrationData, Evidence, evidence
from training.certify.operating import estimate, operating_points, violations
from training.learn.heads.violation import independent
from training.measure.bounds import clopper_pearson_upper

NAN = float("nan")
DELTA = 0.1
CHEAP, DEAR = 0, 1
KNOBS = np.array([0.0, 0.05, 0.15, 1.0])


def calibration(acceptable: ArrayLike, cost: ArrayLike, labels: ArrayLike) -> CalibrationData:
    """Complete requests, all of them alone in their group and without a workflow, costing what was expected."""
    estimates, outcome = np.asarray(acceptable, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    n = len(outcome)
    spent = np.broadcast_to(np.asarray(cost, dtype=np.float64), outcome.shape)
    return CalibrationData(
        acceptable=np.broadcast_to(estimates, outcome.shape),
        violation=independent(np.broadcast_to(estimates, outcome.shape), outcome.shape[1] - 1),
        expected_cost=spent,
        labels=outcome,
        cost=spent,
        propensity=np.ones(outcome.shape),
        complete=np.ones(n, dtype=np.bool_),
        groups=np.arange(n),
        workflow=np.full(n, None, dtype=object),
        drawn=np.zeros(n, dtype=np.bool_),
    )


def hundred() -> CalibrationData:
    """50 requests that the cheap one does well, 30 of which it fails 3, and 20 of which it fails 15; the dear one none.

    The cheap one costs 1, the dear one 5. It is chosen where .9 (1 - its estimate) < 4 knob: for none of the requests
    at knob 0, for the 50 at .05, for 80 at .15, for all at 1.
    """
    estimate = np.repeat([0.8, 0.5, 0.1], [50, 30, 20])
    good = np.repeat([1.0, 0.0, 1.0, 0.0], [77, 3, 5, 15])
    workflow = np.array(["easy"] * 50 + ["middling"] * 30 + [None] * 20, dtype=object)
    ones = np.ones(100)
    data = calibration(np.column_stack([estimate, 0.9 * ones]), [1.0, 5.0], np.column_stack([good, ones]))
    return replace(data, workflow=workflow)


def points(
    data: CalibrationData, *targets: float, knobs: ArrayLike = KNOBS, minimum: int = 30, names: str = "cd"
) -> tuple[OperatingPoint, ...]:
    reference = len(names) - 1
    return operating_points(data, np.asarray(knobs), targets, reference, names, delta=DELTA, minimum=minimum, seed=0)


def test_a_violation_is_a_failure_that_the_reference_would_not_have_made() -> None:
    labels = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert violations(labels, np.array([0, 0, 0, 1]), reference=1).tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("target", "knob", "failures", "saving"),
    [
        # No failure in 100 bounds the rate by 1 - .1^(1/100) = .0228; 3 by .065; 18 by .24.
        (0.95, 0.05, 0, 1 - 3.0 / 5),
        (0.9, 0.15, 3, 1 - 1.8 / 5),
        (0.7, 1.0, 18, 1 - 1.0 / 5),
    ],
)
def test_a_point_by_hand(target: float, knob: float, failures: int, saving: float) -> None:
    (point,) = points(hundred(), target)
    assert (point.name, point.quality_target) == (f"quality-{target:g}", target)
    assert (point.knob, point.always, point.calibration_requests) == (knob, None, 100)
    assert point.saving == pytest.approx(saving)
    assert point.cost_usd == pytest.approx(5 * (1 - saving))
    assert point.quality == pytest.approx(1 - failures / 100)
    certificate = point.certificate
    assert certificate is not None
    assert (certificate.method, certificate.delta) == ("clopper-pearson", DELTA)
    assert certificate.alpha == pytest.approx(1 - target)
    assert certificate.violation_rate == pytest.approx(failures / 100)
    assert certificate.bound == pytest.approx(clopper_pearson_upper(failures, 100, DELTA))
    assert (certificate.requests, certificate.effective_requests) == (100, pytest.approx(100.0))
    assert certificate.saving_low <= point.saving <= certificate.saving_high


def test_what_cannot_be_certified_goes_to_the_reference() -> None:
    (point,) = points(hundred(), 0.99)  # .0228 is above .01, even without a failure
    assert (point.always, point.saving, point.knob, point.certificate) == ("d", 0.0, 0.0, None)
    assert point.calibration_requests == 100


def uncertified(requests: int, how: Literal["reference", "estimated"]) -> OperatingPoint:
    """A target of .95 on too few requests to certify it; the heads expect the cheap one to break it on 3%."""
    data = calibration([0.97, 1.0], [1.0, 5.0], np.ones((requests, 2)))
    (point,) = operating_points(data, KNOBS, [0.95], 1, "cd", delta=DELTA, minimum=1_000, seed=0, uncertified=how)
    return point


@pytest.mark.parametrize("how", ["reference", "estimated"])
def test_a_target_that_is_not_certified_has_what_is_estimated_of_it(how: Literal["reference", "estimated"]) -> None:
    point = uncertified(40, how)
    found = point.estimated
    assert found is not None
    assert (found.knob, found.violation_rate) == (1.0, pytest.approx(0.03))
    assert [found.saving, found.saving_low, found.saving_high] == pytest.approx([0.8] * 3)
    assert point.certificate is None
    served = (0.0, "d", None, 0.0) if how == "reference" else (1.0, None, "d", pytest.approx(0.8))
    assert (point.knob, point.always, point.guard, point.saving) == served


def test_what_the_log_does_not_tell_of_the_saving_is_not_known() -> None:
    found = uncertified(20, "reference").estimated
    assert found is not None
    assert (found.violation_rate, found.saving) == (pytest.approx(0.03), None)


def test_where_no_knob_is_expected_to_keep_the_target_nothing_is_estimated_and_the_reference_answers() -> None:
    data = calibration([0.5, 1.0], [1.0, 5.0], np.ones((40, 2)))
    (point,) = operating_points(
        data, KNOBS, [0.95], 1, "cd", delta=DELTA, minimum=1_000, seed=0, uncertified="estimated"
    )
    assert (point.always, point.estimated) == ("d", None)


def test_points_come_with_the_highest_target_first() -> None:
    assert [point.quality_target for point in points(hundred(), 0.7, 0.99, 0.9)] == [0.99, 0.9, 0.7]


def test_each_workflow_has_a_bound_of_its_own() -> None:
    (point,) = points(hundred(), 0.9)
    assert point.certificate is not None
    found = point.certificate.workflows
    assert {name: bound.requests for name, bound in found.items()} == {"(none)": 20, "easy": 50, "middling": 30}
    assert found["middling"].violation_rate == pytest.approx(0.1)
    assert found["easy"].violation_rate == found["(none)"].violation_rate == 0.0
    assert found["easy"].saving == pytest.approx(0.8)
    assert found["(none)"].saving == pytest.approx(0.0)
    assert found["middling"].bound == pytest.approx(clopper_pearson_upper(3, 30, DELTA))


@pytest.mark.parametrize(("explore", "knob"), [(0.0, 0.15), (0.3, 0.15), (0.4, 0.05), (0.8, None)])
def test_what_is_set_aside_to_explore_is_taken_from_alpha(explore: float, knob: float | None) -> None:
    """At a target of .9: no failure in 100 is bounded by .0228, three by .065."""
    (point,) = operating_points(hundred(), KNOBS, [0.9], 1, "cd", delta=DELTA, minimum=30, seed=0, explore=explore)
    if knob is None:
        assert (point.always, point.certificate, point.explore) == ("d", None, 0.0)
        return
    assert point.certificate is not None
    assert (point.knob, point.explore) == (knob, pytest.approx(0.1 * explore))
    assert point.certificate.alpha == pytest.approx(0.1)
    assert point.certificate.bound + point.explore <= point.certificate.alpha


def test_testing_stops_at_the_first_knob_that_fails() -> None:
    # At knob .1 all goes to the middling one, which always fails; at knob 1 to the cheap one, which never does.
    labels = np.tile([1.0, 0.0, 1.0], (100, 1))
    data = calibration([0.5, 0.8, 0.9], [1.0, 3.0, 5.0], labels)
    (point,) = points(data, 0.9, knobs=[1.0, 0.0, 0.1], names="cmd")
    assert (point.always, point.certificate) == ("d", None)
    (point,) = points(data, 0.9, knobs=[1.0, 0.0], names="cmd")
    assert (point.knob, point.saving) == (1.0, pytest.approx(0.8))


def test_a_knob_that_saves_nothing_is_not_taken() -> None:
    # The estimates favour the dearer of two that are equally good; the reference is the cheaper.
    data = calibration([0.9, 0.8], [5.0, 1.0], np.ones((100, 2)))
    (point,) = points(data, 0.9, knobs=[0.0])
    assert (point.always, point.saving) == ("d", 0.0)


@pytest.mark.parametrize(("minimum", "always"), [(100, None), (101, "d")])
def test_below_the_minimum_everything_goes_to_the_reference(minimum: int, always: str | None) -> None:
    for point in points(hundred(), 0.9, 0.7, minimum=minimum):
        assert point.always == always
        assert point.calibration_requests == 100


def test_without_any_request_there_is_only_the_reference() -> None:
    (point,) = points(hundred().take(np.zeros(100, dtype=np.bool_)), 0.9)
    assert (point.always, point.calibration_requests) == ("d", 0)


def logged(cheap_label: float) -> CalibrationData:
    """200 requests, sent to either candidate with probability 1/2: every second one to the cheap one."""
    labels = np.full((200, 2), NAN)
    labels[::2, CHEAP], labels[1::2, DEAR] = cheap_label, 1.0
    seen = np.isfinite(labels)
    return replace(
        calibration([0.8, 0.9], [1.0, 5.0], labels),
        cost=np.where(seen, [1.0, 5.0], NAN),
        propensity=np.where(seen, 0.5, NAN),
        complete=np.zeros(200, dtype=np.bool_),
    )


def test_requests_with_one_outcome_are_weighted() -> None:
    (point,) = points(logged(1.0), 0.9, knobs=[0.0, 1.0])
    certificate = point.certificate
    assert (point.knob, point.saving) == (1.0, pytest.approx(0.8))
    assert certificate is not None
    assert certificate.method == "weighted"
    # Of the 200 only the 100 that went to the cheap one say anything, as much as 100 that were tried for certain.
    assert certificate.effective_requests == pytest.approx(100, abs=1)
    assert certificate.bound == pytest.approx(clopper_pearson_upper(0, 100, DELTA), rel=0.01)
    assert (certificate.requests, certificate.violation_rate) == (200, 0.0)


def test_a_failure_that_nobody_compared_counts_as_a_violation() -> None:
    (point,) = points(logged(0.0), 0.5, knobs=[0.0, 1.0])
    assert (point.always, point.certificate) == ("d", None)


def test_what_a_point_saves_is_right_where_few_answers_are_judged() -> None:
    """A twentieth goes to the cheap one and a tenth is judged: one outcome in 200, which stands for 200 requests."""
    n, rows = 40_000, np.arange(40_000)
    tried = np.column_stack([rows % 20 == 0, rows % 20 > 0])
    seen = tried & (rows % 200 < 20)[:, None]
    labels = np.where(seen, 1.0, NAN)
    data = replace(
        calibration([0.89, 0.9], [1.0, 5.0], labels),
        expected_cost=np.tile([3.0, 6.0], (n, 1)),
        violation=np.tile([0.05, 0.0], (n, 1)),
        cost=np.where(seen, [1.0, 5.0], NAN),
        propensity=np.where(tried, [0.005, 0.095], NAN),
        judged=np.where(tried, 0.1, NAN),
        complete=np.zeros(n, dtype=np.bool_),
    )
    found = estimate(data, KNOBS, 0.9, DEAR, seed=0)
    assert found is not None
    assert found.saving == pytest.approx(0.8)
    (point,) = points(data, 0.5, knobs=[0.0, 1.0])
    assert point.saving == pytest.approx(0.8)
    assert point.quality == pytest.approx(1.0)


def test_requests_that_are_taken_keep_the_share_that_was_judged() -> None:
    data = replace(logged(1.0), judged=np.tile([0.1, 0.2], (200, 1)))
    assert data.judged is not None
    for part in (data.take(np.arange(3)), data.usable().take(np.arange(3))):
        np.testing.assert_array_equal(part.judged, data.judged[:3])
    assert replace(data, complete=np.ones(200, dtype=np.bool_)).usable().judged.max() == 1.0
    assert data.certain().judged is None


@st.composite
def routed(draw: st.DrawFn) -> CalibrationData:
    n = draw(st.integers(30, 150))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = (generator.uniform(size=(n, 3)) < [0.6, 0.8, 0.95]).astype(np.float64)
    estimates = np.clip(0.4 * labels + generator.uniform(0, 0.6, (n, 3)), 0, 1)
    return calibration(estimates, generator.uniform(0.5, 1.5, (n, 3)) * [1, 3, 9], labels)


@settings(deadline=None)
@given(routed(), st.lists(st.floats(0.5, 1.0), min_size=1, max_size=5, unique=True))
def test_a_higher_target_never_saves_more_and_every_certificate_holds(
    data: CalibrationData, targets: list[float]
) -> None:
    made = points(data, *targets, knobs=[0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0], names="cmd")
    assert [point.quality_target for point in made] == sorted(targets, reverse=True)
    savings = [point.saving for point in made]
    assert (np.diff(savings) >= -1e-12).all()
    for point in made:
        assert (point.always is None) == (point.certificate is not None) == (point.saving > 0)
        if point.certificate is not None:
            assert point.certificate.violation_rate <= point.certificate.bound <= 1 - point.quality_target + 1e-9


def test_what_violates_too_often_is_seldom_certified() -> None:
    # The cheap one fails 6% of the time, 5% are allowed: at most delta of all calibration sets may certify it.
    generator = np.random.default_rng(0)
    certified = 0
    for _ in range(400):
        labels = np.column_stack([generator.uniform(size=200) >= 0.06, np.ones(200)])
        (point,) = points(calibration([0.8, 0.9], [1.0, 5.0], labels), 0.95, knobs=[1.0])
        certified += point.always is None
    assert certified <= 400 * DELTA + 3 * (400 * DELTA * (1 - DELTA)) ** 0.5


def weighted_log(logged_share: float) -> CalibrationData:
    """400 requests, one outcome each: the cheap candidate never failed where it was tried, on `logged_share` of them."""
    n = 400
    tried_cheap = np.arange(n) < logged_share * n
    labels = np.where(tried_cheap[:, None] == [True, False], 1.0, np.nan)
    return CalibrationData(
        acceptable=np.tile([0.9, 0.9], (n, 1)),
        violation=np.tile([0.09, 0.0], (n, 1)),
        expected_cost=np.tile([0.01, 1.0], (n, 1)),
        labels=labels,
        cost=np.where(np.isfinite(labels), [0.01, 1.0], np.nan),
        propensity=np.where(np.isfinite(labels), 1.0, np.nan),
        complete=np.zeros(n, dtype=bool),
        groups=np.arange(n),
        workflow=np.full(n, None, dtype=object),
        drawn=np.zeros(n, dtype=np.bool_),
    )


@pytest.mark.parametrize(("logged_share", "certified"), [(1.0, True), (0.2, False)])
def test_what_the_log_never_tried_is_not_certified(logged_share: float, certified: bool) -> None:
    """A log that claims certainty but tried the cheap candidate on a fifth of the requests says nothing of the rest."""
    point = operating_points(
        weighted_log(logged_share), np.array([0.1]), [0.95], 1, ["cheap", "dear"], delta=0.1, minimum=30, seed=0
    )[0]
    assert (point.certificate is not None) == certified
    assert (point.always == "dear") == (not certified)


def test_a_request_with_an_outcome_of_unknown_propensity_is_left_out() -> None:
    data = weighted_log(1.0)
    data.labels[:10, 1] = 1.0  # a second outcome, nobody knows how it came about
    point = operating_points(data, np.array([0.1]), [0.95], 1, ["cheap", "dear"], delta=0.1, minimum=30, seed=0)[0]
    assert point.certificate is not None
    assert point.certificate.requests == 390


def test_of_each_knob_only_figures_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Evidence]] = []
    most = 0

    def watched(*given: Any) -> Evidence:
        nonlocal most
        found = evidence(*given)
        made.append(weakref.ref(found))
        most = max(most, sum(one() is not None for one in made))
        return found

    monkeypatch.setattr(operating, "evidence", watched)
    found = points(hundred(), 0.95, 0.9, knobs=np.linspace(0.0, 0.2, 60))
    assert all(point.certificate is not None for point in found)
    assert len(made) > 30
    assert most <= 3
