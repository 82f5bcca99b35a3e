"""A log as tables: by workflow and candidate, who was judged and by whom, and who was tried on the same requests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import NO_WORKFLOW
from training.config import JUDGEMENTS
from training.dataset.label import judged_quality
from training.dataset.tries import costed


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each workflow and candidate of an outcome table, with what is known of its calls."""
    table = frame.assign(
        workflow=frame["workflow"].fillna(NO_WORKFLOW).astype(str), judgement=judged_quality(frame).astype(float)
    )
    grouped = table.groupby(["workflow", "candidate"], sort=True)
    found = pd.DataFrame(
        {
            "calls": grouped.size(),
            "judged": grouped["judgement"].count(),
            "quality": grouped["judgement"].mean(),
            "USD per 1,000 calls": 1000 * grouped["cost_usd"].mean(),
            "with a cost": grouped["cost_usd"].count(),
            "tokens in": grouped["input_tokens"].mean(),
            "tokens out": grouped["output_tokens"].mean(),
            "ms": grouped["latency_ms"].median(),
            "errors": grouped["status"].agg(lambda status: float((status == "error").mean())),
        }
    )
    return found.reset_index()


def judges(frame: pd.DataFrame) -> pd.DataFrame:
    """By candidate, how many of its calls have a quality, and from whom."""
    source = frame["quality_source"].astype(object)
    source = source.where(source.notna(), JUDGEMENTS[0]).where(frame["quality"].notna(), "nobody")
    found = pd.crosstab(frame["candidate"], source)
    return found.rename_axis(index="candidate", columns=None).reset_index()


def with_costs(frame: pd.DataFrame, catalogue: Mapping[str, Candidate]) -> pd.DataFrame:
    """The rows with a cost where none was logged: tokens times the catalogue's price, where both are known."""
    prices = {name: (one.input_usd_per_mtok, one.output_usd_per_mtok) for name, one in catalogue.items() if one.priced}
    price_in, price_out = (
        frame["candidate"].map({name: price[end] or 0.0 for name, price in prices.items()}).astype(float)
        for end in (0, 1)
    )
    priced = (frame["input_tokens"].astype(float) * price_in + frame["output_tokens"].astype(float) * price_out) / 1e6
    return frame.assign(cost_usd=frame["cost_usd"].where(costed(frame), priced))


def overlap(frame: pd.DataFrame) -> pd.DataFrame:
    """How many requests two candidates were both judged on; on the diagonal those of one."""
    judged = frame[judged_quality(frame).notna()]
    names = sorted(frame["candidate"].unique())
    tried = pd.crosstab(judged["request_id"], judged["candidate"]).reindex(columns=names, fill_value=0).to_numpy() > 0
    both = tried.astype(np.int64).T @ tried.astype(np.int64)
    return pd.DataFrame(both, columns=names).assign(candidate=names)[["candidate", *names]]
