"""Operating points with the new candidate in the choice, certified anew on requests that the champion's heads never saw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import OperatingPoint
from serving.decide.pricing import Pricing
from serving.decide.value import Setting
from training.certify.certify import of_known_workflow
from training.certify.evidence import CalibrationData, Expected
from training.certify.operating import operating_points
from training.config import Params
from training.dataset.split import folds
from training.extend.amounts import Amounts
from training.extend.fit import Ground, new_column
from training.extend.graph import NewColumn
from training.extend.log import Known
from training.measure.frontier import knob_grid
from training.measure.offpolicy import pseudo_outcomes

# The fields of `CalibrationData` that have a column for each candidate.
_CELLS = ("acceptable", "violation", "expected_cost", "labels", "cost", "propensity")


@dataclass(frozen=True)
class Widened(CalibrationData):
    """Requests as `CalibrationData.usable` has them for the known candidates, with the new one's outcomes in the last column.

    `complete` (n,) are those with every outcome of the known candidates. The new one's was seen there with a probability of
    its own, as elsewhere: a probe was drawn for what it tells, and stands for as many requests as it was unlikely.
    """

    def usable(self) -> Widened:
        """All of them."""
        return self

    @classmethod
    def of(cls, data: CalibrationData) -> Widened:
        """Of data whose `complete` are about the known candidates."""
        places = np.arange(len(data))
        known = {name: getattr(data, name)[:, :-1] for name in _CELLS}
        share = np.ones(data.labels.shape) if data.judged is None else data.judged
        kept = replace(data, **known, judged=share[:, :-1], groups=places).usable()
        rows = kept.groups  # which of them are left
        found = data.take(rows)
        propensity = np.column_stack([kept.propensity, found.propensity[:, -1]])
        judged = np.column_stack([kept.judged, share[rows][:, -1]]) if kept.judged is not None else None
        return cls(**{**vars(found), "propensity": propensity, "judged": judged, "complete": kept.complete})


def calibration_data(
    ground: Ground, entry: Candidate, log: Known, amounts: Amounts, among: Bools, params: Params
) -> Widened:
    """The requests `among` (n,), with what is expected of the new candidate by a column that was fitted on other folds' probes.

    Without those of a workflow that the champion never saw. Where an answer of the new candidate has no propensity, its
    outcome is left out.
    """
    rows = np.flatnonzero(among & of_known_workflow(log.matrix.workflow, ground.manifest.head.workflows))
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
    whole = new_column(ground, log, amounts, log.basis()) if len(rows) else None
    counted = log.inputs.counted[rows]
    spent = [amounts.by_name[name].predict(known[name][rows])[:, None] for name in ("output_tokens", "logged_cost_usd")]
    pricing = Pricing([entry], {entry.name: amounts.cost_from}, {entry.name: amounts.usual})
    part = log.take(rows)
    certain = np.isfinite(part.propensity[:, -1])
    labels, cost = part.labels.copy(), part.matrix.cost_usd.copy()
    labels[~certain, -1] = cost[~certain, -1] = np.nan
    part_known = part.matrix.first(len(part.matrix.candidates) - 1)
    labels[:, :-1][part_known.learning] = np.nan
    expected = np.column_stack([ground.cost_usd[rows], pricing.expected(counted, *spent)])
    data = CalibrationData(
        acceptable=np.column_stack([known["acceptable"][rows], new["acceptable"]]),
        violation=np.column_stack([known["violation"][rows], new["violation"]]),
        expected_cost=expected,
        labels=labels,
        cost=cost,
        propensity=part.propensity,
        judged=part.judged,
        complete=np.asarray((np.isfinite(labels) & np.isfinite(cost))[:, :-1].all(axis=1)),
        groups=part.groups,
        workflow=part.matrix.workflow,
        drawn=part_known.drawn,
        served=None if whole is None else _served(whole, ground, log, rows, expected),
    )
    return Widened.of(data)


def _served(column: NewColumn, ground: Ground, log: Known, rows: Columns, expected_cost: Floats) -> Expected:
    """What is expected of the requests `rows` with the column that is served, which was fitted on all of the probes."""
    said = column.predict({name: values[rows] for name, values in ground.known.items()}, log.workflows[rows])
    return Expected(
        np.column_stack([ground.known["acceptable"][rows].astype(np.float64), said["acceptable"]]),
        np.column_stack([ground.known["violation"][rows].astype(np.float64), said["violation"]]),
        expected_cost,
    )


@dataclass(frozen=True)
class Used:
    """The requests that certificates and comparisons rest on, with outcomes (n, m + 1) completed by what is expected."""

    data: Widened
    quality: Floats
    cost: Floats

    @classmethod
    def of(cls, data: Widened) -> Used:
        """Doubly robust pseudo-outcomes, as `operating_points` has them."""
        judged_cost = np.where(np.isfinite(data.labels), data.cost, np.nan)
        return cls(
            data,
            pseudo_outcomes(data.labels, data.propensity, data.acceptable, judged=data.judged),
            pseudo_outcomes(judged_cost, data.propensity, data.expected_cost, judged=data.judged),
        )

    def saving(self, setting: Setting, reference: int, candidates: int) -> float:
        """What a setting saves that chooses among the first so many candidates, relative to the reference alone."""
        some = np.s_[:, :candidates]
        data = self.data
        columns = setting.choose(data.acceptable[some], data.violation[some], data.expected_cost[some])
        spent = self.cost[np.arange(len(columns)), columns].mean()
        return 1.0 - float(spent / self.cost[:, reference].mean())


def points_of(used: Used | None, ground: Ground, name: str, params: Params) -> tuple[OperatingPoint, ...]:
    """The champion's points, each as it is, without the new candidate, or certified anew with it: whichever saves more.

    What a point of the champion's promises holds as long as the choice at it is the same, and without the new candidate it is.
    What is certified anew takes half of delta. One of two promises is picked by what they save, so that its confidence is what
    both leave together (Bonferroni's inequality). `used` are
    requests that the champion's heads never saw; without any, nothing is certified anew.
    """
    manifest = ground.manifest
    kept = [_without(point, name) for point in manifest.operating_points]
    targets = sorted({point.quality_target for point in kept if point.quality_target is not None})
    if used is None or not targets:
        return tuple(kept)
    m = len(manifest.candidates)
    names = [*(candidate.name for candidate in manifest.candidates), name]
    anew = operating_points(
        used.data,
        knob_grid(used.data.expected_cost, params.policy.certificate_knobs),
        targets,
        ground.reference,
        names,
        delta=params.policy.delta / 2,
        explore=params.policy.explore,
        minimum=params.policy.minimum_requests,
        seed=params.fit.seed,
    )
    certified = {point.quality_target: point for point in anew if point.certificate is not None}
    found = []
    for before, point in zip(manifest.operating_points, kept, strict=True):
        new = certified.get(before.quality_target)
        saves = used.saving(Setting.of(manifest, before), ground.reference, m)
        if new is not None and (new.saving or 0.0) > saves:
            point = _either(new, before).model_copy(update={"name": before.name})
        found.append(point)
    return tuple(found)


def _either(new: OperatingPoint, before: OperatingPoint) -> OperatingPoint:
    """The new point, promised with the confidence that remains where the one before might have been taken instead."""
    proof = new.certificate
    if proof is None or before.certificate is None:
        return new
    both = proof.model_copy(update={"delta": proof.delta + before.certificate.delta})
    return new.model_copy(update={"certificate": both})


def _without(point: OperatingPoint, name: str) -> OperatingPoint:
    """The point as the champion has it. One that is always the reference, or has no certificate, leaves nobody out."""
    if point.certificate is None:
        return point
    return point.model_copy(update={"without": (*point.without, name)})
