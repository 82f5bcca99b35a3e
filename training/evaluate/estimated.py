"""Workflows before and after, of a log with one answer a request: estimated, where the log can bear it."""

from __future__ import annotations

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.manifest import Manifest
from serving.decide.decision import Estimates
from training.dataset.matrix import workflow_names
from training.evaluate.bands import Outcomes
from training.evaluate.evaluation import WorkflowLine
from training.measure.metrics import mean_of
from training.measure.offpolicy import MINIMUM_EFFECTIVE, doubly_robust

_NO_COMPLETE = "no test request has a judged, costed outcome of every candidate"
_SEND_SOME = (
    ", so no routing can be compared exactly. Send a share of the traffic to all candidates (shadow requests), or give an "
    "evaluation run (`router-train run --test`)."
)


def estimated_workflows(
    manifest: Manifest, expected: Estimates, columns: Columns, known: Outcomes
) -> tuple[WorkflowLine, ...]:
    """As `sweep.by_workflow`, doubly robust; a workflow is left out of which the log cannot bear either side.

    `columns` (n,) is where the router sends the requests.
    """
    if known.propensity is None:
        return ()
    names = workflow_names(known.workflow)
    candidates = [candidate.name for candidate in manifest.candidates]
    reference = np.full(len(columns), candidates.index(manifest.reference), dtype=np.intp)
    model = expected.of(manifest.objective).astype(np.float64), expected.cost_usd.astype(np.float64)
    judged_cost = np.where(np.isfinite(known.value), known.cost_usd, np.nan)
    lines = []
    for name in sorted(set(names.tolist())):
        inside = np.asarray(names == name)
        found = [
            _mean(outcome, known, model[kind], chosen, inside)
            for chosen in (columns, reference)
            for kind, outcome in enumerate((known.value, judged_cost))
        ]
        if any(one is None for one in found):
            continue
        standing = None if known.standing is None else known.standing[inside]
        quality, cost, reference_quality, reference_cost = (float(one) for one in found if one is not None)
        lines.append(
            WorkflowLine(
                workflow=name,
                requests=int(inside.sum()),
                quality=quality,
                reference_quality=reference_quality,
                cost_usd=cost,
                reference_cost_usd=reference_cost,
                share={c: float(mean_of(columns[inside] == k, standing)) for k, c in enumerate(candidates)},
            )
        )
    return tuple(sorted(lines, key=lambda line: -line.requests))


def _mean(outcome: Floats, known: Outcomes, model: Floats, columns: Columns, inside: Bools) -> float | None:
    assert known.propensity is not None
    found = doubly_robust(
        outcome[inside],
        known.propensity[inside],
        columns[inside],
        model[inside],
        judged=None if known.judged is None else known.judged[inside],
        groups=known.groups[inside],
        standing=None if known.standing is None else known.standing[inside],
    )
    return None if found.refused is not None else found.value


def too_few_complete(complete: Bools, groups: Columns) -> str:
    """Why no routing is compared exactly on the `complete` ones (n,) of the test requests."""
    if not complete.any():
        return _NO_COMPLETE + _SEND_SOME
    return (
        f"only {int(complete.sum()):,} test requests, of {len(np.unique(groups[complete])):,} conversations, have a judged, "
        f"costed outcome of every candidate, and a comparison takes {MINIMUM_EFFECTIVE:g} conversations{_SEND_SOME}"
    )
