"""How much traffic a log shows: its dates, how many requests a month that makes, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from training.dataset.matrix import OutcomeMatrix

# The mean length of a month: 365.25 / 12.
DAYS_A_MONTH = 30.4375


@dataclass(frozen=True)
class Volume:
    """The log's `requests`, `dated` many of them with a time, from `first` to `last` (ISO dates), `days` apart, at least 1.

    `requests_a_month` is reckoned from the dates or told by a setting, as `requests_a_month_from` says. `cost_usd` is the sum
    of all costs that are known, of a share `cost_known_share` of the calls. `cost_usd_per_request` is of the requests that the
    log's own choice was made for, whose every call has a cost: not of those that were put to every candidate, nor of answers
    that were bought. So is `candidates_logged`, each candidate's share of the calls. None where there is nothing to tell.
    """

    requests: int
    dated: int = 0
    first: str | None = None
    last: str | None = None
    days: float | None = None
    requests_a_month: float | None = None
    requests_a_month_from: Literal["dates", "setting"] | None = None
    cost_usd: float | None = None
    cost_known_share: float = 0.0
    cost_usd_per_request: float | None = None
    judged_share: float = 0.0
    candidates_logged: dict[str, float] = field(default_factory=dict)


def volume(matrix: OutcomeMatrix, requests_a_month: float = 0.0) -> Volume:
    """The volume of a log; a month has `requests_a_month` where that is above 0, and else as many as the dates say:
    dated requests / days between the first and the last of them * 30.4375."""
    stamps = matrix.timestamp[~np.isnat(matrix.timestamp)]
    first = last = None
    days: float | None = None
    if len(stamps):
        first, last = (str(one.astype("datetime64[s]")) + "Z" for one in (stamps.min(), stamps.max()))
        days = max(float((stamps.max() - stamps.min()) / np.timedelta64(1, "s")) / 86_400.0, 1.0)
    a_month: float | None = None
    source: Literal["dates", "setting"] | None = None
    if requests_a_month > 0:
        a_month, source = requests_a_month, "setting"
    elif days is not None:
        a_month, source = len(stamps) / days * DAYS_A_MONTH, "dates"
    called = matrix.attempted | matrix.chained
    costed = called & np.isfinite(matrix.cost_usd)
    everywhere = np.asarray(matrix.attempted.all(axis=1))
    own = called & ~matrix.certifying & ~matrix.learning & ~everywhere[:, None]
    known = own.any(axis=1) & ~(own & ~costed).any(axis=1)
    spent = np.where(own & costed, matrix.cost_usd, 0.0).sum(axis=1)
    shown = own if own.any() else called
    judged = np.isfinite(matrix.quality)
    return Volume(
        requests=len(matrix),
        dated=len(stamps),
        first=first,
        last=last,
        days=days,
        requests_a_month=a_month,
        requests_a_month_from=source,
        cost_usd=float(matrix.cost_usd[costed].sum()) if costed.any() else None,
        cost_known_share=float(costed.sum() / called.sum()) if called.any() else 0.0,
        cost_usd_per_request=float(spent[known].mean()) if known.any() else None,
        judged_share=float(judged.any(axis=1).mean()) if len(matrix) else 0.0,
        candidates_logged={
            name: float(shown[:, column].sum() / shown.sum()) if shown.any() else 0.0
            for column, name in enumerate(matrix.candidates)
        },
    )
