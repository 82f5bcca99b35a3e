"""Where stated chances are wrong: workflows that do worst, and prompts that were misjudged most."""

from __future__ import annotations

import numpy as np
import pandas as pd

from serving.bundle.arrays import Floats
from serving.bundle.manifest import NO_WORKFLOW
from training.evaluate.reliability import wilson
from training.whatif.case import Case, WhatIfError

# Judged outcomes, below which nothing is said of a workflow.
LEAST = 10
_SHOWN = 120


def worst_workflows(case: Case) -> pd.DataFrame:
    """By workflow, how often the stated chance came true over its judged outcomes, the largest gap first."""
    labels, chance = _judged(case)
    names = np.array([NO_WORKFLOW if name is None else str(name) for name in case.known.workflow], dtype=object)
    rows = []
    for name in sorted(set(names.tolist())):
        inside = (names == name)[:, None] & np.isfinite(labels)
        n = int(inside.sum())
        if n < LEAST:
            continue
        good = int(labels[inside].sum())
        low, high = wilson(good, n)
        stated = float(chance[inside].mean())
        rows.append(
            {
                "workflow": name,
                "judged outcomes": n,
                "stated": stated,
                "came true": good / n,
                "95% from": low,
                "to": high,
                "gap": stated - good / n,
                "Brier score": float(((chance[inside] - labels[inside]) ** 2).mean()),
            }
        )
    found = pd.DataFrame(rows)
    return found if found.empty else found.reindex(found["gap"].abs().sort_values(ascending=False).index)


def worst_prompts(case: Case, most: int = 15) -> pd.DataFrame:
    """The prompts whose judged outcomes were furthest from their stated chances, by the mean squared error over candidates.

    It shows the beginning of their text.
    """
    labels, chance = _judged(case)
    seen = np.isfinite(labels)
    rows = np.flatnonzero(seen.any(axis=1))
    wrong = np.where(seen, (chance - np.where(seen, labels, 0.0)) ** 2, 0.0).sum(axis=1)
    error = wrong[rows] / seen[rows].sum(axis=1)
    # Of equal errors the one that rests on more outcomes.
    order = rows[np.lexsort((-seen[rows].sum(axis=1), -error))][:most]
    found = []
    for row in order.tolist():
        own = np.where(seen[row], np.abs(chance[row] - np.where(seen[row], labels[row], 0.0)), -1.0)
        column = int(own.argmax())
        text = " ".join(case.requests[row].text.split())
        found.append(
            {
                "prompt": text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""),
                "workflow": NO_WORKFLOW if case.known.workflow[row] is None else str(case.known.workflow[row]),
                "mean squared error": float(wrong[row] / seen[row].sum()),
                "judged": int(seen[row].sum()),
                "worst at": case.candidates[column],
                "stated": float(chance[row, column]),
                "came": "acceptable" if labels[row, column] == 1 else "not acceptable",
            }
        )
    return pd.DataFrame(found)


def kinds_of_prompts(case: Case) -> pd.DataFrame:
    """Clusters of prompts by how often a stated chance above one half failed there, with how many outcomes say so."""
    labels, chance = _judged(case)
    cluster = case.estimates.nearness.argmax(axis=1)
    sure = np.isfinite(labels) & (chance > 0.5)
    rows = []
    for one in np.unique(cluster).tolist():
        inside = sure & (cluster == one)[:, None]
        n = int(inside.sum())
        if n < LEAST:
            continue
        failed = int((labels[inside] == 0).sum())
        low, high = wilson(failed, n)
        example = int(np.flatnonzero(cluster == one)[0])
        text = " ".join(case.requests[example].text.split())[:_SHOWN]
        expected = float(1.0 - chance[inside].mean())
        rows.append(
            {
                "such as": text,
                "outcomes": n,
                "failed": failed / n,
                "95% from": low,
                "to": high,
                "expected": expected,
            }
        )
    found = pd.DataFrame(rows)
    if found.empty:
        return found
    return found.reindex((found["failed"] - found["expected"]).sort_values(ascending=False).index)


def _judged(case: Case) -> tuple[Floats, Floats]:
    """(n, m) labels and stated chances; raises WhatIfError where nothing was judged."""
    if not np.isfinite(case.known.labels).any():
        raise WhatIfError("no answer to these requests was judged, so that no stated chance can be held against one")
    return case.known.labels, case.estimates.acceptable.astype(np.float64)
