"""Certificates, checked on requests that had no say in them; and on conversations whose turns fail together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.routing.protocol import DataSet, Trial
from serving.bundle.arrays import Columns
from serving.bundle.manifest import OperatingPoint
from serving.decide.value import Setting
from training.certify.evidence import CalibrationData
from training.certify.operating import operating_points, violations
from training.config import Params
from training.measure.bounds import clopper_pearson_upper
from training.measure.frontier import knob_grid

RESPLITS = 100
TURNS, ICC = 5, 0.3


def untouched(data: DataSet, run: Trial) -> CalibrationData:
    """The complete requests that training never saw."""
    matrix = data.prepared.matrix
    held = np.flatnonzero(~run.train & matrix.complete())
    inputs, labels = data.inputs.take(held), data.prepared.labels[held]
    return CalibrationData(
        acceptable=run.learned.acceptable.predict(inputs),
        violation=run.learned.violations(inputs),
        expected_cost=run.learned.costs.cost_usd(inputs),
        labels=labels,
        cost=matrix.cost_usd[held],
        propensity=np.ones(labels.shape),
        complete=np.ones(len(held), dtype=np.bool_),
        groups=data.prepared.groups[held],
        workflow=matrix.workflow[held],
    )


def point(held: CalibrationData, run: Trial, params: Params, target: float) -> OperatingPoint:
    """The operating point of one target, chosen and certified on the given requests."""
    return operating_points(
        held,
        knob_grid(run.learned.data.expected_cost, params.policy.certificate_knobs),
        [target],
        run.learned.reference,
        [str(column) for column in range(held.labels.shape[1])],
        delta=params.policy.delta,
        minimum=params.policy.minimum_requests,
        seed=params.fit.seed,
    )[0]


def setting(certified: OperatingPoint, reference: int) -> Setting:
    """How the point decides."""
    return Setting(certified.knob, guarded=True, always=reference if certified.always is not None else None)


def certificates(
    data: DataSet, run: Trial, params: Params, seed: int, resplits: int, target: float
) -> list[dict[str, float]]:
    """Re-splits of what training never saw into a calibration and an untouched half, each certified and then checked."""
    held = untouched(data, run)
    names, member = np.unique(held.groups, return_inverse=True)
    reference = run.learned.reference
    found = []
    for repeat in range(resplits):
        half = np.random.default_rng([seed, repeat]).permutation(len(names))[member] < len(names) / 2
        certified = point(held.take(half), run, params, target)
        rest = ~half
        checked = held.take(rest)
        columns = setting(certified, reference).choose(checked.acceptable, checked.violation, checked.expected_cost)
        spent = checked.cost[np.arange(len(checked)), columns]
        broken = violations(checked.labels, columns, reference)
        found.append(
            {
                "certified": float(certified.certificate is not None),
                "violation_rate": float(broken.mean()),
                "lower": 1.0 - clopper_pearson_upper(len(broken) - int(broken.sum()), len(broken), params.policy.delta),
                "saving": 1.0 - float(spent.mean() / checked.cost[:, reference].mean()),
                "requests": float(len(broken)),
            }
        )
    return found


def conversations(
    data: DataSet, run: Trial, params: Params, seed: int, draws: int, target: float
) -> list[dict[str, float]]:
    """Certificates on conversations that were drawn from what training never saw, whose true violation rate is known.

    Each draw has half as many requests as there are, in conversations of five turns: each turn is the conversation's own
    request with probability sqrt(.3) and any other one else, so that what two turns give correlates by .3. `independent` is
    what the same requests give when each is taken as a conversation of its own.
    """
    held, reference = untouched(data, run), run.learned.reference
    found = []
    for draw in range(draws):
        rows, groups = conversing(len(held), np.random.default_rng([seed, draw]))
        drawn = replace(held.take(rows), groups=groups)
        row = {}
        for name, known in (("clustered", groups), ("independent", np.arange(len(rows)))):
            certified = point(replace(drawn, groups=known), run, params, target)
            columns = setting(certified, reference).choose(held.acceptable, held.violation, held.expected_cost)
            spent = held.cost[np.arange(len(held)), columns]
            rate = float(violations(held.labels, columns, reference).mean())
            row[f"{name}_exceeded"] = float(rate > 1.0 - target)
            row[f"{name}_saving"] = 1.0 - float(spent.mean() / held.cost[:, reference].mean())
            row[f"{name}_certified"] = float(certified.certificate is not None)
        found.append(row)
    return found


def conversing(n: int, generator: np.random.Generator) -> tuple[Columns, Columns]:
    """Which of n requests each turn is, and which conversation it belongs to: n / 2 turns, in conversations of `TURNS`."""
    count = max(n // (2 * TURNS), 1)
    own = generator.integers(n, size=count).repeat(TURNS)
    copied = generator.random(count * TURNS) < ICC**0.5
    rows = np.where(copied, own, generator.integers(n, size=count * TURNS))
    return rows, np.arange(count).repeat(TURNS)
