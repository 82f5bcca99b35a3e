"""Operating points with the new candidate in the choice, certified anew on requests that the champion's heads never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import OperatingPoint
from serving.decide.pricing import Pricing
from serving.decide.value import Setting
from training.certify.certify import of_known_workflow
from training.certify.evidence import CalibrationData
from training.certify.operating import operating_points
from training.config import Params
from training.dataset.split import folds
from training.extend.amounts import Amounts
from training.extend.fit import Ground, new_column
from training.extend.log import Known
from training.measure.frontier import knob_grid
from training.measure.offpolicy import pseudo_outcomes


@dataclass(frozen=True)
class Drawn(CalibrationData):
    """Requests of which each candidate's outcome was seen with a probability of its own.

    Those with every outcome are no fair sample of the others here: a probe was drawn for what it tells. Each outcome counts
    by its own probability instead.
    """

    def usable(self) -> CalibrationData:
        known, judged = np.isfinite(self.propensity), np.isfinite(self.labels)
        return self.take(np.asarray(known.any(axis=1) & ~(judged & ~known).any(axis=1)))


def calibration_data(ground: Ground, entry: Candidate, log: Known, amounts: Amounts, params: Params) -> Drawn:
    """The fresh requests, each with what is expected of the new candidate by a column that was fitted on other folds' probes.

    Without those of the test part, and those of a workflow that the champion never saw. Where an answer of the new
    candidate has no propensity, its outcome is left out.
    """
    rows = np.flatnonzero(
        log.fresh & ~log.tested & of_known_workflow(log.matrix.workflow, ground.manifest.head.workflows)
    )
    if len(rows) < params.policy.minimum_requests:  # too few for a certificate or a comparison, and for folds
        rows = rows[:0]
    fold = folds(log.groups[rows], params.fit.folds, params.fit.seed) if len(rows) else rows
    known = {name: values.astype(np.float64) for name, values in ground.known.items()}
    new = {name: np.empty(len(rows)) for name in ("acceptable", "violation")}
    for held in np.unique(fold):
        inside = rows[fold == held]
        others = log.basis()
        others[inside] = False
        column = new_column(ground, log, amounts, others)
        said = column.predict({name: values[inside] for name, values in ground.known.items()}, log.workflows[inside])
        for name, values in new.items():
            values[fold == held] = said[name]
    counted = log.inputs.counted[rows]
    spent = [amounts.by_name[name].predict(known[name][rows])[:, None] for name in ("output_tokens", "logged_cost_usd")]
    pricing = Pricing([entry], {entry.name: amounts.cost_from}, {entry.name: amounts.usual})
    part = log.take(rows)
    certain = np.isfinite(part.propensity[:, -1])
    labels, cost = part.labels.copy(), part.matrix.cost_usd.copy()
    labels[~certain, -1] = cost[~certain, -1] = np.nan
    return Drawn(
        acceptable=np.column_stack([known["acceptable"][rows], new["acceptable"]]),
        violation=np.column_stack([known["violation"][rows], new["violation"]]),
        expected_cost=np.column_stack([ground.cost_usd[rows], pricing.expected(counted, *spent)]),
        labels=labels,
        cost=cost,
        propensity=part.propensity,
        complete=np.zeros(len(rows), dtype=np.bool_),
        groups=part.groups,
        workflow=part.matrix.workflow,
        fold=fold,
    )


def points_of(data: Drawn, ground: Ground, name: str, params: Params) -> tuple[tuple[OperatingPoint, ...], str]:
    """A point for each target that the champion has or the parameters name, highest first; and the default one's name.

    Where none can be certified, it is the reference alone.
    """
    manifest = ground.manifest
    targets = {point.quality_target for point in manifest.operating_points} - {None}
    targets |= {*params.policy.targets, params.policy.quality_target}
    names = [*(candidate.name for candidate in manifest.candidates), name]
    points = operating_points(
        data,
        knob_grid(data.expected_cost, params.policy.certificate_knobs) if len(data) else np.zeros(1),
        sorted(target for target in targets if target is not None),
        ground.reference,
        names,
        delta=params.policy.delta,
        explore=params.policy.explore,
        minimum=params.policy.minimum_requests,
        seed=params.fit.seed,
    )
    wanted = manifest.default.quality_target or params.policy.quality_target
    return points, next(point.name for point in points if point.quality_target == wanted)


@dataclass(frozen=True)
class Used:
    """The requests that certificates and comparisons rest on, with outcomes (n, m + 1) completed by what is expected."""

    data: CalibrationData
    quality: Floats
    cost: Floats

    @classmethod
    def of(cls, data: CalibrationData) -> Used:
        """Doubly robust pseudo-outcomes, as `operating_points` has them."""
        used = data.usable()
        judged_cost = np.where(np.isfinite(used.labels), used.cost, np.nan)
        return cls(
            used,
            pseudo_outcomes(used.labels, used.propensity, used.acceptable),
            pseudo_outcomes(judged_cost, used.propensity, used.expected_cost),
        )

    def saving(self, setting: Setting, reference: int, candidates: int) -> float:
        """What a setting saves that chooses among the first so many candidates, relative to the reference alone."""
        some = np.s_[:, :candidates]
        data = self.data
        columns = setting.choose(data.acceptable[some], data.violation[some], data.expected_cost[some])
        spent = self.cost[np.arange(len(columns)), columns].mean()
        return 1.0 - float(spent / self.cost[:, reference].mean())
