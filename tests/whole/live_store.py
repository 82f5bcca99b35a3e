"""The store of a service that ran for two weeks: decisions of a bundle on simulated requests, and the feedback on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from serving.decide.router import Router
from serving.store.engine import open_engine
from serving.store.tables import DECISIONS, FEEDBACK
from tests.serving.store.rows import decision, feedback
from training.dataset.matrix import build_matrix
from training.logs.validate import validate
from training.prices.catalogue import known_candidates
from training.simulation.simulate import simulate


def fill(path: Path, folder: Path, requests: int = 400) -> Path:
    """One request in five goes to a candidate at random, every answer but one in ten was judged, and all costs are told."""
    router, prices, rng = Router.load(folder), known_candidates(Path("candidates.toml")), np.random.default_rng(0)
    made = simulate(
        [prices[name] for name in router.candidates],
        requests=requests,
        days=14.0,
        seed=5,
        shadow_share=1.0,
        judged_share=1.0,
    )
    matrix = build_matrix(validate(made.outcomes, source="simulated", format="simulated").frame, router.candidates)
    estimates = router.estimate(list(matrix.requests))
    best, m = router.chosen(list(matrix.requests), estimates), len(router.candidates)
    manifest, reference = router.manifest, router.candidates.index(router.manifest.reference)
    rows, told = [], []
    for row in range(len(matrix)):
        explored = rng.random() < 0.2
        column = int(rng.integers(m)) if explored else int(best[row])
        propensity = 0.2 / m + 0.8 * (column == best[row])
        at = float((matrix.timestamp[row] - np.datetime64(0, "s")) / np.timedelta64(1, "s"))
        cost, request = estimates.cost_usd[row], matrix.requests[row]
        rows.append(
            decision(
                f"d{row}",
                at=at,
                prompt=request.prompt or matrix.texts[row],
                workflow=request.workflow,
                session_id=request.session_id,
                candidate=router.candidates[column],
                reason="explore" if explored and column != best[row] else "best_value",
                propensity=propensity,
                confidence=float(estimates.acceptable[row, column]),
                expected_cost_usd=float(cost[column]),
                novelty=float(estimates.novelty[row, 0]),
                cluster=int(estimates.nearness[row].argmax()),
                bundle=manifest.version,
                operating_point=manifest.default_point,
                reference=manifest.reference,
                reference_expected_cost_usd=float(cost[reference]),
                reference_input_usd=float(cost[reference]) / 10,
                instead_candidate=router.candidates[best[row]] if explored else None,
                instead_expected_cost_usd=float(cost[best[row]]) if explored else None,
                shadow_bundle="another",
                shadow_candidate=router.candidates[reference],
                shadow_confidence=float(estimates.acceptable[row, reference]),
                shadow_expected_cost_usd=float(cost[reference]),
            )
        )
        quality = float(matrix.quality[row, column])
        said = feedback(
            f"d{row}",
            quality=None if rng.random() < 0.1 or np.isnan(quality) else quality,
            cost_usd=float(np.nan_to_num(matrix.cost_usd[row, column], nan=float(cost[column]))),
        )
        told.append(said.row(at + 60.0))
    engine = open_engine(str(path))
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), rows)
        connection.execute(FEEDBACK.insert(), told)
    engine.dispose()
    return path
