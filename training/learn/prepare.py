"""An outcome table into what learning takes: matrices with every cost known, labels, groups and parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Objective
from serving.bundle.request import RouteRequest, text_of
from training.config import Params
from training.dataset.kinds import Kinds
from training.dataset.label import acceptable
from training.dataset.matrix import ENOUGH_DRAWN, Objects, OutcomeMatrix, build_matrix
from training.dataset.sampling.core import Core, Sampled, core_of
from training.dataset.split import Split, group_requests, group_stand_ins, split_requests
from training.dataset.volume import Volume, calls, costs_of, volume
from training.errors import TrainingError
from training.prices.costs import CostNotes, Lengths, fill_costs_by_length

_MOSTLY = 0.9


class PrepareError(TrainingError):
    """A log that is well formed but from which no router can be trained."""


@dataclass(frozen=True)
class Near:
    """Outcomes of requests that are not learned from, but would be if they were in another part of the log."""

    matrix: OutcomeMatrix
    lengths: Lengths


@dataclass(frozen=True)
class AddedTo:
    """The run that a log was added to: when it was, how many requests it had, and how many were `added` to them. The methods
    were `chosen` then, or in a run before."""

    created: str
    requests: int
    added: int
    chosen: str


@dataclass(frozen=True)
class Prepared:
    """A log ready to be learned from. `labels` (n, m) is 1 acceptable, 0 not, NaN not judged; `groups` (n,) ties
    requests that may not be separated. Of a log that was `sampled` it is the core, and `volume` is the whole log's.

    `lengths` are those that costs took. `near` comes along where it was asked for, `missing` are requests of the core of
    which nothing is left; by its `salt` the core was drawn. `told` is what pages say of the run that it was `added_to`,
    and `going_on` the option that it was given for that."""

    matrix: OutcomeMatrix
    labels: Floats
    groups: Columns
    split: Split
    candidates: tuple[Candidate, ...]
    workflows: tuple[str, ...]
    cost_notes: CostNotes
    fingerprint: str
    kinds: Kinds | None = None
    sampled: Sampled | None = None
    volume: Volume | None = None
    lengths: Lengths | None = None
    near: Near | None = None
    missing: int = 0
    salt: int | None = None
    told: tuple[str, ...] = ()
    going_on: str | None = None
    added_to: AddedTo | None = None

    @property
    def graded(self) -> bool:
        """Whether logged quality is more than 0 or 1."""
        quality = self.matrix.quality
        return bool(((quality > 0) & (quality < 1)).any())

    @property
    def fair_labels(self) -> Floats:
        """(n, m) the labels without those of outcomes that were chosen for what they teach: what may be measured on."""
        return np.asarray(np.where(self.matrix.learning, np.nan, self.labels))

    def value(self, objective: Objective) -> Floats:
        """(n, m) the outcomes that the objective is about and that may be measured on, NaN where not judged."""
        graded = np.asarray(np.where(self.matrix.learning, np.nan, self.matrix.quality))
        return self.fair_labels if objective is Objective.ACCEPTABLE else graded


def prepare(frame: pd.DataFrame, params: Params, catalogue: Mapping[str, Candidate]) -> Prepared:
    """Matrices, labels and the split; raises PrepareError, CostError or SplitError.

    A candidate of which the training part has no judged outcome that may be measured on, such as one that was released last
    week, is left out with all its rows, and the split's note says so: it would be judged on nothing.
    """
    return _without_unlearnable(frame, params, catalogue)[0]


@dataclass(frozen=True)
class AtHand:
    """Of some requests of a log whose texts are elsewhere: `requests` (n,), what stands for each where its text is gone, and
    `lengths` of these where they are known."""

    requests: Objects
    lengths: Lengths | None = None


# Draws the core of a log: its outcomes, fair labels and parts.
Drawing = Callable[[OutcomeMatrix, Floats, Split], Core]
# Told how many requests the log has, how many were drawn, and how many workflows training has; raises where that is too much.
Allowing = Callable[[int, int, int], None]


def prepare_stored(
    frame: pd.DataFrame,
    params: Params,
    catalogue: Mapping[str, Candidate],
    requests: Callable[[Objects], Objects],
    *,
    near: bool = False,
    allow: Allowing | None = None,
) -> Prepared:
    """As `prepare`, of a log whose texts are on disk: `frame` has a `stand_in` of each, and `requests` (ids) gives requests.

    Of a log with more requests than its core it is the core, which has the parts, groups and outcomes that the whole log has;
    what is `near` it comes along where it is asked for. `allow` is asked before texts are read.
    """

    def draw(matrix: OutcomeMatrix, labels: Floats, split: Split) -> Core:
        return core_of(matrix, labels, split, params.scale, params.split.seed)

    def hold(matrix: OutcomeMatrix) -> AtHand:
        return AtHand(requests(matrix.request_id))

    return prepare_core(frame, params, catalogue, hold, draw, near=near, allow=allow)


def prepare_core(
    frame: pd.DataFrame,
    params: Params,
    catalogue: Mapping[str, Candidate],
    hold: Callable[[OutcomeMatrix], AtHand],
    draw: Drawing,
    *,
    near: bool,
    mark: str | None = None,
    allow: Allowing | None = None,
) -> Prepared:
    """The core that `draw` draws of a log without texts, of which `hold` has what there is of the requests that are asked for.

    `mark` is the log's fingerprint where it is known.
    """
    whole, logged = _without_unlearnable(frame, params, catalogue, requests=False, mark=mark)
    core = draw(whole.matrix, whole.fair_labels, whole.split)
    if allow is not None:
        allow(len(logged), int(core.kept.sum()), len(whole.workflows))
    beside = core.near & ~core.kept if near else np.zeros(len(logged), dtype=np.bool_)
    held = np.flatnonzero(core.kept | beside)
    at_hand = hold(logged.take(held))
    texts = np.array([_text(request) for request in at_hand.requests], dtype=object)
    matrix = replace(logged.take(held), requests=at_hand.requests, texts=texts, weight=core.weight[held])
    learned, split = core.kept[held], whole.split
    rows, lengths = held[learned], at_hand.lengths

    def priced(which: Bools) -> tuple[OutcomeMatrix, CostNotes, Lengths]:
        known = None if lengths is None else lengths.take(which)
        return fill_costs_by_length(matrix.take(which), catalogue, params.costs.assumed_output_tokens, known)

    filled, notes, counted = priced(learned)
    masks = {name: getattr(split, name)[rows] for name in ("train", "calibration", "test", "dropped")}
    found = replace(
        whole,
        matrix=filled,
        labels=whole.labels[rows],
        groups=np.asarray(pd.factorize(whole.groups[rows])[0], dtype=np.intp),
        split=replace(split, **masks),
        cost_notes=notes,
        sampled=core.sampled,
        lengths=counted,
        missing=core.missing,
        salt=core.salt,
    )
    if beside.any():
        outcomes, _, of_beside = priced(~learned)
        found = replace(found, near=Near(outcomes, of_beside))
    if core.sampled is None:
        return found
    note = f"{split.note}; {core.sampled.said()}"
    return replace(found, split=replace(found.split, note=note), volume=_volume(whole.matrix, found, params))


def _volume(whole: OutcomeMatrix, core: Prepared, params: Params) -> Volume:
    """The whole log's volume; where a cost takes the length of a text that is not at hand, costs are those of the core, each
    request's counted for as many as it stands for, and so is the sum of all calls, as many as the log has."""
    found = volume(whole, params.report.requests_a_month)
    if not (whole.attempted & np.isnan(whole.cost_usd)).any():
        return found
    costs = costs_of(core.matrix)
    grown = float(calls(whole).sum()) / costs.calls if costs.calls else 1.0
    return replace(
        found,
        cost_usd=None if costs.total_usd is None else costs.total_usd * grown,
        cost_known_share=costs.known_share,
        cost_usd_per_request=costs.usd_per_request,
    )


