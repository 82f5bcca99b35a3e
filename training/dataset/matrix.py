"""Outcomes as matrices: one row per request, one column per candidate, NaN where nothing was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Floats
from serving.bundle.manifest import NO_WORKFLOW
from serving.bundle.request import RouteRequest, text_of

Objects = NDArray[np.object_]


@dataclass(frozen=True)
class OutcomeMatrix:
    """n requests by m candidates.

    `quality` in [0, 1], `cost_usd`, `input_tokens`, `output_tokens`, `latency_ms` and `propensity` are (n, m) float64 with
    NaN where that was not observed; several attempts of one candidate on one request are averaged. `attempted` (n, m) is
    True where there was an attempt, judged or not. The rest has one entry per request.
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
    attempted: Bools

    def __len__(self) -> int:
        return len(self.request_id)

    def take(self, rows: Bools | NDArray[np.intp]) -> OutcomeMatrix:
        """The given rows (a mask or positions), in that order."""
        per_request = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "candidates"}
        return replace(self, **per_request)

    def complete(self) -> Bools:
        """(n,) whether every candidate was tried, judged and costed: the rows that can be evaluated exactly."""
        return np.asarray((np.isfinite(self.quality) & np.isfinite(self.cost_usd)).all(axis=1))


def workflow_names(workflow: Objects) -> Objects:
    """(n,) the workflow of each request, `NO_WORKFLOW` where it has none."""
    return np.array([NO_WORKFLOW if name is None else str(name) for name in workflow], dtype=object)


def build_matrix(frame: pd.DataFrame, candidates: Sequence[str] | None = None) -> OutcomeMatrix:
    """The outcome table as matrices, requests in order of first appearance.

    `candidates` fixes the columns (rows of other candidates are left out); by default all that occur, sorted.
    """
    columns = tuple(sorted(frame["candidate"].unique())) if candidates is None else tuple(candidates)
    frame = frame[frame["candidate"].isin(columns)]
    rows, ids = pd.factorize(frame["request_id"])
    cols = pd.Categorical(frame["candidate"], categories=list(columns)).codes.astype(np.intp)
    shape = (len(ids), len(columns))
    first = frame[~frame["request_id"].duplicated()].reset_index(drop=True)
    requests = _requests(first)
    # A request of which any row is held out is held out.
    held_out = set(frame.loc[frame["split"] == "test", "request_id"])
    given = [
        "test" if r in held_out else s for r, s in zip(first["request_id"], _nullable(first["split"]), strict=True)
    ]
    stamps = pd.to_datetime(first["timestamp"], utc=True).dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
    attempted = np.zeros(shape, dtype=np.bool_)
    attempted[rows, cols] = True
    means = {
        name: _cell_means(frame[name].to_numpy(dtype=np.float64, na_value=np.nan), rows, cols, shape)
        for name in ("quality", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "propensity")
    }
    return OutcomeMatrix(
        candidates=columns,
        request_id=np.asarray(ids, dtype=object),
        requests=requests,
        texts=_objects([text_of(request) for request in requests]),
        workflow=_nullable(first["workflow"]),
        session_id=_nullable(first["session_id"]),
        timestamp=stamps,
        given_split=_objects(given),
        attempted=attempted,
        **means,
    )


def _cell_means(values: Floats, rows: NDArray[np.intp], cols: NDArray[np.intp], shape: tuple[int, int]) -> Floats:
    """(n, m) mean of the values in each cell, NaN where there is none; NaN values count as not there."""
    known = np.isfinite(values)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (rows[known], cols[known]), values[known])
    np.add.at(count, (rows[known], cols[known]), 1.0)
    return np.asarray(np.divide(total, count, out=np.full(shape, np.nan), where=count > 0))


def _objects(values: Sequence[Any]) -> Objects:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _nullable(series: pd.Series[Any]) -> Objects:
    return _objects([None if pd.isna(value) else value for value in series])


def _requests(first: pd.DataFrame) -> Objects:
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
