"""The one next step for a log on which nothing can be certified yet: the least money that is likely to change that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.bundle.catalogue import Candidate
from training.config import Params
from training.evidence.plan import Offer, offers
from training.logs.outcomes import Outcomes

# The budgets that are looked at, in USD, and the chance of success at which one is enough.
_LADDER = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
LIKELY = 0.8
# Of a longer log so many requests, drawn at random, say as much.
_REQUESTS = 5_000


def advise(
    table: Outcomes, params: Params, catalogue: Mapping[str, Candidate], cache: Path, target: float
) -> Offer | None:
    """The least budget that is likely to certify the target; None where none up to 500 USD is. Raises EvidenceError."""
    frame = table.frame
    ids = frame["request_id"].unique()
    if len(ids) > _REQUESTS:
        drawn = np.random.default_rng(params.fit.seed).permutation(len(ids))[:_REQUESTS]
        kept = frame["request_id"].isin(ids[drawn])
        beside = table.beside[kept.to_numpy()].reset_index(drop=True) if len(table.beside) else table.beside
        table = replace(table, frame=frame[kept].reset_index(drop=True), beside=beside)
    found = offers(table, params, catalogue, cache, budgets=_LADDER, target=target, seed=params.fit.seed, likely=LIKELY)
    return next((offer for offer in found if offer.foreseen.chance >= LIKELY), None)
