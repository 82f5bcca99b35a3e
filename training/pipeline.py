"""The stages in order: outcomes to matrices, split, embeddings, heads, costs, operating points. Data in, data out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.catalogue import Candidate
from serving.features import SURFACE, feature_matrix
from training.config import Params
from training.costs import CostModel, CostNotes, cost_sources, fill_costs, fit_costs
from training.embed import embed
from training.encoders import EncoderFiles, make_encoder
from training.estimators.base import Floats, Inputs
from training.estimators.registry import factories
from training.fit import Head, Training, fit_head
from training.label import acceptable
from training.matrix import OutcomeMatrix, build_matrix
from training.split import Split, folds, group_requests, split_requests

Progress = Callable[[str, int | None, int | None], None]


class PipelineError(ValueError):
    """A log that is well formed but from which no router can be trained."""


def silent(stage: str, done: int | None = None, total: int | None = None) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Prepared:
    """A log ready to be learnt from. `labels` (n, m) is 1 acceptable, 0 not, NaN not judged; `groups` (n,) ties
    requests that may not be separated."""

    matrix: OutcomeMatrix
    labels: Floats
    groups: NDArray[np.intp]
    split: Split
    candidates: tuple[Candidate, ...]
    workflows: tuple[str, ...]
    cost_notes: CostNotes
    fingerprint: str


@dataclass(frozen=True)
class Learned:
    """Everything that was learnt on the training part; predictions are (n, m)."""

    tagged: Head
    untagged: Head
    costs: CostModel
    reference: int
    reference_note: str
    data: Training

    def predict(self, inputs: Inputs) -> Floats:
        """Calibrated P(acceptable): by the tagged head where the workflow is known, else by the untagged one."""
        return np.where(inputs.tagged[:, None], self.tagged.predict(inputs), self.untagged.predict(inputs.untagged()))


def prepare(frame: pd.DataFrame, params: Params, catalogue: Mapping[str, Candidate]) -> Prepared:
    """Matrices, labels and the split; raises PipelineError, CostError or SplitError."""
    built = build_matrix(frame)
    if len(built.candidates) < 2:
        raise PipelineError(
            f"the log has outcomes of one candidate only ({built.candidates[0]}): there is nothing to choose between. "
            "Send a share of the traffic to a second candidate (shadow requests tell most), or import an evaluation run."
        )
    matrix, notes = fill_costs(built, catalogue, params.costs.assumed_output_tokens)
    labels = acceptable(matrix.quality, params.label.acceptable)
    judged = np.isfinite(labels).sum(axis=0)
    if not judged.all():
        silent_ones = ", ".join(np.array(matrix.candidates)[judged == 0])
        raise PipelineError(
            f"no outcome of {silent_ones} was judged. Add quality for some of its rows, or leave the candidate out."
        )
    groups = group_requests(list(matrix.texts), list(matrix.session_id))
    split = split_requests(
        groups,
        matrix.timestamp,
        matrix.given_split,
        fractions=(
            params.split.train,
            params.split.calibration,
            1.0 - params.split.train - params.split.calibration,
        ),
        method=params.split.method,
        seed=params.split.seed,
    )
    workflows = tuple(sorted({w for w in matrix.workflow[split.train] if w is not None}))
    candidates = tuple(catalogue.get(name, Candidate(name=name)) for name in matrix.candidates)
    return Prepared(matrix, labels, groups, split, candidates, workflows, notes, fingerprint(frame))


def fingerprint(frame: pd.DataFrame) -> str:
    """sha256 over the outcome table's values: the same log gives the same fingerprint."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name].astype(str) if frame[name].dtype == object else frame[name]
        digest.update(name.encode())
        digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def encode(prepared: Prepared, params: Params, cache: Path, progress: Progress = silent) -> tuple[Inputs, EncoderFiles]:
    """The head's inputs for every request, and the encoder that made them."""
    progress("make encoder", None, None)
    kind = params.embed.encoder
    files = make_encoder(
        kind,
        params.embed.source,
        cache / "encoders",
        static_dim=params.embed.static_dim,
        max_tokens=params.embed.static_max_tokens if kind == "static" else params.embed.transformer_max_tokens,
    )
    embedding = embed(
        list(prepared.matrix.texts),
        files,
        cache / "embeddings",
        threads=params.embed.threads,
        progress=lambda done, total: progress("embed", done, total),
    )
    features = feature_matrix(list(prepared.matrix.requests), list(prepared.matrix.texts), prepared.workflows)
    return Inputs(embedding, features, len(SURFACE)), files


def learn(prepared: Prepared, inputs: Inputs, params: Params, progress: Progress = silent) -> Learned:
    """Fits costs and both heads on the training part alone."""
    rows = prepared.split.train
    matrix, train = prepared.matrix.take(rows), inputs.take(rows)
    labels = prepared.labels[rows]
    fold = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    cost_from = cost_sources(matrix, {c.name: c for c in prepared.candidates})

    def costs_of(part: NDArray[np.bool_]) -> CostModel:
        return fit_costs(
            train.take(part),
            matrix.take(part),
            prepared.candidates,
            cost_from,
            shared=params.costs.shared_penalty,
            own=params.costs.own_penalty,
        )

    progress("costs", None, None)
    expected = np.empty(labels.shape)
    for held in range(params.fit.folds):
        inside = fold == held
        expected[inside] = costs_of(~inside).cost_usd(train.take(inside))
    data = Training(
        inputs=train,
        labels=labels,
        weights=np.ones(labels.shape),
        cost=matrix.cost_usd,
        expected_cost=expected,
        complete=matrix.complete(),
        folds=fold,
    )
    kinds = factories(params.fit, mean_cost=np.nanmean(matrix.cost_usd, axis=0))

    def head(part: Training, tag: str) -> Head:
        return fit_head(
            part,
            kinds,
            calibration=params.calibrate.method,
            knob_steps=params.policy.knob_steps,
            seed=params.fit.seed,
            progress=lambda name: progress(f"fit {name} {tag}", None, None),
        )

    tagged = head(data, "with workflow tags")
    untagged = (
        head(Training(**{**vars(data), "inputs": train.untagged()}), "without workflow tags")
        if prepared.workflows
        else tagged
    )
    reference, note = _reference(prepared, labels, data.complete, params.policy.reference)
    return Learned(tagged, untagged, costs_of(np.ones(len(fold), dtype=np.bool_)), reference, note, data)


def _reference(prepared: Prepared, labels: Floats, complete: NDArray[np.bool_], wanted: str) -> tuple[int, str]:
    """The column of the reference candidate and how it was found."""
    names = prepared.matrix.candidates
    if wanted != "auto":
        if wanted not in names:
            raise PipelineError(
                f"policy.reference is {wanted!r}, which is not in the log; there are {', '.join(names)}"
            )
        return names.index(wanted), "as set"
    if complete.sum() >= 30:
        return int(labels[complete].mean(axis=0).argmax()), f"best mean on {int(complete.sum())} complete requests"
    return int(np.nanmean(labels, axis=0).argmax()), "best mean on judged outcomes; few requests were complete"
