"""How often a bundle abstains from its choice on simulated traffic, and what that changes, by the simulator's truth."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from benchmarks.simulated.pacing import traffic_of
from serving.bundle.manifest import Bundle
from serving.decide.decision import Reason, Situation
from serving.decide.policy import Policy
from serving.decide.router import Router
from training.simulation.simulate import SimulatedLog

_NEVER = inf


def abstention_figures(router: Router, log: SimulatedLog, policy: Policy = Policy()) -> dict[str, float]:  # noqa: B008
    """Shares of the log's requests, and the change of quality and cost per request that abstaining for novelty makes.

    `novel_share` counts the requests that go to the reference for novelty alone, `above_share` all that are above the
    threshold, `low_confidence_share` those that `policy.abstain_below` sends there.
    """
    traffic = traffic_of(log, router)
    manifest = router.manifest
    without = Router(
        Bundle(
            router.bundle.folder,
            manifest.model_copy(update={"novelty": manifest.novelty.model_copy(update={"threshold": _NEVER})}),
        )
    )
    asked = [(request, policy, Situation()) for request in traffic.requests]
    trusting = [(request, replace(policy, abstain_below=0.0), Situation()) for request in traffic.requests]
    careful = [one for one in router.route_each(asked, traffic.embeddings) if not isinstance(one, Exception)]
    bold = [one for one in without.route_each(trusting, traffic.embeddings) if not isinstance(one, Exception)]
    names, rows = router.candidates, np.arange(len(asked))
    here, there = (np.array([names.index(one.candidate) for one in decisions]) for decisions in (careful, bold))
    reasons = np.array([one.reason for one in careful])
    return {
        "requests": float(len(rows)),
        "novel_share": float((reasons == Reason.NOVEL).mean()),
        "above_share": float(np.mean([(one.novelty or 0.0) > manifest.novelty.threshold for one in careful])),
        "low_confidence_share": float((reasons == Reason.LOW_CONFIDENCE).mean()),
        "quality_change": float((traffic.acceptable[rows, here] - traffic.acceptable[rows, there]).mean()),
        "cost_change_usd": float((traffic.cost_usd[rows, here] - traffic.cost_usd[rows, there]).mean()),
    }
