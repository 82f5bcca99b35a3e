"""The stages in order: outcomes to matrices, split, embeddings, heads, costs, operating points. Data in, data out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE, feature_matrix
from serving.bundle.manifest import Objective
from training.config import Params
from training.dataset.embed import embed
from training.dataset.encoders import EncoderFiles, Kind, make_encoder
from training.dataset.label import acceptable
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.dataset.split import Split, folds, group_requests, split_requests
from training.errors import TrainingError
from training.learn.costs import CostModel, CostNotes, cost_sources, fill_costs, fit_costs
from training.learn.estimators.base import Floats, Inputs, Matrix
from training.learn.estimators.linear import LowRankResidual
from training.learn.estimators.registry import variants
from training.learn.novelty import Spread, spread_of
from training.learn.select import Blending, Factory, Head, OutOfFold, Training, fit_head, out_of_fold, out_of_fold_aiq
from training.measure.offpolicy import estimate_propensities, judged_propensity

Progress = Callable[[str, int | None, int | None], None]


class PipelineError(TrainingError):
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

    @property
    def graded(self) -> bool:
        """Whether logged quality is more than 0 or 1."""
        quality = self.matrix.quality
        return bool(((quality > 0) & (quality < 1)).any())

    def value(self, objective: Objective) -> Floats:
        """(n, m) the outcomes that the objective is about, NaN where not judged."""
        return self.labels if objective is Objective.ACCEPTABLE else self.matrix.quality


@dataclass(frozen=True)
class Pair:
    """Two heads for one target: one for requests with a known workflow, one for the others. Predictions are (n, m)."""

    tagged: Head
    untagged: Head

    def predict(self, inputs: Inputs) -> Floats:
        """Calibrated, each request by its head."""
        return np.where(inputs.tagged[:, None], self.tagged.predict(inputs), self.untagged.predict(inputs.untagged()))

    def raw(self, inputs: Inputs) -> Floats:
        """Before calibration."""
        return np.where(
            inputs.tagged[:, None],
            self.tagged.estimator.predict(inputs),
            self.untagged.estimator.predict(inputs.untagged()),
        )


@dataclass(frozen=True)
class Learned:
    """Everything that was learnt on the training part; `quality` is None where logged quality is 0/1 throughout.

    `centres` (clusters, dim) are unit vectors, the middle of each cluster of training prompts; `spread`
    is how they lie as a whole.
    """

    acceptable: Pair
    quality: Pair | None
    costs: CostModel
    reference: int
    reference_note: str
    propensity_note: str
    data: Training
    centres: Matrix
    spread: Spread


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
    """The head's inputs for every request, and the encoder that made them.

    For "auto" both encoders are tried: the transformer is used only if it earns its price out of fold.
    """
    if params.embed.encoder != "auto":
        return _encode_with(params.embed.encoder, prepared, params, cache, progress)
    static = _encode_with("static", prepared, params, cache, progress)
    transformer = _encode_with("transformer", prepared, params, cache, progress)
    progress("compare encoders", None, None)
    lead = encoder_lead(prepared, static[0], transformer[0], params)
    return transformer if lead is not None and lead[0] > lead[1] else static


def encoder_lead(prepared: Prepared, static: Inputs, transformer: Inputs, params: Params) -> tuple[float, float] | None:
    """The transformer's out-of-fold AIQ minus the static encoder's, and its standard error; None if not measurable.

    Both are scored with the low-rank residual, which is quick and uses the embedding alone beside the table; the rule is
    that of `fit.select`: the simpler one unless it falls behind by more than one standard error.
    """
    found = []
    for inputs in (static, transformer):
        data, _ = training_data(prepared, inputs, params)
        predictions = out_of_fold(lambda: LowRankResidual(params.fit.low_rank_penalty[0], params.fit.low_rank[0]), data)
        found.append(out_of_fold_aiq(predictions, data, params.policy.knob_steps, params.fit.seed))
    (simple, simple_resampled), (dear, dear_resampled) = found
    if np.isnan(simple) or np.isnan(dear):
        return None
    return dear - simple, float(np.std(dear_resampled - simple_resampled))


def _encode_with(
    kind: Kind, prepared: Prepared, params: Params, cache: Path, progress: Progress
) -> tuple[Inputs, EncoderFiles]:
    progress(f"make {kind} encoder", None, None)
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
        progress=lambda done, total: progress(f"embed ({kind})", done, total),
    )
    features = feature_matrix(list(prepared.matrix.requests), prepared.workflows)
    return Inputs(embedding, features, len(SURFACE)), files


def training_data(prepared: Prepared, inputs: Inputs, params: Params) -> tuple[Training, str]:
    """The training part as estimators see it, with expected costs out of fold, and where its propensities are from."""
    rows = prepared.split.train
    matrix, train = prepared.matrix.take(rows), inputs.take(rows)
    labels = prepared.labels[rows]
    fold = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    expected = np.empty(labels.shape)
    for held in range(params.fit.folds):
        inside = fold == held
        expected[inside] = cost_model(prepared, matrix, train, ~inside, params).cost_usd(train.take(inside))
    propensity, note = observation_propensity(matrix, labels, train, fold)
    data = Training(
        inputs=train,
        labels=labels,
        weights=fitting_weights(propensity, params.fit.weight_clip),
        propensity=propensity,
        cost=matrix.cost_usd,
        expected_cost=expected,
        complete=matrix.complete(),
        groups=prepared.groups[rows],
        folds=fold,
    )
    return data, note


def cost_model(
    prepared: Prepared, matrix: OutcomeMatrix, inputs: Inputs, rows: NDArray[np.bool_], params: Params
) -> CostModel:
    """Tokens, cost and latency, learnt on the given rows of the training part."""
    return fit_costs(
        inputs.take(rows),
        matrix.take(rows),
        prepared.candidates,
        cost_sources(matrix, {c.name: c for c in prepared.candidates}),
        shared=params.costs.shared_penalty,
        own=params.costs.own_penalty,
    )


def learn(prepared: Prepared, inputs: Inputs, params: Params, progress: Progress = silent) -> Learned:
    """Fits costs and both heads on the training part alone."""
    progress("costs", None, None)
    data, propensity_note = training_data(prepared, inputs, params)
    train, labels = data.inputs, data.labels
    matrix = prepared.matrix.take(prepared.split.train)
    kinds = variants(params.fit, mean_cost=np.nanmean(matrix.cost_usd, axis=0))

    def pair(target: Training, kinds: Mapping[str, Factory], calibration: str, what: str) -> Pair:
        kept = OutOfFold()

        def head(part: Training, tag: str) -> Head:
            return fit_head(
                part,
                kinds,
                calibration=calibration,
                blend=Blending(params.fit.blend_errors, params.fit.blend_equal) if params.fit.blend else None,
                knob_steps=params.policy.knob_steps,
                seed=params.fit.seed,
                kept=kept,
                progress=lambda name: progress(f"{what}: {name}, {tag}", None, None),
            )

        tagged = head(target, "with workflow tags")
        if not prepared.workflows:
            return Pair(tagged, tagged)
        return Pair(tagged, head(replace(target, inputs=train.untagged()), "without workflow tags"))

    heads = pair(data, kinds, params.calibrate.method, "acceptable")
    graded = None
    if prepared.graded:
        means = {name: kind for name, kind in kinds.items() if kind().graded}
        graded = pair(replace(data, labels=matrix.quality), means, "none", "quality")
    reference, note = _reference(prepared, labels, data.complete, params.policy.reference)
    everything = cost_model(prepared, matrix, train, np.ones(len(train), dtype=np.bool_), params)
    centres = prompt_clusters(train.embedding, params.fit.novelty_clusters, params.fit.seed)
    return Learned(
        heads, graded, everything, reference, note, propensity_note, data, centres, spread_of(train.embedding)
    )


def prompt_clusters(embedding: Matrix, clusters: int, seed: int) -> Matrix:
    """(k, dim) float32 unit vectors: the middles of up to `clusters` clusters of n unit embeddings (n, dim)."""
    k = max(1, min(clusters, len(embedding) // 25))
    model = MiniBatchKMeans(k, n_init=1, batch_size=4096, random_state=seed).fit(embedding)
    centres = model.cluster_centers_
    length = np.linalg.norm(centres, axis=1, keepdims=True)
    return np.asarray(centres / np.where(length > 0, length, 1.0), dtype=np.float32)


def observation_propensity(
    matrix: OutcomeMatrix, labels: Floats, inputs: Inputs, fold: NDArray[np.intp]
) -> tuple[Floats, str]:
    """(n, m) the probability with which each cell was tried and judged, NaN where it was not tried, and where it is from.

    A request on which every candidate was tried counts as certain. Where the log has propensities they are used, and a
    request with one outcome and no propensity is left out; where it has none they are estimated from the features.
    """
    attempted = matrix.attempted
    everywhere = np.asarray(attempted.all(axis=1))
    tried = np.where(attempted & everywhere[:, None], 1.0, np.where(attempted, matrix.propensity, np.nan))
    if everywhere.all():
        return judged_propensity(attempted, labels, tried), "every candidate was tried on every request"
    logged = np.asarray(np.isfinite(tried[~everywhere]).any(axis=1))
    if logged.any():
        note = f"logged for {int(logged.sum())} of {len(logged)} requests with some candidates only"
        return judged_propensity(attempted, labels, tried), note
    tried, note = estimate_propensities(attempted, inputs.features.astype(np.float64), fold)
    return judged_propensity(attempted, labels, tried), note


def fitting_weights(propensity: Floats, clip: float) -> Floats:
    """(n, m) what each cell counts for in fitting: 1 / propensity, at most `clip`, with mean 1 for each candidate.

    A cell without a propensity counts as the average one. Source: Horvitz & Thompson 1952, clipped as in Ionides 2008.
    """
    known = np.isfinite(propensity)
    weight = np.where(known, 1.0 / np.maximum(np.where(known, propensity, 1.0), 1.0 / clip), 0.0)
    mean = weight.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, weight / np.where(mean > 0, mean, 1.0), 1.0)


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
