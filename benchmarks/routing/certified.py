"""Certificates, checked on requests that had no say in them; and on conversations whose turns fail together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.routing.protocol import DataSet, Trial
from serving.bundle.arrays import Bools, Columns
from serving.bundle.manifest import OperatingPoint
from serving.decide.value import Setting
from training.certify.certify import cross_fitted
from training.certify.evidence import CalibrationData
from training.certify.operating import operating_points, violations
from training.config import Params
from training.evaluate.splits import redraw
from training.learn.learn import Learned, learn
from training.learn.refit import refit
from training.measure.bounds import clopper_pearson_upper
from training.measure.frontier import knob_grid

RESPLITS = 100
TURNS, ICC = 5, 0.3
SMALL = (150, 300, 600, 1_200)
SMALL_DRAWS = 20


def untouched(data: DataSet, run: Trial) -> CalibrationData:
    """The complete requests that training never saw."""
    return complete_ones(data, run.learned, ~run.train)


def complete_ones(data: DataSet, learned: Learned, rows: Bools) -> CalibrationData:
    """Those of the requests `rows` (n,) that are complete, as they are expected by what was `learned`."""
    matrix = data.prepared.matrix
    held = np.flatnonzero(rows & matrix.complete())
    inputs, labels = data.inputs.take(held), data.prepared.labels[held]
    return CalibrationData(
        acceptable=learned.acceptable.predict(inputs),
        violation=learned.violations(inputs),
        expected_cost=learned.costs.cost_usd(inputs),
        labels=labels,
        cost=matrix.cost_usd[held],
        propensity=np.ones(labels.shape),
        complete=np.ones(len(held), dtype=np.bool_),
        groups=data.prepared.groups[held],
        workflow=matrix.workflow[held],
        drawn=np.zeros(len(held), dtype=np.bool_),
    )


def small_logs(data: DataSet, params: Params, seed: int, draws: int, target: float) -> dict[str, dict[str, float]]:
    """Certificates of small logs, checked on all requests outside them: size -> figures of either way.

    `crossed`: learned from all requests of the log and certified on them out of fold, as small logs are; `held_out`: learned
    from four fifths of them and certified on the fifth that was kept aside.
    """
    _, member = np.unique(data.prepared.groups, return_inverse=True)
    found = {}
    for size in SMALL:
        rows = []
        for draw in range(draws):
            generator = np.random.default_rng([seed, size, draw])
            place = generator.permutation(member.max() + 1)[member] * len(member) / size / (member.max() + 1)
            drawn = redraw(data.prepared, place < 0.6, (place >= 0.8) & (place < 1.0))
            inside = place < 1.0
            split = replace(drawn.split, calibration=inside & ~drawn.split.train & ~drawn.split.test)
            prepared = replace(drawn, split=split)
            learned = learn(prepared, data.inputs, params)
            whole = refit(learned, prepared, data.inputs, params, inside)
            most = refit(learned, prepared, data.inputs, params, split.train | split.test)
            kept = complete_ones(data, most, split.calibration)
            row = {}
            for name, heads, known in (
                ("crossed", whole, cross_fitted(learned, whole, prepared, data.inputs, params, inside)[0]),
                ("held_out", most, kept),
            ):
                certified = point(known, heads, params, target)
                others = complete_ones(data, heads, ~inside)
                columns = setting(certified, heads.reference).choose(
                    others.acceptable, others.violation, others.expected_cost
                )
                spent = others.cost[np.arange(len(others)), columns]
                rate = float(violations(others.labels, columns, heads.reference).mean())
                row[f"{name}_exceeded"] = float(rate > 1.0 - target)
                row[f"{name}_saving"] = 1.0 - float(spent.mean() / others.cost[:, heads.reference].mean())
                row[f"{name}_certified"] = float(certified.certificate is not None)
            rows.append(row)
        found[f"{size}"] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return found


def point(held: CalibrationData, learned: Learned, params: Params, target: float) -> OperatingPoint:
    """The operating point of one target, chosen and certified on the given requests."""
    return operating_points(
        held,
        knob_grid(learned.data.expected_cost, params.policy.certificate_knobs),
        [target],
        learned.reference,
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
        certified = point(held.take(half), run.learned, params, target)
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
            certified = point(replace(drawn, groups=known), run.learned, params, target)
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
