"""What a purchase can be expected to certify: it is made many times over in draws from the belief, and certified each time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from serving.bundle.arrays import Columns, Floats
from training.certify.evidence import CalibrationData, Expected
from training.certify.operating import operating_points
from training.config import Params
from training.evidence.belief import Belief, correlated
from training.evidence.design import Design
from training.evidence.frame import SamplingFrame
from training.learn.heads.violation import independent
from training.measure.frontier import knob_grid

_FOLDS = 3
_KNOBS = 81
# What candidates' failures have in common on a request is not known: anything up to this is drawn (`belief.correlated`).
_TOGETHER = 0.6
# More drawn requests than this are not simulated: what they certify is foreseen by so many.
_MOST = 1_500
_WORKERS = 2


@dataclass(frozen=True)
class Foreseen:
    """What comes of a design in `draws` draws: the share of them in which something is certified, and the savings then, their
    median and the ends of their middle 80%; 0 where nothing is."""

    draws: int
    chance: float
    saving: float
    low: float
    high: float


def foresee(
    frame: SamplingFrame,
    belief: Belief,
    design: Design,
    target: float,
    params: Params,
    seed: int,
    *,
    likely: float = 0.0,
) -> Foreseen:
    """Plays the purchase so many times: outcomes by the belief, heads learned with them, a certificate as `run` makes it.

    It ends early, with the draws up to there, where so many of them certified nothing that the chance is below `likely`
    whatever the others would show.
    """
    draws = params.plan.draws
    seeds = np.random.SeedSequence(seed).spawn(draws)

    def once(seed: np.random.SeedSequence) -> float:
        return _certified(frame, belief, design, target, params, np.random.default_rng(seed))

    savings: list[float] = []
    with threadpool_limits(1), ThreadPoolExecutor(_WORKERS) as pool:
        for saving in pool.map(once, seeds):
            savings.append(saving)
            if (draws - savings.count(0.0)) / draws < likely:
                pool.shutdown(cancel_futures=True)
                break
    found = [saving for saving in savings if saving > 0]
    if not found:
        return Foreseen(len(savings), 0.0, 0.0, 0.0, 0.0)
    low, middle, high = np.quantile(found, [0.1, 0.5, 0.9]).tolist()
    return Foreseen(len(savings), len(found) / len(savings), middle, low, high)


def _certified(
    frame: SamplingFrame, belief: Belief, design: Design, target: float, params: Params, generator: np.random.Generator
) -> float:
    """The certified saving of one draw, 0 where nothing is certified."""
    rows = generator.permutation(np.flatnonzero(frame.sendable))[: min(design.requests, _MOST)]
    if len(rows) < params.policy.minimum_requests:
        return 0.0
    theta, together = belief.drawn(generator), generator.uniform(0.0, _TOGETHER)
    shape, columns = frame.shape.take(rows), np.flatnonzero(design.asked)
    truth = correlated(belief.chances(shape, theta), together, generator)
    labels = np.where(np.isfinite(frame.fair[rows]), frame.fair[rows], np.where(design.asked, truth, np.nan))
    informed = _with_learning(frame, belief, design, theta, together, generator)
    fold = _folds(frame.groups[rows], generator)
    chances = np.empty(labels.shape)
    for held in range(_FOLDS):
        inside = fold == held
        learned = informed.given(frame.shape.take(rows[~inside]), labels[~inside])
        chances[inside] = learned.chances(frame.shape.take(rows[inside]))
    everything = informed.given(shape, labels).chances(shape)
    labels, chances, everything = (values[:, columns] for values in (labels, chances, everything))
    reference, cost = int(labels.mean(axis=0).argmax()), frame.cost_usd[np.ix_(rows, columns)]
    known = np.ones(len(rows), dtype=np.bool_)
    data = CalibrationData(
        acceptable=chances,
        violation=independent(chances, reference),
        expected_cost=cost,
        labels=labels,
        cost=cost,
        propensity=np.ones(labels.shape),
        complete=known,
        groups=frame.groups[rows],
        workflow=np.full(len(rows), None, dtype=object),
        drawn=known,
        served=Expected(everything, independent(everything, reference), cost),
    )
    (point,) = operating_points(
        data,
        knob_grid(cost, _KNOBS),
        [target],
        reference,
        [frame.names[column] for column in columns],
        delta=params.policy.delta,
        explore=params.policy.explore,
        minimum=params.policy.minimum_requests,
        seed=params.fit.seed,
    )
    return float(point.saving or 0.0) if point.certificate is not None else 0.0


def _with_learning(
    frame: SamplingFrame, belief: Belief, design: Design, theta: Floats, together: float, generator: np.random.Generator
) -> Belief:
    """What is believed once the pairs that are to learn from are bought as well."""
    bought = generator.random(design.learning.shape) < design.learning
    rows = np.flatnonzero(bought.any(axis=1))
    if not len(rows):
        return belief
    truth = correlated(belief.chances(frame.shape.take(rows), theta), together, generator)
    return belief.given(frame.shape.take(rows), np.where(bought[rows], truth, np.nan))


def _folds(groups: Columns, generator: np.random.Generator) -> Columns:
    """(n,) folds of whole conversations, at random."""
    names, member = np.unique(groups, return_inverse=True)
    return np.asarray(generator.integers(0, _FOLDS, len(names))[member])
