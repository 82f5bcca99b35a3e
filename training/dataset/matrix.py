"""Outcomes as matrices: one row per request, one column per candidate, NaN where nothing was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.manifest import NO_WORKFLOW
from serving.bundle.request import RouteRequest, text_of
from training.dataset.tries import MEASURES, one_outcome_each

Objects = NDArray[np.object_]

# From so many drawn requests on, certificates rest on them and on complete ones alone.
ENOUGH_DRAWN = 30


@dataclass(frozen=True)
class OutcomeMatrix:
    """n requests by m candidates.

    `quality` in [0, 1], `cost_usd`, `input_tokens`, `output_tokens`, `latency_ms` and `propensity` are (n, m) float64 with
    NaN where that was not observed; what the tries of one candidate on one request come to, `tries` says. `attempted` (n, m)
    is True where a candidate was tried because it was chosen, judged or not; `error` where no answer came of that; `chained`
    where it was asked because another had failed: such an outcome has costs, tokens and latency, but no quality and no
    propensity, for it is none that the log chose. The rest has one entry per request.

    `quality` is what somebody judged. What only a weak source says of an answer that nobody judged is `weak_quality`, and
    `weak_source` the source's place in `WEAK`, NaN both where none does: nothing is measured on it.

    What was bought after the fact is `certifying` (n, m) where its request was drawn uniformly at random, its propensity the
    chance that this candidate was asked then; and `learning` (n, m) where it was chosen for what it teaches.

    `weight` (n,) is how many requests of the log each stands for: 1, unless the log was sampled.
    """

    candidates: tuple[str, ...]
    request_id: Objects
    requests: Objects
    texts: Objects
    workflow: Objects
    session_id: Objects
    timestamp: NDArray[np.datetime64]
    given_split: Objects
    quality: Floats
    cost_usd: Floats
    input_tokens: Floats
    output_tokens: Floats
    latency_ms: Floats
    propensity: Floats
    weak_quality: Floats
    weak_source: Floats
    attempted: Bools
    error: Bools
    chained: Bools
    certifying: Bools
    learning: Bools
    weight: Floats

    def __len__(self) -> int:
        return len(self.request_id)

    def take(self, rows: Bools | NDArray[np.intp]) -> OutcomeMatrix:
        """The given rows (a mask or positions), in that order."""
        per_request = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "candidates"}
        return replace(self, **per_request)

    def one_of_each(self, groups: Columns, preferred: Columns | None = None) -> Columns:
        """Of each of `groups` (n,) the row that tells most, in rising order: the most `preferred` (n,), of these a complete
        one, else the one with the most judged outcomes, else the first."""
        rank = np.zeros(len(self), dtype=np.intp) if preferred is None else preferred
        order = np.lexsort((-np.isfinite(self.quality).sum(axis=1), ~self.complete(), -rank))
        return np.sort(order[np.unique(groups[order], return_index=True)[1]])

    def first(self, count: int) -> OutcomeMatrix:
        """The first so many candidates' outcomes, of the same requests."""
        cells = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "candidates"}
        some = {name: values[:, :count] for name, values in cells.items() if values.ndim == 2}
        return replace(self, candidates=self.candidates[:count], **some)

    @property
    def standing(self) -> Floats | None:
        """`weight`, for whatever takes means over requests; None where all stand for as many, and plain means are right."""
        return standing_of(self.weight)

    @property
    def drawn(self) -> Bools:
        """(n,) the requests that were drawn at random, to certify on what was bought for them."""
        return np.asarray(self.certifying.any(axis=1))

    def complete(self) -> Bools:
        """(n,) whether every candidate was tried, judged and costed: the rows that can be evaluated exactly.

        Not where that is owed to an outcome that was chosen for what it teaches: such requests are no fair sample of all.
        """
        known = np.isfinite(self.quality) & np.isfinite(self.cost_usd)
        return np.asarray((known & ~self.learning).all(axis=1))


