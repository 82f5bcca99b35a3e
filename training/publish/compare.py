"""Two bundles on the same test requests: what each would have given, and how surely one is no worse than the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

from serving.bundle.arrays import Columns, Floats
from serving.bundle.request import RouteRequest
from serving.decide.decision import Estimates
from serving.decide.policy import Policy
from serving.decide.router import Router
from training.config import Params
from training.dataset.encoders import encoder_fingerprint
from training.dataset.inputs import Inputs
from training.dataset.matrix import Objects, standing_of
from training.dataset.split import conversations
from training.errors import TrainingError
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.measure.frontier import bootstrap_aiq, bootstrap_weights, frontier, singles
from training.measure.metrics import mean_of
from training.measure.offpolicy import doubly_robust, pseudo_outcomes


class NotComparableError(TrainingError):
    """Two bundles that the test requests cannot compare; the message says what is missing."""


@dataclass(frozen=True)
class Measured:
    """What one bundle gives on the compared requests: its policy value (AIQ), and its default operating point.

    `quality` is the mean quality there (the share of acceptable answers, where that is the objective), `cost_usd` the
    mean cost of a request.
    """

    version: str
    aiq: float
    quality: float
    cost_usd: float


@dataclass(frozen=True)
class Comparison:
    """Two bundles on the same `requests` test requests, choosing among `candidates`.

    `low` and `high` are the paired bootstrap 95% interval of the difference of their AIQ, new minus champion, and
    `quality_high` is the upper end of that of the quality at their operating points. `method` is
    "complete" where all outcomes of these requests are known, "doubly robust" where they were seen by chance.
    """

    requests: int
    candidates: tuple[str, ...]
    new: Measured
    champion: Measured
    low: float
    high: float
    margin: float
    method: Literal["complete", "doubly robust"] = "complete"
    quality_high: float = inf

    @property
    def difference(self) -> float:
        return self.new.aiq - self.champion.aiq

    @property
    def worse_served(self) -> bool:
        """Whether what would be served is of lower quality: by more than the margin, and beyond what chance explains."""
        return self.new.quality - self.champion.quality < -self.margin and self.quality_high < 0

    @property
    def enough(self) -> bool:
        """Whether the new bundle is shown not to be worse by more than the margin (a test of non-inferiority).

        What is served at its operating point may not be shown to be worse; few requests show little of that.
        """
        return self.low >= -self.margin and not self.worse_served


def compare(
    new: Router,
    champion: Router,
    requests: Sequence[str | RouteRequest],
    quality: Floats,
    cost_usd: Floats,
    groups: Columns,
    candidates: Sequence[str],
    *,
    margin: float,
    minimum: int,
    resamples: int,
    seed: int,
    propensity: Floats | None = None,
    judged: Floats | None = None,
    drawn: Columns | None = None,
    estimated: tuple[Estimates, ...] | None = None,
    standing: Floats | None = None,
) -> Comparison:
    """Runs both bundles, as served, on the same test requests; raises NotComparableError.

    Parameters: n test `requests`; `quality` (what the new bundle's objective is about) and `cost_usd` (n, m), NaN where
    not observed, with the m `candidates` as columns; `groups` (n,) ties requests that are resampled together. Compared
    are the candidates that both bundles know and the log has, on the requests of which all of these were judged and
    costed. Each bundle maximises its own objective over its own knobs.

    Where there are fewer than `minimum` such requests, `propensity` (n, m), with which each outcome was seen, and the
    share of that which is being `judged` (n, m; None: 1) give every request doubly robust pseudo-outcomes in their place, by
    the mean of what both bundles expect. They are right whatever is expected only where the log tried enough of it, so each
    candidate has to have an effective sample of at least `minimum`, in which requests that may have been `drawn` (n,) together,
    as those of a conversation are, count as one. What either expects may be `estimated` already. `standing` (n,) is how many
    requests of a sampled log each stands for; None: as many each.

    Neither bundle is chosen on these requests. The new one was not trained on them, while the champion may have been,
    where its log's training part overlaps with this one's test part. That flatters the champion, so it can hold back a
    better bundle but not let a worse one through.
    """
    shared = tuple(name for name in candidates if name in new.candidates and name in champion.candidates)
    if len(shared) < 2:
        raise NotComparableError(
            f"the log and both bundles have {len(shared)} candidates in common, and at least 2 are needed (the log has "
            f"{', '.join(candidates)}; the champion knows {', '.join(champion.candidates)})"
        )
    columns = [list(candidates).index(name) for name in shared]
    quality, cost_usd = quality[:, columns], cost_usd[:, columns]
    found = estimated or tuple(router.estimate(requests) for router in (new, champion))
    served = [_Served.of(*one, requests, shared) for one in zip((new, champion), found, strict=True)]
    rows = np.flatnonzero((np.isfinite(quality) & np.isfinite(cost_usd)).all(axis=1))
    method: Literal["complete", "doubly robust"] = "complete"
    if len(rows) < minimum:
        why = (
            f"{len(rows)} of {len(quality)} test requests have a judged, costed outcome of each of {', '.join(shared)}, "
            f"and at least {minimum} are needed"
        )
        if propensity is None:
            raise NotComparableError(why)
        method, rows = "doubly robust", np.arange(len(quality))
        try:
            share = np.ones(quality.shape) if judged is None else judged[:, columns]
            known_by = propensity[:, columns], share
            quality, cost_usd = _pseudo(quality, cost_usd, known_by, served, shared, minimum, drawn, standing)
        except NotComparableError as error:
            raise NotComparableError(f"{why}; from requests with one outcome neither: {error}") from error
    counts = None if standing is None else standing[rows]
    outcome = quality[rows], cost_usd[rows], counts
    weights = bootstrap_weights(groups[rows], resamples, seed, standing=counts)
    measured_new, aiq_new, quality_new = _measure(new, served[0].take(rows), *outcome, weights)
    measured_champion, aiq_champion, quality_champion = _measure(champion, served[1].take(rows), *outcome, weights)
    low, high = np.quantile(aiq_new - aiq_champion, [0.025, 0.975]).tolist()
    quality_high = float(np.quantile(quality_new - quality_champion, 0.975))
    return Comparison(len(rows), shared, measured_new, measured_champion, low, high, margin, method, quality_high)


@dataclass(frozen=True)
class _Served:
    """What one bundle expects of n requests: its objective's value and cost of the shared candidates, both (n, m).

    `chosen` (n,) is where it sends them, to one of these candidates.
    """

    value: Floats
    cost_usd: Floats
    chosen: Columns

    @classmethod
    def of(
        cls, router: Router, estimates: Estimates, requests: Sequence[str | RouteRequest], candidates: Sequence[str]
    ) -> _Served:
        columns = [router.candidates.index(name) for name in candidates]
        value = estimates.of(router.manifest.objective).astype(np.float64)
        # What is not among the candidates is left out, as by a request that does not allow it.
        went = router.chosen(requests, estimates, Policy(allow=(tuple(candidates),)))
        place = np.zeros(len(router.candidates), dtype=np.intp)
        place[columns] = np.arange(len(columns))
        return cls(value[:, columns], estimates.cost_usd[:, columns], place[went])

    def take(self, rows: Columns) -> _Served:
        return _Served(self.value[rows], self.cost_usd[rows], self.chosen[rows])


def _pseudo(
    quality: Floats,
    cost_usd: Floats,
    known_by: tuple[Floats, Floats],
    served: Sequence[_Served],
    candidates: Sequence[str],
    minimum: int,
    drawn: Columns | None,
    standing: Floats | None,
) -> tuple[Floats, Floats]:
    """Doubly robust quality and cost (n, m); raises NotComparableError where the log has too little of a candidate.

    `known_by` are the propensities and the share judged, (n, m). What only one bundle expects would be in its favour, so it is
    the mean of both.
    """
    value, cost = (np.mean([getattr(one, name) for one in served], axis=0) for name in ("value", "cost_usd"))
    seen_cost = np.where(np.isfinite(quality), cost_usd, np.nan)
    propensity, judged = known_by
    for column, name in enumerate(candidates):
        always = np.full(len(quality), column, dtype=np.intp)
        found = doubly_robust(
            quality,
            propensity,
            always,
            value,
            judged=judged,
            minimum_effective=minimum,
            groups=drawn,
            standing=standing,
        )
        if found.refused is not None:
            raise NotComparableError(f"of {name}, {found.refused}")
    return (
        pseudo_outcomes(quality, propensity, value, judged=judged),
        pseudo_outcomes(seen_cost, propensity, cost, judged=judged),
    )


def compare_on_test_part(
    new: Router,
    champion: Router,
    prepared: Prepared,
    learned: Learned,
    params: Params,
    by: tuple[Inputs, str] | None = None,
) -> Comparison:
    """Both bundles on the test part of the new one's log, whose outcomes' propensities `learned` has.

    Where texts are not at hand, it is `by` the requests' inputs and the fingerprint of the encoder that they are of: a champion
    with another encoder has none of them. Raises NotComparableError.
    """
    tested = prepared.split.test
    estimated = None
    if by is not None:
        inputs, encoder = by
        if encoder_fingerprint(champion.manifest.files) != encoder:
            raise NotComparableError(
                "it has another encoder, and of requests that were learned from before no text is kept that it could read. "
                "Train on everything (router-train run --data OLD --data NEW)"
            )
        workflow = None if inputs.derived else prepared.matrix.workflow[tested]
        estimated = tuple(_by_inputs(router, inputs.take(tested), workflow) for router in (new, champion))
    return compare(
        new,
        champion,
        list(prepared.matrix.requests[tested]),
        prepared.value(new.manifest.objective)[tested],
        prepared.matrix.cost_usd[tested],
        prepared.groups[tested],
        prepared.matrix.candidates,
        margin=params.tracking.margin,
        minimum=params.tracking.minimum_requests,
        resamples=params.evaluate.resamples,
        seed=params.evaluate.seed,
        propensity=learned.propensity[tested],
        judged=learned.judged[tested],
        drawn=conversations(list(prepared.matrix.session_id[tested])),
        estimated=estimated,
        standing=standing_of(prepared.matrix.weight[tested]),
    )


def _by_inputs(router: Router, inputs: Inputs, workflow: Objects | None) -> Estimates:
    """What a bundle expects of n requests by their inputs, with the workflows (n,) that it knows."""
    names = np.array(router.manifest.head.workflows, dtype=object)
    tags = np.zeros((len(inputs), len(names))) if workflow is None else names[None, :] == workflow[:, None]
    features = np.hstack([inputs.features[:, : inputs.surface], tags]).astype(np.float32)
    return router.estimate_embedded(inputs.embedding, features, inputs.counted)


def _measure(
    router: Router,
    served: _Served,
    quality: Floats,
    cost_usd: Floats,
    standing: Floats | None,
    weights: Floats,
) -> tuple[Measured, Floats, Floats]:
    """A bundle's figures on n requests with complete outcomes (n, m), and its AIQ and quality on each resample, (repeats,)."""
    points = frontier(served.value, served.cost_usd, quality, cost_usd, np.array(router.manifest.knobs), standing)
    rows = np.arange(len(quality))
    got = quality[rows, served.chosen]
    measured = Measured(
        router.manifest.version,
        aiq=singles(quality, cost_usd, standing).aiq(points.cost, points.quality),
        quality=float(mean_of(got, standing)),
        cost_usd=float(mean_of(cost_usd[rows, served.chosen], standing)),
    )
    return measured, bootstrap_aiq(points, quality, cost_usd, weights), weights @ got / weights.sum(axis=1)
