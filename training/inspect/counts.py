"""What is counted of the outcomes of each candidate in each workflow: whole numbers, which add up over parts of a log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.arrays import Bools, Columns
from training.dataset.tries import costed
from training.inspect.exact import exact_sums, rounded


@dataclass(frozen=True)
class Counts:
    """Of some outcomes: how many there are, were judged, failed, have a known cost (`costed`) or a logged one, a latency and a
    propensity, and one below 1 (`drawn`); the sums of their tokens; and exact sums of quality, cost and latency."""

    rows: int = 0
    judged: int = 0
    errors: int = 0
    costed: int = 0
    timed: int = 0
    propensities: int = 0
    drawn: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    quality_sum: int = 0
    cost_sum: int = 0
    latency_sum: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def quality(self) -> float | None:
        """The mean of those judged."""
        return rounded(self.quality_sum) / self.judged if self.judged else None

    @property
    def cost_usd(self) -> float:
        return rounded(self.cost_sum)

    @property
    def latency_ms(self) -> float | None:
        return rounded(self.latency_sum) / self.timed if self.timed else None


def added_up(counts: Iterable[Counts]) -> Counts:
    return sum(counts, Counts())


def count(frame: pd.DataFrame, judgement: pd.Series[Any], group: Columns, groups: int) -> list[Counts]:
    """The counts of each group of an outcome table's rows, whose `group` (n,) is 0 to groups - 1."""

    def number(which: Bools) -> list[int]:
        return [int(one) for one in np.bincount(group[which], minlength=groups)]

    def total(column: pd.Series[Any]) -> list[int]:
        sums = np.zeros(groups, dtype=np.int64)
        np.add.at(sums, group, column.fillna(0).to_numpy(dtype=np.int64))
        return [int(one) for one in sums]

    def exact(column: pd.Series[Any]) -> tuple[list[int], list[int]]:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        known = ~np.isnan(values)
        return number(known), exact_sums(values[known], group[known], groups)

    judged, quality = exact(judgement)
    _, cost = exact(frame["cost_usd"])
    timed, latency = exact(frame["latency_ms"])
    propensity = frame["propensity"].to_numpy(dtype=np.float64, na_value=np.nan)
    columns = (
        number(np.ones(len(group), dtype=np.bool_)),
        judged,
        number((frame["status"] == "error").fillna(False).to_numpy(dtype=np.bool_)),
        number(costed(frame)),
        timed,
        number(~np.isnan(propensity)),
        number(propensity < 1),
        total(frame["input_tokens"]),
        total(frame["output_tokens"]),
        quality,
        cost,
        latency,
    )
    return [Counts(*values) for values in zip(*columns, strict=True)]
