"""`frontier.json`: what a bundle was measured to give, for the report, the page, notebooks and other tools."""

from __future__ import annotations

import math
from typing import Any

from serving.bundle.manifest import Manifest
from training.evaluate.evaluation import Evaluation


def frontier_document(manifest: Manifest, evaluation: Evaluation) -> dict[str, Any]:
    """Everything the notebook and other tools need to redraw the frontier; no figure that could not be measured."""
    return {
        "version": manifest.version,
        "simulated": manifest.simulated,
        "test_requests": evaluation.test_requests,
        "complete_requests": evaluation.complete_requests,
        "why_not": evaluation.why_not,
        "operating_point": manifest.default_point,
        "reference": manifest.reference,
        "curves": {
            name: {"cost_usd": list(cost), "quality": list(quality)}
            for name, (cost, quality) in (evaluation.curves or {}).items()
        },
        "routers": [_clean(vars(line)) for line in evaluation.lines],
        "workflows": [_clean(vars(line)) for line in evaluation.workflows],
        "splits": [_clean(vars(line)) for line in evaluation.splits],
        "calibration": None if evaluation.calibration is None else _clean(vars(evaluation.calibration)),
    }


def _clean(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what does not apply is null."""

    def clean(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return {key: clean(value) for key, value in values.items()}
