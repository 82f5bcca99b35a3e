"""What single outcomes say of a router where a tenth of the answers is judged: right, and not refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.bundle.manifest import Objective
from training.dataset.matrix import build_matrix
from training.evaluate.served import _Log, _off_policy
from training.logs.validate import validate
from training.measure.propensity import judged_share

CHEAP, DEAR = 0, 1


def test_a_share_judged_is_no_hole_in_the_log() -> None:
    """A twentieth went to the cheap one, which is good for every second request, and every tenth answer is judged."""
    n = 20_000
    places = np.arange(n)
    frame = pd.DataFrame(
        {
            "request_id": [f"r{place:05}" for place in places],
            "prompt": [f"prompt {place}" for place in places],
            "candidate": np.where(places % 20 == 0, "cheap", "dear"),
            "quality": np.where(places % 200 < 20, np.where(places % 20 == 0, places % 400 == 0, True), np.nan),
            "cost_usd": np.where(places % 20 == 0, 0.1, 0.5),
        }
    )
    matrix = build_matrix(validate(frame, source="test", format="test").frame, ["cheap", "dear"])
    labels = matrix.quality
    judged = judged_share(matrix.attempted, matrix.error, labels)
    propensity = np.where(matrix.attempted, [0.05, 0.95], np.nan) * judged
    manifest: Any = SimpleNamespace(objective=Objective.ACCEPTABLE, reference="dear")
    served: Any = SimpleNamespace(of=lambda objective: np.full((n, 2), 0.9), cost_usd=np.full((n, 2), 0.3))
    log = _Log(matrix, labels, places)
    router, reference = _off_policy(manifest, log, (propensity, judged), served, np.full(n, CHEAP))
    for line, quality, cost in ((router, 0.5, 0.1), (reference, 1.0, 0.5)):
        for found in (line.quality, line.quality_ips, line.quality_snips):
            assert found.value == pytest.approx(quality, abs=1e-9)
        assert line.cost_usd.value == pytest.approx(cost, abs=1e-9)
