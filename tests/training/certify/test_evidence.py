"""What calibration requests say about violations, complete ones and ones with a single outcome together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike

from serving.decide.value import Setting
from training.certify.certify import of_known_workflow
from training.certify.evidence import CalibrationData, Evidence, Expected, evidence, traffic
from training.certify.operating import operating_points, violation_bound
from training.learn.heads.violation import independent
from training.measure.bounds import clopper_pearson_upper
from training.measure.offpolicy import mask_to_one

NAN = float("nan")
DELTA = 0.1
CHEAP, DEAR = 0, 1
ALL_CHEAP = Setting(1.0, guarded=True)


def expecting(acceptable: np.ndarray) -> dict[str, np.ndarray]:
    """Estimates of the chances (n, 2), and what they come to if both fail independently."""
    return {"acceptable": acceptable, "violation": independent(acceptable, DEAR)}


def rows(labels: ArrayLike, propensity: ArrayLike | None = None, estimate: ArrayLike = (0.8, 0.9)) -> CalibrationData:
    """Requests of two candidates, the cheap one a fifth of the dear one's price, each a conversation of its own."""
    known = np.asarray(labels, dtype=np.float64)
    n = len(known)
    seen = np.isfinite(known)
    probability = np.ones(known.shape) if propensity is None else np.asarray(propensity, dtype=np.float64)
    return CalibrationData(
        **expecting(np.tile(np.asarray(estimate, dtype=np.float64), (n, 1))),
        expected_cost=np.tile([1.0, 5.0], (n, 1)),
        labels=known,
        cost=np.where(seen, [1.0, 5.0], NAN),
        propensity=np.where(seen, probability, NAN),
        complete=np.asarray(seen.all(axis=1)),
        groups=np.arange(n),
        workflow=np.full(n, None, dtype=object),
        drawn=np.zeros(n, dtype=np.bool_),
    )


def joined(*parts: CalibrationData) -> CalibrationData:
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    together = {name: np.concatenate([vars(part)[name] for part in parts]) for name in names}
    return CalibrationData(**together | {"groups": np.arange(sum(map(len, parts)))})


def seen(data: CalibrationData, setting: Setting = ALL_CHEAP) -> Evidence:
    used = data.usable()
    return evidence(used, traffic(used), setting, DEAR, DELTA)


def test_a_failure_is_a_violation_unless_the_reference_is_known_to_have_failed() -> None:
    single = rows([[0.0, NAN], [0.0, 0.0], [0.0, 1.0], [1.0, NAN], [NAN, 1.0]], np.full((5, 2), 0.5))
    found = seen(replace(single, complete=np.zeros(5, dtype=np.bool_)))
    assert found.losses.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert found.weights.tolist() == [2.0, 2.0, 2.0, 2.0, 0.0]
    assert found.method == "weighted"


