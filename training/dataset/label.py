"""Labels: which answers were acceptable, which acceptable one was cheapest, and where labels are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.arrays import Columns, Floats
from training.config import JUDGEMENTS, WEAK, Signals


def acceptable(quality: Floats, threshold: float) -> Floats:
    """(n, m) 1.0 where quality >= threshold, 0.0 where it is below, NaN where nobody judged."""
    labels: Floats = np.where(np.isnan(quality), np.nan, (quality >= threshold).astype(np.float64))
    return labels


def cheapest_acceptable(labels: Floats, cost_usd: Floats) -> Columns:
    """(n,) the column of the cheapest acceptable candidate, -1 where none was acceptable or it cannot be known.

    It is known where every cheaper candidate was judged too: `cost_usd` (m,) or (n, m) gives the order, ties going to
    the first column.
    """
    n, m = labels.shape
    cost = np.broadcast_to(cost_usd, (n, m))
    order = np.argsort(np.where(np.isnan(cost), np.inf, cost), axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, axis=1)
    first = (ordered != 0.0).argmax(axis=1)  # the first that is acceptable or unjudged
    stops = np.take_along_axis(ordered, first[:, None], axis=1)[:, 0]
    column = np.take_along_axis(order, first[:, None], axis=1)[:, 0]
    known = (stops == 1.0) & (ordered != 0.0).any(axis=1)
    result: Columns = np.where(known, column, -1)
    return result


def judged_quality(frame: pd.DataFrame) -> pd.Series[Any]:
    """The quality of an outcome table's rows where somebody judged the answer, NaN where nothing or a weak source says it."""
    quality: pd.Series[Any] = frame["quality"]
    return quality.mask(frame["quality_source"].isin(WEAK)) if "quality_source" in frame else quality


def with_judgements(frame: pd.DataFrame, quality: np.ndarray[Any, Any]) -> pd.DataFrame:
    """The rows with these judgements (n,): where one is NaN, or what the row has, the row stays as it is."""
    new = np.isfinite(quality) & (quality != judged_quality(frame).to_numpy(dtype=np.float64, na_value=np.nan))
    return frame.assign(
        quality=np.where(new, quality, frame["quality"].to_numpy(dtype=np.float64, na_value=np.nan)),
        quality_source=frame["quality_source"].mask(new),
    )


def label_kinds(frame: pd.DataFrame) -> dict[str, int]:
    """How many rows of an outcome table have a quality, by where that is from: a source, or `failed` for failed calls."""
    said = frame[frame["quality"].notna()]
    kinds = said["quality_source"].astype(object).where(said["quality_source"].notna(), JUDGEMENTS[0])
    counts = kinds.mask(said["status"] == "error", "failed").value_counts()
    return {name: int(counts[name]) for name in (*JUDGEMENTS, "failed", *WEAK) if name in counts}


def labels_said(kinds: Mapping[str, int], signals: Signals) -> str | None:
    """One line on `label_kinds`: what is judged, what is fitted on alone, and what is not used; None if all was judged."""
    if not kinds.keys() - {JUDGEMENTS[0], "failed"}:
        return None
    weights: dict[str, float] = asdict(signals)
    names = {"thumb": "thumbs", "failed": "failed calls"}
    weak = [name for name in WEAK if name in kinds]
    used = [f"{kinds[name]:,} {name} at {weights[name]:g}" for name in weak if weights[name] > 0]
    unused = [name for name in weak if not weights[name] > 0]
    parts = [
        ", ".join(f"{count:,} {names.get(name, name)}" for name, count in kinds.items() if name not in weak) or "none"
    ]
    if used:
        parts.append(f"fitted on, never measured on: {', '.join(used)}")
    if unused:
        listed = ", ".join(f"{kinds[name]:,} {name}" for name in unused)
        parts.append(f"not used: {listed} (--set signals.{unused[0]}=WEIGHT fits on them too)")
    return f"labels: {'; '.join(parts)}"
