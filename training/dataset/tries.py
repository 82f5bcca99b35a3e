"""What the rows of a request mean: its tries -> one outcome of each candidate, and which of them the log chose.

- Tries of one candidate on one request are one outcome: the quality of the last answer, the sum of costs, tokens and
  latencies. An error followed by an answer is that answer; an error without one has quality 0, and cost nothing unless
  the log says so.
- Where one candidate failed and the next was asked for that reason, a chain, the request has an outcome of the first, which
  the logging policy chose, with quality 0. What came after it was selected by that failure: such a `chained` outcome tells
  what the candidate costs and how long it takes, but not how good it is on requests of any other kind.
- A cost of 0 beside tokens is what gateways write where they know no price: it is not known, unless the catalogue says that
  the candidate is free.
- What was bought after the fact (it has a `purpose`) is an outcome of its own, with the plan's propensity. It stands in the
  place of what was logged of that candidate, and no failure led to it.
- A quality from a weak source is no judgement: the answer counts as not judged, and what the source says stands beside it.
- Errors are always known. Those of a candidate none of whose answers was judged would make it one that always fails: they
  are not judged either.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.arrays import Bools, Columns, Floats
from training.config import WEAK
from training.dataset.label import judged_quality

MEASURES = (
    "quality",
    "cost_usd",
    "input_tokens",
    "output_tokens",
    "latency_ms",
    "propensity",
    "weak_quality",
    "weak_source",
)


def one_outcome_each(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each request and candidate of an outcome table, requests in order of first appearance.

    Columns: request_id, candidate, those of `MEASURES` (float64, NaN where not known), `error` (tried, and no answer came),
    `chained` (asked because another had failed) and `purpose` (null where it was logged). `quality` is that of judged answers,
    `weak_quality` what a weak source says of another, and `weak_source` its place in `WEAK`. Tries are in the order of their
    timestamps where all of a request have one, else in the log's, those with a propensity first.
    """
    bought = frame["purpose"].notna().to_numpy() if "purpose" in frame else np.zeros(len(frame), dtype=np.bool_)
    logged = _joined(frame[~bought]).assign(purpose=None)
    if not bought.any():
        return logged
    key = ["request_id", "candidate"]
    # What was bought twice is one outcome, of what certifies if either does; the later one of equals.
    answers = frame[bought].sort_values("purpose", ascending=False, kind="stable").drop_duplicates(key, keep="last")
    made = _joined(answers).assign(chained=False).merge(answers[[*key, "purpose"]], on=key, how="left")
    again = pd.MultiIndex.from_frame(logged[key]).isin(pd.MultiIndex.from_frame(made[key]))
    # A logged answer that was only graded afterwards cost and took what the log says.
    before = made[key].merge(logged[again], on=key, how="left")
    for measure in ("cost_usd", "input_tokens", "output_tokens", "latency_ms"):
        made[measure] = made[measure].fillna(before[measure])
    both = pd.concat([logged[~again], made], ignore_index=True)
    place = pd.Index(frame["request_id"].unique()).get_indexer(pd.Index(both["request_id"]))
    return both.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def _joined(frame: pd.DataFrame) -> pd.DataFrame:
    """The tries of rows that were all logged, or all bought."""
    request, ids = pd.factorize(frame["request_id"])
    name, names = pd.factorize(frame["candidate"])
    told = frame.assign(quality=judged_quality(frame), **_weak(frame))
    measured = {measure: told[measure].to_numpy(dtype=np.float64, na_value=np.nan) for measure in MEASURES}
    order = _in_time(request.astype(np.intp), frame["timestamp"], np.isnan(measured["propensity"]))
    measured = {measure: values[order] for measure, values in measured.items()}
    request, name = request[order].astype(np.intp), name[order].astype(np.intp)
    answered = (frame["status"].to_numpy(dtype=object) != "error")[order]
    cell, cells = pd.factorize(request * max(len(names), 1) + name)
    cell = cell.astype(np.intp)
    outcome_of, candidate = np.divmod(cells.astype(np.intp), max(len(names), 1))
    error = np.bincount(cell, answered, len(cells)) == 0
    propensity = _first_known(cell, measured["propensity"], len(cells))
    chained = chained_outcomes(outcome_of, candidate, error, np.isfinite(propensity))
    sums = {
        measure: _sum(cell, measured[measure], answered, len(cells))
        for measure in ("cost_usd", "input_tokens", "output_tokens", "latency_ms")
    }
    unbilled = error & np.isnan(sums["cost_usd"]) & ~(sums["output_tokens"] > 0)
    quality = np.where(error, 0.0, _last(cell, measured["quality"], answered, len(cells)))
    return pd.DataFrame(
        {
            "request_id": np.asarray(ids, dtype=object)[outcome_of],
            "candidate": np.asarray(names, dtype=object)[candidate],
            "quality": np.where(error & never_judged(candidate, quality, error | chained), np.nan, quality),
            **sums,
            "cost_usd": np.where(unbilled, 0.0, sums["cost_usd"]),
            "propensity": propensity,
            **{name: _last(cell, measured[name], answered, len(cells)) for name in ("weak_quality", "weak_source")},
            "error": error,
            "chained": chained,
        }
    )