def test_all_complete_and_alone_is_clopper_pearson_and_in_conversations_it_is_not() -> None:
    labels = np.ones((100, 2))
    labels[:10, CHEAP] = 0.0
    alone = seen(rows(labels))
    assert alone.method == "clopper-pearson"
    assert alone.bound(DELTA).upper == pytest.approx(clopper_pearson_upper(10, 100, DELTA))
    together = seen(replace(rows(labels), groups=np.arange(100) // 5))
    assert together.method == "clustered"
    assert together.bound(DELTA).rate == pytest.approx(0.1)
    # The ten failures are two whole conversations: what two of twenty say.
    assert together.bound(DELTA).upper == pytest.approx(clopper_pearson_upper(2, 20, DELTA))


def drawn(
    n: int, seed: int, propensity: float | None = None, fails: tuple[float, float] = (0.2, 0.17)
) -> CalibrationData:
    """`n` requests: the cheap one fails a fifth of them, on nearly all of which the dear one fails too; .03 are violations.

    Complete, or with one outcome each, the cheap candidate's with the given propensity.
    """
    generator = np.random.default_rng(seed)
    draw = generator.random(n)
    labels = np.column_stack([draw >= fails[0], draw >= fails[1]]).astype(np.float64)
    if propensity is None:
        return rows(labels)
    masked, logged = mask_to_one(labels, np.tile([propensity, 1 - propensity], (n, 1)), 10_000_000 + seed)
    return rows(masked, logged)


def test_complete_requests_are_not_drowned_by_many_that_cannot_show_a_violation() -> None:
    estimate = np.array([0.8, 0.83])
    parts = [
        replace(part, **expecting(np.tile(estimate, (len(part), 1)))) for part in (drawn(600, 1), drawn(3_000, 2, 0.5))
    ]
    alone, both, single = (seen(data).bound(DELTA).upper for data in (parts[0], joined(*parts), parts[1]))
    assert alone < 0.06
    assert single > 0.19
    # The served estimates take the failures as independent and expect .17 violations, little less than failures.
    knowing = replace(joined(*parts), **expecting(np.tile([0.8, 0.2], (3_600, 1))))
    columns = Setting(1.0, guarded=True)
    assert seen(knowing, columns).bound(DELTA).upper < 0.08
    assert both < single


def test_a_few_complete_requests_and_many_with_one_outcome_certify_what_neither_does_alone() -> None:
    few, many = drawn(40, 3, fails=(0.02, 0.0)), drawn(1_500, 4, 0.5, fails=(0.02, 0.0))
    estimate = np.array([0.98, 0.99])
    few, many = (replace(part, **expecting(np.tile(estimate, (len(part), 1)))) for part in (few, many))

    def certified(data: CalibrationData) -> bool:
        knobs = np.array([0.0, 1.0])
        (point,) = operating_points(data, knobs, [0.96], DEAR, "cd", delta=DELTA, minimum=30, seed=0)
        return point.certificate is not None

    assert not certified(few)  # which is all that counted once there were 30 complete ones
    assert certified(joined(few, many))


@pytest.mark.parametrize("kind", ["complete and single", "conversations", "propensities"])
def test_a_bound_is_exceeded_no_more_often_than_it_says(kind: str) -> None:
    """The cheap one violates 6% of the time: at most delta of all calibration sets may give a lower bound."""
    generator, draws, exceeded = np.random.default_rng(5), 200, 0
    for seed in range(draws):
        if kind == "conversations":
            rate = generator.beta(0.06 * 7 / 3, 0.94 * 7 / 3, 120).repeat(5)
            labels = np.column_stack([generator.random(600) >= rate, np.ones(600)]).astype(np.float64)
            data = replace(rows(labels), groups=np.arange(600) // 5)
        elif kind == "propensities":
            labels = np.column_stack([generator.random(4_000) >= 0.06, np.ones(4_000)]).astype(np.float64)
            tried = np.where(generator.random(4_000) < 0.5, 0.5, 0.01)
            data = rows(*mask_to_one(labels, np.column_stack([tried, 1 - tried]), 10_000_000 + seed))
        else:
            both = [
                drawn(n, 1_000 * seed + k, p, fails=(0.06, 0.0)) for k, (n, p) in enumerate([(150, None), (450, 0.5)])
            ]
            data = joined(*both)
        bound = violation_bound(data, ALL_CHEAP, DEAR, DELTA)
        exceeded += bound is not None and bound.upper < 0.06
    assert exceeded <= draws * DELTA + 2.33 * (draws * DELTA * (1 - DELTA)) ** 0.5


def test_an_evaluation_run_of_other_workflows_is_weighted_to_the_traffic() -> None:
    # The run is mostly of what is easy; half of the traffic is hard, where the cheap one fails every fourth.
    run = np.ones((200, 2))
    run[180:, CHEAP] = np.arange(20) % 4 > 0
    served = np.full((200, 2), NAN)
    served[:, DEAR] = 1.0
    data = joined(rows(run), rows(served, np.full((200, 2), 0.99)))
    workflow = np.array(["easy"] * 180 + ["hard"] * 20 + ["easy"] * 100 + ["hard"] * 100, dtype=object)
    fair = traffic(replace(data, workflow=np.tile(["easy", "hard"], 200).astype(object)))
    assert not fair.reweighted
    assert (fair.weights == 1.0).all()
    found = traffic(replace(data, workflow=workflow))
    assert found.reweighted
    assert found.weights.sum() == pytest.approx(400)
    assert found.weights[workflow == "easy"].sum() == pytest.approx(200)
    bound = violation_bound(replace(data, workflow=workflow), ALL_CHEAP, DEAR, DELTA)
    assert bound is not None
    assert bound.rate == pytest.approx(0.125)  # half of one in four; unweighted it would be 5 in 200
    (point,) = operating_points(
        replace(data, workflow=workflow), np.array([1.0]), [0.7], DEAR, "cd", delta=DELTA, minimum=30, seed=0
    )
    assert point.certificate is not None
    assert point.certificate.reweighted
    assert (point.certificate.requests, point.certificate.complete) == (200, 200)


def test_a_workflow_s_own_bound_counts_what_its_log_never_tried() -> None:
    tried, never = np.full((300, 2), NAN), np.full((60, 2), NAN)
    tried[::2, CHEAP], tried[1::2, DEAR], never[:, DEAR] = 1.0, 1.0, 1.0
    data = joined(rows(tried, np.full((300, 2), 0.5)), rows(never, np.ones((60, 2))))
    data = replace(data, workflow=np.array(["tried"] * 300 + ["never"] * 60, dtype=object))
    (point,) = operating_points(data, np.array([1.0]), [0.6], DEAR, "cd", delta=DELTA, minimum=30, seed=0)
    assert point.certificate is not None
    bounds = point.certificate.workflows
    assert bounds["never"].bound == 1.0
    assert bounds["tried"].bound < 0.05


def test_requests_of_a_workflow_that_training_never_saw_are_not_certified_on() -> None:
    workflow = np.array(["known", None, "new"], dtype=object)
    assert of_known_workflow(workflow, ("known",)).tolist() == [True, True, False]
    assert of_known_workflow(workflow, ()).all()


def test_attempts_on_every_candidate_that_were_judged_rarely_count_by_the_share_judged() -> None:
    generator = np.random.default_rng(0)
    labels = np.where(generator.random((2_000, 2)) < 0.2, 1.0, NAN)
    data = rows(np.ones((2_000, 2)))
    judged = replace(
        data, labels=labels, propensity=np.full((2_000, 2), 0.2), complete=np.asarray(np.isfinite(labels).all(axis=1))
    )
    found = seen(judged)
    assert len(found.losses) == 2_000
    assert set(found.weights.tolist()) == {0.0, 5.0}
    row_wise = replace(judged, labels=np.where(np.isfinite(labels[:, :1]), 1.0, NAN) * np.ones((2_000, 2)))
    row_wise = replace(row_wise, complete=np.asarray(np.isfinite(row_wise.labels).all(axis=1)))
    found = seen(row_wise)
    assert len(found.losses) == int(row_wise.complete.sum())
    assert found.method == "clopper-pearson"


def test_where_the_served_heads_give_more_away_the_bound_is_theirs() -> None:
    """Two of five heads give everything away, 40% of all: the bound is stretched to what the served ones give."""
    data = rows(np.ones((500, 2)))
    giving = np.arange(500)[:, None] % 5 < 2
    crossed = replace(data, **expecting(np.where(giving, [0.9, 0.9], [0.0, 0.9])))
    knob = Setting(0.1, guarded=True)

    def serving(given: np.ndarray) -> CalibrationData:
        acceptable = np.where(given, [0.9, 0.9], [0.0, 0.9])
        return replace(crossed, served=Expected(acceptable, independent(acceptable, DEAR), crossed.expected_cost))

    found, plain = seen(serving(np.ones((500, 1), dtype=np.bool_)), knob), seen(crossed, knob)
    assert (found.columns == CHEAP).mean() == 0.4
    assert found.stretch == pytest.approx(1.0 / 0.4)
    assert found.bound(DELTA).upper == pytest.approx(2.5 * plain.bound(DELTA).upper)
    assert seen(serving(giving), knob).stretch == 1.0
    assert seen(serving(np.zeros((500, 1), dtype=np.bool_)), knob).stretch == 1.0


def test_where_enough_requests_were_drawn_the_logs_own_choices_certify_nothing() -> None:
    """The log tried the cheap candidate where it does well, and says that it chose by chance."""
    flattering = rows(np.tile([1.0, NAN], (2_000, 1)), np.full((2_000, 2), 0.5))
    drawn = rows(np.column_stack([np.arange(400) % 10 > 0, np.ones(400)]))
    drawn = replace(drawn, drawn=np.ones(400, dtype=np.bool_), complete=np.zeros(400, dtype=np.bool_))
    found = seen(joined(flattering, drawn))
    assert found.shares[:2_000].sum() == 0.0
    assert found.bound(DELTA).rate == pytest.approx(0.1)
    assert found.bound(DELTA).upper == pytest.approx(clopper_pearson_upper(40, 400, DELTA))
    few = drawn.take(np.arange(20))
    assert seen(joined(flattering, few)).shares[:2_000].sum() > 0.0


def test_a_drawn_request_counts_by_the_chance_that_its_candidate_was_asked() -> None:
    """Asked of the cheap candidate with a quarter: over many draws the estimate is the rate of violations."""
    found = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        asked = draw.random(400) < 0.25
        failed = draw.random(400) < 0.1
        labels = np.column_stack([np.where(asked, ~failed, NAN), np.ones(400)])
        data = replace(rows(labels, np.tile([0.25, 1.0], (400, 1))), drawn=np.ones(400, dtype=np.bool_))
        found.append(seen(replace(data, complete=asked)).bound(DELTA).rate)
    assert np.mean(found) == pytest.approx(0.1, abs=0.02)


def test_the_saving_is_that_of_the_heads_that_are_served() -> None:
    """Of heads that flip: out of fold they give everything away, and those that are served nothing."""
    data = rows(np.ones((500, 2)))
    keeping = np.tile([0.0, 0.9], (500, 1))
    served = Expected(keeping, independent(keeping, DEAR), data.expected_cost)
    (point,) = operating_points(
        replace(data, served=served),
        np.array([0.0, 0.1]),
        [0.9],
        DEAR,
        ["cheap", "dear"],
        delta=DELTA,
        minimum=30,
        seed=0,
    )
    assert (point.always, point.certificate) == ("dear", None)


def test_requests_that_stand_for_several_count_as_often_within_their_side() -> None:
    """Of 400 with one answer the failed half was thinned to a fifth: the rate is that of all of them."""
    failed = np.repeat([1.0, 0.0], [200, 40])
    single = rows(np.column_stack([failed, np.full(240, NAN)]))
    standing = np.repeat([1.0, 5.0], [200, 40])
    found = seen(replace(single, standing=standing)).bound(DELTA)
    assert found.rate == pytest.approx(0.5)
    assert seen(single).bound(DELTA).rate == pytest.approx(40 / 240)
    complete = rows(np.tile([1.0, 1.0], (300, 1)))
    both = joined(complete, single)
    thinned = replace(both, standing=np.concatenate([np.ones(300), np.full(240, 7.0)]))
    # Complete requests that were kept whole beside thinned others count for what they did.
    np.testing.assert_allclose(
        seen(thinned).shares / seen(thinned).shares.sum(), seen(both).shares / seen(both).shares.sum()
    )
