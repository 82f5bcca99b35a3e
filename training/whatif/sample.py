"""Which requests of a log say something of a bundle: those that it was not made from."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from serving.bundle.arrays import Bools, Columns
from serving.decide.router import Router
from training.certify.tested import TESTED_HEAD, as_tested
from training.config import Params
from training.dataset.fingerprints import seen_by
from training.dataset.matrix import OutcomeMatrix
from training.dataset.split import SplitError, split_requests
from training.learn.prepare import fingerprint
from training.logs.outcomes import Outcomes

# With fewer requests that the bundle has not seen, nothing is measured on them alone.
ENOUGH_UNSEEN = 30


def unseen(
    router: Router, table: Outcomes, matrix: OutcomeMatrix, groups: Columns, params: Params
) -> tuple[Bools, str, bool, Router]:
    """The requests that say something of the router, which they are, whether it has seen them, and the router that has not."""
    seen = seen_by(router.bundle, matrix.texts)
    fresh, n = np.asarray(~seen), len(matrix)
    if not seen.any():
        return fresh, f"all {n:,} requests of the log, none of which the bundle was made from", False, router
    own = router.manifest.data_fingerprint == fingerprint(table.frame)
    if own and TESTED_HEAD in router.manifest.files:
        with suppress(SplitError):
            parts = (params.split.train, params.split.calibration, 1 - params.split.train - params.split.calibration)
            split = split_requests(
                groups,
                matrix.timestamp,
                matrix.given_split,
                fractions=parts,
                method=params.split.method,
                seed=params.split.seed,
            )
            if int(split.test.sum()) == router.manifest.metrics.get("test_requests"):
                count = int(split.test.sum())
                said = f"the {count:,} requests of the bundle's own test part, by heads that did not learn from it "
                said += "and at the knobs that are served (the report's are at those that were tested)"
                return split.test, said, False, as_tested(router)
    if fresh.sum() >= ENOUGH_UNSEEN:
        said = f"{int(fresh.sum()):,} of {n:,} requests; from the others the bundle was made"
        return fresh, said, False, router
    said = f"all {n:,} requests of the log, from which the bundle was made: its figures on them are better than on new ones"
    return np.ones(n, dtype=np.bool_), said, True, router
