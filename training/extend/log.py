"""A log as the champion sees it: its candidates' outcomes and the new one's, by its encoder, and what is new to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats, Floats32
from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE, feature_matrix
from serving.bundle.request import read
from serving.decide.router import Router
from training.config import Params
from training.dataset.embed import embed
from training.dataset.encoders import EncoderFiles
from training.dataset.fingerprints import seen_by
from training.dataset.inputs import Inputs, Progress, silent
from training.dataset.label import acceptable
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.dataset.split import folds, group_requests, split_requests
from training.errors import TrainingError
from training.learn.prepare import fingerprint
from training.learn.refit import keeps_nothing_aside
from training.learn.training_data import cell_judged, cell_propensity
from training.logs.outcomes import Outcomes
from training.measure.propensity import judged_share
from training.prices.costs import fill_costs

# With fewer judged answers of a candidate nothing is fitted, and more are asked for.
LEAST = 20


class ExtendError(TrainingError):
    """A candidate that cannot be added; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Known:
    """n requests. Outcomes (n, m + 1) have the champion's candidates as columns, in its order, and the new one behind.

    `fresh` (n,) marks requests that the champion's heads were not learned from, `tested` those of the log's test part, on which
    later bundles are compared. `labels` are 0, 1 or NaN; `propensity` is that of a judged outcome, `judged` the share of it
    that is being judged.
    """

    matrix: OutcomeMatrix
    labels: Floats
    propensity: Floats
    judged: Floats
    groups: Columns
    inputs: Inputs
    fresh: Bools
    tested: Bools
    fingerprint: str

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def answered(self) -> Bools:
        """(n,) requests with a judged answer of the new candidate."""
        return np.asarray(np.isfinite(self.labels[:, -1]))

    @property
    def workflows(self) -> Floats32:
        """(n, k) a column for each workflow that the head is told of."""
        return self.inputs.workflows

    def take(self, rows: Bools | Columns) -> Known:
        taken = ("labels", "propensity", "judged", "groups", "fresh", "tested")
        parts = {name: getattr(self, name)[rows] for name in taken}
        return replace(self, matrix=self.matrix.take(rows), inputs=self.inputs.take(rows), **parts)

    def basis(self, least: int = LEAST) -> Bools:
        """(n,) the requests that the new column is fitted on: fresh ones if `least` of them have an answer, else all but test.

        On fresh ones the champion's heads are as unsure as they will be of traffic. Those of the test part stay out: later
        bundles are compared on them.
        """
        fresh = self.fresh & ~self.tested
        return fresh if int((fresh & self.answered).sum()) >= least else ~self.tested


def known_of(
    table: Outcomes,
    name: str,
    champion: Router,
    params: Params,
    catalogue: Mapping[str, Candidate],
    cache: Path,
    progress: Progress = silent,
) -> Known:
    """The log's requests of the champion's candidates and the new one; raises ExtendError, CostError or SplitError.

    Encoded by the champion's own encoder, whatever `params` say. The parts are those of `run` with the same parameters. Fresh
    are the requests that the champion was not made from and, where the log is the one that it was made from, those of the
    calibration part, if it has kept one.
    """
    frame = table.frame
    names = [*champion.candidates, name]
    if not frame["candidate"].isin(champion.candidates).any():
        raise ExtendError(
            f"the log has no outcome of {', '.join(champion.candidates)}, which {champion.manifest.version} knows: give the "
            "log that it was made from with --data, or another one of the same candidates"
        )
    built = build_matrix(frame, names)
    priced = {**{candidate.name: candidate for candidate in champion.manifest.candidates}, **catalogue}
    matrix, _ = fill_costs(built, priced, params.costs.assumed_output_tokens)
    labels = acceptable(matrix.quality, champion.manifest.acceptable)
    groups = group_requests(list(matrix.texts), list(matrix.session_id))
    split = split_requests(
        groups,
        matrix.timestamp,
        matrix.given_split,
        fractions=(params.split.train, params.split.calibration, 1.0 - params.split.train - params.split.calibration),
        method=params.split.method,
        seed=params.split.seed,
    )
    inputs = _encoded(champion, matrix, params, cache, progress)
    fresh = ~seen_by(champion.bundle, matrix.texts)
    others = frame[frame["candidate"] != name].reset_index(drop=True)
    known = matrix.first(len(champion.candidates))
    aside = not keeps_nothing_aside(known, labels[:, :-1], groups, split, params)
    if aside and fingerprint(others) == champion.manifest.data_fingerprint:
        fresh = fresh | split.calibration
    propensity, judged = _propensity(matrix, labels, groups, inputs, params)
    return Known(
        matrix=matrix,
        labels=labels,
        propensity=propensity,
        judged=judged,
        groups=groups,
        inputs=inputs,
        fresh=np.asarray(fresh),
        tested=np.asarray(split.test | split.dropped),
        fingerprint=fingerprint(frame),
    )


def _encoded(champion: Router, matrix: OutcomeMatrix, params: Params, cache: Path, progress: Progress) -> Inputs:
    manifest = champion.manifest
    embedding = embed(
        list(matrix.texts),
        EncoderFiles(champion.bundle.folder, manifest.encoder),
        cache / "embeddings",
        threads=params.embed.threads,
        progress=lambda done, total: progress("embed", done, total),
    )
    features = feature_matrix(list(matrix.requests), manifest.head.workflows)
    counted = np.array([read(request).said for request in matrix.requests], dtype=np.float64)
    return Inputs(embedding, features, len(SURFACE), counted)


def _propensity(
    matrix: OutcomeMatrix, labels: Floats, groups: Columns, inputs: Inputs, params: Params
) -> tuple[Floats, Floats]:
    """(n, m + 1) that of the known candidates as if there were no other, and of the new one's answers as it is logged.

    And (n, m + 1) the share of it that is being judged. An answer of the new candidate without a propensity, as of a request
    that somebody sent there, stays without.
    """
    known = matrix.first(len(matrix.candidates) - 1)
    fair = np.where(known.learning, np.nan, labels[:, :-1])
    found, _ = cell_propensity(
        known,
        fair,
        inputs.features,
        lambda among: folds(groups[among], params.fit.folds, params.fit.seed),
    )
    asked, error, judged = matrix.attempted[:, -1:], matrix.error[:, -1:], labels[:, -1:]
    share = judged_share(asked, error, judged)
    new = np.where(asked, matrix.propensity[:, -1:] * share, np.nan)
    return np.hstack([found, new]), np.hstack([cell_judged(known, fair), share])
