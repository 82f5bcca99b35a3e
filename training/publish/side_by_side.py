"""Two bundles on one log, each as it is served: what either would have cost and been worth, and where requests would move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.decide.router import Router
from training.config import Params
from training.dataset.label import acceptable
from training.dataset.matrix import OutcomeMatrix, build_matrix, workflow_names
from training.dataset.split import group_requests
from training.logs.outcomes import Outcomes
from training.measure.frontier import bootstrap_weights
from training.prices.costs import fill_costs
from training.publish.compare import NotComparableError

# Of fewer conversations than these, resampling them says nothing of others.
ENOUGH = 50


@dataclass(frozen=True)
class Part:
    """Requests of one workflow, or all of them: mean quality and cost under either bundle, and the differences' 95%
    intervals, the second minus the first. Resampled are whole `conversations`."""

    name: str
    requests: int
    conversations: int
    quality: tuple[float, float]
    cost_usd: tuple[float, float]
    quality_gap: tuple[float, float]
    cost_gap: tuple[float, float]

    @property
    def enough(self) -> bool:
        """Whether the intervals say anything."""
        return self.conversations >= ENOUGH


@dataclass(frozen=True)
class SideBySide:
    """`whole` and a part for each workflow, most requests first; `shares` by candidate under either bundle, and the share
    that `moved` from one candidate to another."""

    versions: tuple[str, str]
    points: tuple[str, str]
    whole: Part
    workflows: tuple[Part, ...]
    shares: dict[str, tuple[float, float]]
    moved: float


def side_by_side(
    first: Router, second: Router, table: Outcomes, prices: Mapping[str, Candidate], params: Params
) -> SideBySide:
    """Both bundles on the log's requests of which every candidate's outcome is known; raises NotComparableError.

    Quality is what the first bundle's objective is about: whether an answer was acceptable.
    """
    names = list(dict.fromkeys([*first.candidates, *second.candidates]))
    known = {one.name: one for router in (second, first) for one in router.manifest.candidates} | dict(prices)
    matrix, _ = fill_costs(build_matrix(table.frame, names), known, params.costs.assumed_output_tokens)
    rows = matrix.complete()
    if not rows.any():
        missing = [name for column, name in enumerate(names) if not np.isfinite(matrix.quality[:, column]).any()]
        what = f"it has no judged outcome of {', '.join(missing)}" if missing else "no request has one of all of them"
        raise NotComparableError(
            f"the log has no request with a judged, costed outcome of each of {', '.join(names)}: {what}. Give an evaluation "
            f"run, or shadow requests that went to all candidates"
        )
    groups = group_requests(list(matrix.texts), list(matrix.session_id))[rows]
    matrix = matrix.take(rows)
    went = [_went(router, matrix, names) for router in (first, second)]
    quality = acceptable(matrix.quality, first.manifest.acceptable)
    weights = bootstrap_weights(groups, params.evaluate.resamples, params.evaluate.seed)

    def part(name: str, inside: Bools) -> Part:
        places = np.flatnonzero(inside)
        got = [(quality[places, columns[places]], matrix.cost_usd[places, columns[places]]) for columns in went]
        (q1, c1), (q2, c2) = got
        return Part(
            name,
            len(places),
            len(np.unique(groups[places])),
            (float(q1.mean()), float(q2.mean())),
            (float(c1.mean()), float(c2.mean())),
            _interval(q2 - q1, weights[:, places]),
            _interval(c2 - c1, weights[:, places]),
        )

    tags = workflow_names(matrix.workflow)
    parts = [part(name, tags == name) for name in sorted(set(tags.tolist()))]
    return SideBySide(
        (first.manifest.version, second.manifest.version),
        (first.manifest.default_point, second.manifest.default_point),
        part("all", np.ones(len(matrix), dtype=np.bool_)),
        tuple(sorted(parts, key=lambda one: -one.requests)),
        {name: (float((went[0] == k).mean()), float((went[1] == k).mean())) for k, name in enumerate(names)},
        float((went[0] != went[1]).mean()),
    )


def _went(router: Router, matrix: OutcomeMatrix, names: list[str]) -> Columns:
    """(n,) where the bundle sends the requests, as columns of `names`."""
    requests = list(matrix.requests)
    columns = np.array([names.index(name) for name in router.candidates], dtype=np.intp)
    return columns[router.chosen(requests, router.estimate(requests))]


def _interval(gap: Floats, weights: Floats) -> tuple[float, float]:
    """The paired bootstrap 95% interval of the mean of differences (n,), with weights (repeats, n)."""
    total = weights.sum(axis=1)
    means = (weights @ gap)[total > 0] / total[total > 0]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return float(low), float(high)
