"""A log as tables: by workflow and candidate, who was judged and by whom, and which candidates were tried on the same requests."""

from __future__ import annotations

import numpy as np
import pandas as pd

from serving.bundle.manifest import NO_WORKFLOW
from training.config import JUDGEMENTS
from training.dataset.label import judged_quality


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


def overlap(frame: pd.DataFrame) -> pd.DataFrame:
    """How many requests two candidates were both judged on; on the diagonal those of one."""
    judged = frame[judged_quality(frame).notna()]
    names = sorted(frame["candidate"].unique())
    tried = pd.crosstab(judged["request_id"], judged["candidate"]).reindex(columns=names, fill_value=0).to_numpy() > 0
    both = tried.astype(np.int64).T @ tried.astype(np.int64)
    return pd.DataFrame(both, columns=names).assign(candidate=names)[["candidate", *names]]