def _without_unlearnable(
    frame: pd.DataFrame,
    params: Params,
    catalogue: Mapping[str, Candidate],
    *,
    requests: bool = True,
    mark: str | None = None,
) -> tuple[Prepared, OutcomeMatrix]:
    """The log without candidates that it tells too little of, and its outcomes before costs were filled in."""
    left_out: list[str] = []
    mark = fingerprint(frame) if mark is None else mark
    while True:
        found, built = _prepared(frame, params, catalogue, left_out, requests, mark)
        learned = _can_be_certified(found.matrix)
        learned &= np.isfinite(found.fair_labels[found.split.train]).any(axis=0)
        if learned.all():
            break
        left_out += [name for name, known in zip(found.matrix.candidates, learned, strict=True) if not known]
    if left_out:
        note = f"{found.split.note}; {_left_out(left_out)}"
        found = replace(found, split=replace(found.split, note=note))
    return found, built


def _can_be_certified(matrix: OutcomeMatrix) -> Bools:
    """(m,) the candidates that drawn requests were put to, or mostly had been anyway; all of them where few were drawn."""
    drawn = matrix.drawn
    if drawn.sum() < ENOUGH_DRAWN:
        return np.ones(len(matrix.candidates), dtype=np.bool_)
    had = (matrix.attempted & ~matrix.learning)[drawn].mean(axis=0) >= _MOSTLY
    return np.asarray(matrix.certifying.any(axis=0) | had)


