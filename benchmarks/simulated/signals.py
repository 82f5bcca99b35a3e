"""Whether weak signals help: the same logs learned from with and without them, by the truth behind the simulation.

Each log has one answer per request, 5% of them judged, and the signals that users and answers would have shown on the others.
Everything else is equal between the arms, seed by seed, and nothing is measured on what was judged: the truth says what each
routing gives on the test part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import t

from training.config import Params, Signals
from training.learn.encode import encode, with_kinds
from training.learn.learn import learn
from training.learn.prepare import prepare
from training.learn.refit import learn_for_testing
from training.logs.validate import validate
from training.measure.frontier import frontier, knob_grid, singles
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.signals import Behaviour, with_signals
from training.simulation.simulate import simulate

JUDGED = 0.05
# Who asks again for the sake of it: users of these kinds of work do so after a quarter of the good answers too.
RESTLESS = {"creative-writing": 0.25, "translation": 0.25, "summarising": 0.25}
WORLDS: Mapping[str, Behaviour] = {"as stated": Behaviour(), "some ask again anyway": Behaviour(restless=RESTLESS)}


@dataclass(frozen=True)
class Figures:
    """What a routing gives on n requests by the truth.

    `captured` is the share of the headroom between one candidate for everything and knowing the truth; `regret` is what is lost
    against the best choice at the middle knob, in quality.
    """

    captured: float
    regret: float


def weights_of(weight: float, sources: Iterable[str] = ("schema", "empty", "cut", "retried", "switched")) -> Signals:
    """This weight for these sources, none for the others."""
    return Signals(**{name: weight if name in sources else 0.0 for name in Signals.__dataclass_fields__})


def figures(
    behaviour: Behaviour, arms: Mapping[str, Signals], params: Params, cache: Path, seed: int, requests: int = 4_000
) -> dict[str, Figures]:
    """Each arm's figures on one log."""
    catalogue = load_catalogue(SHIPPED)
    made = simulate(
        [catalogue[name] for name in params.simulate.candidates],
        requests=requests,
        seed=seed,
        shadow_share=0.0,
        judged_share=1.0,
    )
    rows = with_signals(made.outcomes, behaviour, JUDGED, seed + 1)
    table = validate(rows, source="simulated", format="simulated")
    prepared = prepare(table.frame, params, catalogue)
    inputs, _ = encode(prepared, params, cache)
    prepared, inputs = with_kinds(prepared, inputs, params)
    test = prepared.split.test
    ids, names = list(prepared.matrix.request_id[test]), list(prepared.matrix.candidates)
    acceptable = made.acceptable.loc[ids, names].to_numpy()
    cost = made.cost_usd.loc[ids, names].to_numpy()
    knobs = knob_grid(cost, params.policy.knob_steps)
    alone = singles(acceptable, cost)
    oracle = frontier(acceptable, cost, acceptable, cost, knobs)
    best = alone.aiq(oracle.cost, oracle.quality)
    found = {}
    for arm, signals in arms.items():
        own = replace(params, signals=signals)
        heads = learn_for_testing(learn(prepared, inputs, own), prepared, inputs, own)
        asked = inputs.take(test)
        estimate, expected = heads.acceptable.predict(asked), heads.costs.cost_usd(asked)
        points = frontier(estimate, expected, acceptable, cost, knobs)
        value = alone.aiq(points.cost, points.quality)
        knob = float(np.median(knobs))
        truth = acceptable - knob * cost
        chosen = (estimate - knob * expected).argmax(axis=1)
        regret = float((truth.max(axis=1) - truth[np.arange(len(truth)), chosen]).mean())
        found[arm] = Figures((value - alone.zero_router) / (best - alone.zero_router), regret)
    return found


def lead(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The mean of paired differences, and its 95% interval by Student's t."""
    gaps = np.array(ours) - np.array(theirs)
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps))) * float(t.ppf(0.975, len(gaps) - 1))
    return float(gaps.mean()), float(gaps.mean()) - error, float(gaps.mean()) + error
