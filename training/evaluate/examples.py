"""The test requests as text, with what the router does with each: written into a bundle only where text may be kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from serving.decide.router import Router
from serving.decide.value import Setting
from training.learn.prepare import Prepared

NAME = "test_requests.csv"


def write(folder: Path, router: Router, prepared: Prepared) -> None:
    """Writes request_id, workflow, text, the candidate at the default operating point and its quality, if observed."""
    rows = prepared.split.test
    part = prepared.matrix.take(rows)
    manifest = router.manifest
    point = manifest.default
    estimates = router.estimate(list(part.requests))
    value = estimates.of(manifest.objective).astype(np.float64)
    columns = Setting.of(manifest, point).choose(value, estimates.cost_usd.astype(np.float64))
    place = np.arange(len(part))
    table = {
        "request_id": part.request_id,
        "workflow": part.workflow,
        "text": part.texts,
        "chosen": np.array(part.candidates)[columns],
        "estimate": value[place, columns],
        "observed": prepared.value(manifest.objective)[rows][place, columns],
    }
    pd.DataFrame(table).to_csv(folder / NAME, index=False)
