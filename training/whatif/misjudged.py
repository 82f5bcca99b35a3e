"""Where stated chances are wrong: workflows that do worst, and prompts that were misjudged most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.arrays import Floats
from serving.bundle.manifest import NO_WORKFLOW
from training.evaluate.reliability import beyond_chance, chance_of, interval
from training.whatif.case import Case, WhatIfError

# Judged outcomes, below which nothing is said of a workflow.
LEAST = 10
_SHOWN = 120


def worst_workflows(case: Case) -> pd.DataFrame:
    """By workflow, how often the stated chance came true over its judged outcomes, the largest gap first.

    Before them those whose gap is `beyond chance`, of all lines (Holm 1979). Outcomes of one conversation, and of one request,
    are not taken for independent.
    """
    labels, chance = _judged(case)
    of = np.broadcast_to(case.known.groups[:, None], labels.shape)
    names = np.array([NO_WORKFLOW if name is None else str(name) for name in case.known.workflow], dtype=object)
    rows: list[dict[str, Any]] = []
    chances = []
    for name in sorted(set(names.tolist())):
        inside = (names == name)[:, None] & np.isfinite(labels)
        n = int(inside.sum())
        if n < LEAST:
            continue
        came = labels[inside]
        low, high = interval(came, of[inside])
        stated = float(chance[inside].mean())
        rows.append(
            {
                "workflow": name,
                "judged outcomes": n,
                "stated": stated,
                "came true": float(came.mean()),
                "95% from": low,
                "to": high,
                "gap": stated - float(came.mean()),
                "Brier score": float(((chance[inside] - came) ** 2).mean()),
            }
        )
        chances.append(chance_of(came, of[inside], stated))
    return _worst_first(rows, chances, [abs(row["gap"]) for row in rows])


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
    """Clusters of prompts by how often a stated chance above one half failed there, with how many outcomes say so.

    Before all others those where that is `beyond chance`, as of `worst_workflows`.
    """
    labels, chance = _judged(case)
    of = np.broadcast_to(case.known.groups[:, None], labels.shape)
    cluster = case.estimates.nearness.argmax(axis=1)
    sure = np.isfinite(labels) & (chance > 0.5)
    rows: list[dict[str, Any]] = []
    chances = []
    for one in np.unique(cluster).tolist():
        inside = sure & (cluster == one)[:, None]
        n = int(inside.sum())
        if n < LEAST:
            continue
        failed = (labels[inside] == 0).astype(np.float64)
        low, high = interval(failed, of[inside])
        example = int(np.flatnonzero(cluster == one)[0])
        text = " ".join(case.requests[example].text.split())[:_SHOWN]
        expected = float(1.0 - chance[inside].mean())
        rows.append(
            {
                "such as": text,
                "outcomes": n,
                "failed": float(failed.mean()),
                "95% from": low,
                "to": high,
                "expected": expected,
            }
        )
        chances.append(chance_of(failed, of[inside], expected))
    return _worst_first(rows, chances, [row["failed"] - row["expected"] for row in rows])


def _worst_first(rows: Sequence[dict[str, Any]], chances: Sequence[float], gaps: Sequence[float]) -> pd.DataFrame:
    """The lines, marked and led by those of which `chances`, that there is no gap, are too small; by falling `gaps`."""
    known = beyond_chance(chances)
    lines = [row | {"beyond chance": "yes" if sure else ""} for row, sure in zip(rows, known, strict=True)]
    return pd.DataFrame([lines[place] for place in sorted(range(len(rows)), key=lambda at: (not known[at], -gaps[at]))])


def _judged(case: Case) -> tuple[Floats, Floats]:
    """(n, m) labels and stated chances; raises WhatIfError where nothing was judged."""
    if not np.isfinite(case.known.labels).any():
        raise WhatIfError("no answer to these requests was judged, so that no stated chance can be held against one")
    return case.known.labels, case.estimates.acceptable.astype(np.float64)