def _weak(frame: pd.DataFrame) -> dict[str, Floats]:
    """What weak sources say of each row, and which that is; NaN where none says anything."""
    if "quality_source" not in frame:
        return {name: np.full(len(frame), np.nan) for name in ("weak_quality", "weak_source")}
    source = frame["quality_source"].map({name: place for place, name in enumerate(WEAK)})
    place = source.to_numpy(dtype=np.float64, na_value=np.nan)
    quality = frame["quality"].to_numpy(dtype=np.float64, na_value=np.nan)
    return {"weak_quality": np.where(np.isnan(place), np.nan, quality), "weak_source": place}


def costed(frame: pd.DataFrame) -> Bools:
    """(n,) whether what each row of an outcome table cost is known: an error that says nothing of it cost nothing."""
    numbers = (
        frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in ("cost_usd", "input_tokens", "output_tokens")
    )
    cost, tokens_in, tokens_out = numbers
    error = (frame["status"] == "error").to_numpy(dtype=np.bool_)
    unbilled = error & (np.isfinite(cost) | ~(tokens_out > 0))
    return np.asarray(unbilled | (np.isfinite(cost) & ~zero_with_tokens(cost, tokens_in, tokens_out)))


def zero_with_tokens(cost_usd: Floats, input_tokens: Floats, output_tokens: Floats) -> Bools:
    """Whether a cost of 0 goes with tokens, all of one shape: of an answer it is not known then, rather than nothing."""
    return np.asarray((cost_usd == 0) & ((input_tokens > 0) | (output_tokens > 0)))


def _in_time(request: Columns, timestamp: pd.Series[Any], unchosen: Bools) -> Columns:
    """(n,) positions of the rows, requests in order of first appearance and the rows of each in the order of its tries."""
    known = timestamp.notna().to_numpy()
    timed = np.bincount(request, ~known, request.max(initial=-1) + 1)[request] == 0
    stamps = pd.to_datetime(timestamp, utc=True).dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    instant = np.where(timed, stamps.astype(np.int64), 0)
    return np.lexsort((np.arange(len(request)), unchosen, instant, request))


def _sum(cell: Columns, values: Floats, answered: Bools, cells: int) -> Floats:
    """(cells,) sum over the tries of each; NaN where an answer lacks it, or nothing is known. An error may lack it."""
    known = np.isfinite(values)
    total = np.bincount(cell, np.where(known, values, 0.0), cells)
    unknown = (np.bincount(cell, answered & ~known, cells) > 0) | (np.bincount(cell, known, cells) == 0)
    return np.where(unknown, np.nan, total)


def _last(cell: Columns, values: Floats, answered: Bools, cells: int) -> Floats:
    """(cells,) what the last answer of each has, NaN where none came."""
    found = np.full(cells, np.nan)
    found[cell[answered]] = values[answered]  # of several the last one stays
    return found


def _first_known(cell: Columns, values: Floats, cells: int) -> Floats:
    found, known = np.full(cells, np.nan), np.flatnonzero(np.isfinite(values))[::-1]
    found[cell[known]] = values[known]
    return found


def never_judged(candidate: Columns, quality: Floats, apart: Bools) -> Bools:
    """(cells,) whether the cell's candidate has answers of its own choosing, none of which was judged."""
    m = candidate.max(initial=-1) + 1
    answers = np.bincount(candidate[~apart], minlength=m)
    judged = np.bincount(candidate[~apart & np.isfinite(quality)], minlength=m)
    return np.asarray(((answers > 0) & (judged == 0))[candidate])


def chained_outcomes(request: Columns, candidate: Columns, error: Bools, chosen: Bools) -> Bools:
    """(cells,) which outcomes another candidate's failure led to; cells of a request stand together, first try first.

    A request looks like a chain if all candidates before the last failed and none after the first has a propensity of its
    own. So does one that was tried on several candidates at once and whose first ones failed. Which of the two it is, the
    requests tell whose first candidate answered: of these a share r was tried on others as well, though nothing had failed.
    Of F requests whose first candidate failed, r F are expected to have been tried on several at once whatever came of it;
    where they make up less than half of those that look like a chain, these are chains. Apart for each first candidate.
    """
    if not len(request):
        return np.zeros(0, dtype=np.bool_)
    start = np.flatnonzero(np.append(True, request[1:] != request[:-1]))
    size = np.diff(np.append(start, len(request)))
    end = start + size - 1
    later_chosen = np.add.reduceat(chosen.astype(np.intp), start) > chosen[start]
    failed_before = np.add.reduceat(error.astype(np.intp), start) - error[end]
    several, failed = size > 1, error[start]
    alike = several & (failed_before == size - 1) & ~later_chosen
    first, m = candidate[start], int(candidate.max()) + 1

    def count(which: Bools) -> Floats:
        return np.bincount(first[which], minlength=m).astype(np.float64)

    answered = count(~failed)
    # Where none answered: a propensity of the first alone says that one was chosen.
    unseen = np.where(count(several & chosen[start]) > 0, 0.0, 1.0)
    share = np.divide(count(~failed & several), answered, out=unseen, where=answered > 0)
    at_once = share * count(failed) - count(failed & several & ~alike)
    chains = alike & (at_once < 0.5 * count(alike))[first]
    led_to = np.repeat(chains, size)
    led_to[start] = False
    return led_to
