"""How much traffic a log shows: its dates, how many requests a month that makes, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from serving.bundle.arrays import Bools
from serving.traffic.month import DAYS_A_MONTH
from training.dataset.matrix import OutcomeMatrix
from training.measure.metrics import mean_of

# Of fewer days a month is a guess.
_FEW_DAYS = 14
_WORKING_DAYS = 5
_SET = "Set report.requests_a_month (--set report.requests_a_month=N) if you know it."

Times = np.ndarray[tuple[int], np.dtype[np.datetime64]]


@dataclass(frozen=True)
class Volume:
    """The log's `requests`, `dated` many of them with a time. `counted` are those that the log's own choice was made for, not
    those that were put to every candidate, nor answers that were bought; all, where there are no others.

    `first`, `last` (ISO dates) and `days` are of the counted: whole calendar days, and whole weeks where a log without weekends
    lacks but the last one. `requests_a_month` is reckoned from the dates or told by a setting, as `requests_a_month_from` says;
    `note` says why there is none, or why it is to be taken with caution. `cost_usd` is the sum of all costs that are known, of
    a share `cost_known_share` of the calls: all of them, those to every candidate and those that were bought too.
    `cost_usd_per_request` is of the counted whose every call has a cost. So is
    `candidates_logged`, each candidate's share of the calls. None where there is nothing to tell.
    """

    requests: int
    dated: int = 0
    counted: int = 0
    first: str | None = None
    last: str | None = None
    days: float | None = None
    requests_a_month: float | None = None
    requests_a_month_from: Literal["dates", "setting"] | None = None
    note: str | None = None
    cost_usd: float | None = None
    cost_known_share: float = 0.0
    cost_usd_per_request: float | None = None
    judged_share: float = 0.0
    candidates_logged: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Costs:
    """Of a log the sum of all costs that are known, the share of its `calls` that they are of, and what a counted request cost:
    as of `Volume`. Of a core, of the log that its requests stand for."""

    total_usd: float | None
    known_share: float
    usd_per_request: float | None
    calls: float


def calls(matrix: OutcomeMatrix) -> Bools:
    """(n, m) what was called, by choice or after another had failed, or bought."""
    return np.asarray(matrix.attempted | matrix.chained)


def costs_of(matrix: OutcomeMatrix) -> Costs:
    """What a log cost, or by its core what the log did that the core was drawn from: an estimate then."""
    called, own, standing = calls(matrix), _own_calls(matrix), matrix.standing
    costed = called & np.isfinite(matrix.cost_usd)
    known = own.any(axis=1) & ~(own & ~costed).any(axis=1)
    spent = np.where(own & costed, matrix.cost_usd, 0.0).sum(axis=1)
    if standing is None:
        total, there, all_calls = matrix.cost_usd[costed].sum(), costed.sum(), called.sum()
    else:
        total = standing @ np.where(costed, matrix.cost_usd, 0.0).sum(axis=1)
        there, all_calls = standing @ costed.sum(axis=1), standing @ called.sum(axis=1)
    return Costs(
        total_usd=float(total) if costed.any() else None,
        known_share=float(there / all_calls) if called.any() else 0.0,
        usd_per_request=float(mean_of(spent[known], None if standing is None else standing[known]))
        if known.any()
        else None,
        calls=float(all_calls),
    )


def _own_calls(matrix: OutcomeMatrix) -> Bools:
    """(n, m) the calls of the log's own choice, and what these led to."""
    everywhere = np.asarray(matrix.attempted.all(axis=1)) & (len(matrix.candidates) > 1)
    return np.asarray(calls(matrix) & ~matrix.certifying & ~matrix.learning & ~everywhere[:, None])


def volume(matrix: OutcomeMatrix, requests_a_month: float = 0.0) -> Volume:
    """The volume of a log; a month has `requests_a_month` where that is above 0, and else as many as the dates say: counted
    requests / days from the first to the last of them * 30.4375. Those without a date are taken to be of the same days."""
    called, own = calls(matrix), _own_calls(matrix)
    costs = costs_of(matrix)
    shown = own if own.any() else called
    counted = shown.any(axis=1)
    dated = ~np.isnat(matrix.timestamp)
    stamps = np.sort(matrix.timestamp[dated & counted])
    first = last = note = None
    days: float | None = None
    if len(stamps):
        first, last = (str(one.astype("datetime64[s]")) + "Z" for one in (stamps[0], stamps[-1]))
        days = _days(stamps)
    a_month: float | None = None
    source: Literal["dates", "setting"] | None = None
    if requests_a_month > 0:
        a_month, source = requests_a_month, "setting"
    elif days is not None and stamps[-1] - stamps[0] < np.timedelta64(1, "D"):
        note = f"The log's dates are of less than a day, which says nothing of a month. {_SET}"
    elif days is not None:
        a_month, source = int(counted.sum()) / days * DAYS_A_MONTH, "dates"
        note = _caution(stamps, days, evaluated=not own.any())
    judged = np.isfinite(matrix.quality)
    return Volume(
        requests=len(matrix),
        dated=int(dated.sum()),
        counted=int(counted.sum()),
        first=first,
        last=last,
        days=days,
        requests_a_month=a_month,
        requests_a_month_from=source,
        note=note,
        cost_usd=costs.total_usd,
        cost_known_share=costs.known_share,
        cost_usd_per_request=costs.usd_per_request,
        judged_share=float(judged.any(axis=1).mean()) if len(matrix) else 0.0,
        candidates_logged={
            name: float(shown[:, column].sum() / shown.sum()) if shown.any() else 0.0
            for column, name in enumerate(matrix.candidates)
        },
    )


def _days(stamps: Times) -> float:
    """Calendar days (UTC) of sorted times. A log of working days alone that ends before a weekend has the weekend as well."""
    dates = stamps.astype("datetime64[D]")
    days = int((dates[-1] - dates[0]) / np.timedelta64(1, "D")) + 1
    if days >= _WORKING_DAYS and days % 7 >= _WORKING_DAYS and bool(np.is_busday(np.unique(dates)).all()):
        days += -days % 7
    return float(days)


def _caution(stamps: Times, days: float, *, evaluated: bool) -> str | None:
    """Why a volume from sorted times is not sure; None where nothing speaks against it."""
    reasons = []
    if evaluated:
        reasons.append("every request went to every candidate or was bought, as in an evaluation and not in traffic")
    if days < _FEW_DAYS:
        reasons.append(f"the log is of {days:.0f} days, fewer than {_FEW_DAYS}")
    gaps, span = np.diff(stamps), stamps[-1] - stamps[0]
    if len(stamps) > 2 and (gaps > span / 2).any():
        at = int(gaps.argmax())
        begin, end = (str(one.astype("datetime64[D]")) for one in (stamps[at], stamps[at + 1]))
        reasons.append(f"it has no request between {begin} and {end}, over half of its time")
    if not reasons:
        return None
    return f"Requests a month are not sure: {', and '.join(reasons)}. {_SET}"