def _left_out(names: Sequence[str]) -> str:
    return (
        f"left out of this bundle: {', '.join(sorted(names))}, of which no request of the training part has a judged outcome "
        "that was not bought to learn from (`router-train add-candidate` adds by such alone), or that no drawn request was put "
        "to (`router-train plan --candidate NAME` does). It comes in once the training part reaches the first of them: train "
        "again when there are more, send a share of the traffic there, or split at random (--set split.method=random)"
    )


def _prepared(
    frame: pd.DataFrame,
    params: Params,
    catalogue: Mapping[str, Candidate],
    left_out: Sequence[str],
    requests: bool,
    mark: str,
) -> tuple[Prepared, OutcomeMatrix]:
    # All rows, for what the failure of one that is left out led to was not chosen either.
    built = build_matrix(frame, sorted(set(frame["candidate"]) - set(left_out)), requests=requests)
    if left_out and len(built.candidates) < 2:
        raise PrepareError(
            f"only {', '.join(built.candidates) or 'no candidate'} has judged outcomes in the training part, so there is "
            f"nothing to choose between; {_left_out(left_out)}."
        )
    if len(built.candidates) < 2:
        raise PrepareError(
            f"the log has outcomes of one candidate only ({built.candidates[0]}): there is nothing to choose between. "
            "Send a share of the traffic to a second candidate (shadow requests tell most), or import an evaluation run."
        )
    matrix, notes, lengths = fill_costs_by_length(built, catalogue, params.costs.assumed_output_tokens)
    labels = acceptable(matrix.quality, params.label.acceptable)
    judged = np.isfinite(labels).sum(axis=0)
    if not judged.all():
        silent_ones = ", ".join(np.array(matrix.candidates)[judged == 0])
        raise PrepareError(
            f"no outcome of {silent_ones} was judged. Add quality for some of its rows, or leave the candidate out."
        )
    grouped = group_requests if requests else group_stand_ins
    groups = grouped(list(matrix.texts), list(matrix.session_id))
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
    found = Prepared(matrix, labels, groups, split, candidates, workflows, notes, mark, lengths=lengths)
    return found, built


def _text(request: object) -> str:
    return text_of(request) if isinstance(request, RouteRequest) else ""


def fingerprint(frame: pd.DataFrame) -> str:
    """sha256 over the outcome table's values: the same log gives the same fingerprint."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name].astype(str) if frame[name].dtype == object else frame[name]
        digest.update(name.encode())
        digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
    return digest.hexdigest()