def standing_of(weight: Floats) -> Floats | None:
    """`OutcomeMatrix.standing` of some requests of these weights (n,)."""
    return None if (weight == weight[:1]).all() else weight


def workflow_names(workflow: Objects) -> Objects:
    """(n,) the workflow of each request, `NO_WORKFLOW` where it has none."""
    return np.array([NO_WORKFLOW if name is None else str(name) for name in workflow], dtype=object)


def build_matrix(
    frame: pd.DataFrame, candidates: Sequence[str] | None = None, *, requests: bool = True
) -> OutcomeMatrix:
    """The outcome table as matrices, requests in order of first appearance.

    `candidates` fixes the columns (rows of other candidates are left out); by default all that occur, sorted. Without
    `requests` these are None, and a text is what the table has as prompt.
    """
    columns = tuple(sorted(frame["candidate"].unique())) if candidates is None else tuple(candidates)
    outcomes = one_outcome_each(frame)
    outcomes = outcomes[outcomes["candidate"].isin(columns)]
    rows, ids = pd.factorize(outcomes["request_id"])
    cols = pd.Categorical(outcomes["candidate"], categories=list(columns)).codes.astype(np.intp)
    first = frame[~frame["request_id"].duplicated()].reset_index(drop=True)
    if len(first) > len(ids):  # of some there are outcomes of other candidates alone
        first = first[pd.Index(ids).get_indexer(pd.Index(first["request_id"])) >= 0].reset_index(drop=True)
    asked: Objects = requests_of(first) if requests else np.full(len(first), None)
    # A request of which any row is held out is held out.
    held_out = set(frame.loc[frame["split"] == "test", "request_id"])
    given = _nullable(first["split"])
    if held_out:
        given[first["request_id"].isin(held_out).to_numpy()] = "test"
    stamps = pd.to_datetime(first["timestamp"], utc=True).dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
    chained = outcomes["chained"].to_numpy(dtype=np.bool_)

    def cells(values: Any, empty: Any) -> Any:
        made = np.full((len(ids), len(columns)), empty)
        made[rows, cols] = values
        return made

    measured = {name: outcomes[name].to_numpy(dtype=np.float64) for name in MEASURES}
    purpose = outcomes["purpose"].to_numpy(dtype=object)
    for name in ("quality", "propensity", "weak_quality", "weak_source"):
        measured[name] = np.where(chained, np.nan, measured[name])
    return OutcomeMatrix(
        candidates=columns,
        request_id=np.asarray(ids, dtype=object),
        requests=asked,
        texts=_objects(list(map(text_of, asked))) if requests else first["prompt"].to_numpy(dtype=object),
        workflow=_nullable(first["workflow"]),
        session_id=_nullable(first["session_id"]),
        timestamp=stamps,
        given_split=given,
        attempted=cells(~chained, False),
        error=cells(outcomes["error"].to_numpy(dtype=np.bool_) & ~chained, False),
        chained=cells(chained, False),
        certifying=cells(purpose == "certify", False),
        learning=cells(purpose == "learn", False),
        weight=np.ones(len(ids)),
        **{name: cells(values, np.nan) for name, values in measured.items()},
    )


def _objects(values: Sequence[Any]) -> Objects:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _nullable(series: pd.Series[Any]) -> Objects:
    found = np.array(series.to_numpy(dtype=object))  # a string column gives one value after the other slowly
    found[series.isna().to_numpy()] = None
    return found


def requests_of(first: pd.DataFrame) -> Objects:
    """(n,) the requests of an outcome table's rows."""
    requests = []
    for prompt, messages, workflow, session in zip(
        first["prompt"], first["messages"], first["workflow"], first["session_id"], strict=True
    ):
        requests.append(
            RouteRequest(
                prompt=prompt if isinstance(prompt, str) else None,
                messages=messages if isinstance(messages, list) else None,
                workflow=None if pd.isna(workflow) else workflow,
                session_id=None if pd.isna(session) else session,
            )
        )
    return _objects(requests)
