"""The plan of what to ask a new candidate: the probes, each with what it is expected to cost. Nothing is sent here."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from training.config import Params
from training.extend.column import prior
from training.extend.extend import Asked
from training.extend.fit import amounts, ground_of
from training.extend.log import LEAST
from training.extend.probes import choose_probes
from training.learn.estimators.base import sigmoid
from training.replay.pairs import Pair, PlanFile, PlanHeader

# Between so many probes there is something to gain from each; more are better bought as an evaluation run, and learned anew.
FEWEST, MOST = 50, 200


def plan_of(asked: Asked, params: Params, *, count: int, budget_usd: float, seed: int = 0) -> PlanFile:
    """About `count` requests of the log, from 50 to 200, or as many as the budget buys; raises ProbeError.

    They are chosen among those that the champion's heads never saw, where there are enough of these, and never from the test
    part.
    The model that says what a request would tell is the one that is fitted on the answers, at what is expected before any.
    """
    log, entry, manifest = asked.log, asked.entry, asked.champion.manifest
    count = int(np.clip(count, FEWEST, MOST))
    ground = ground_of(asked.heads["head.onnx"], manifest, log)
    found = amounts(ground, entry, log, np.zeros(len(log), dtype=np.bool_))
    rows = _pool(asked, count)
    tokens = found.by_name["output_tokens"].predict(ground.known["output_tokens"][rows])
    tokens = np.where(np.isfinite(tokens), tokens, params.costs.assumed_output_tokens)
    counted = log.inputs.counted[rows] * found.usual.input_ratio
    cost = np.array([entry.cost_usd(sent, got) for sent, got in zip(counted, tokens, strict=True)])
    structure = ground.structure("acceptable", float(cost.mean()))
    workflows = log.workflows[rows].astype(np.float64)
    features = np.column_stack([structure.features(ground.known["acceptable"][rows]), workflows])
    mean, variance = prior(structure, workflows.shape[1])
    probes = choose_probes(
        features,
        variance,
        sigmoid(features @ mean),
        log.matrix.workflow[rows],
        cost,
        count=count,
        least=LEAST,
        budget_usd=budget_usd,
        seed=seed,
    )
    header = PlanHeader(
        log=log.fingerprint,
        seed=seed,
        budget_usd=budget_usd,
        reference=manifest.reference,
        notes=(
            f"{len(probes.rows)} of {len(rows)} logged requests, for {entry.name}, which {manifest.version} does not know: "
            "half of each chance is even, half follows what an answer would tell.",
        ),
    )
    return PlanFile(header, tuple(_pairs(asked, rows[probes.rows], probes.chance[probes.rows], cost[probes.rows])))


def _pool(asked: Asked, count: int) -> Columns:
    log = asked.log
    open_ones: Bools = np.asarray(~log.tested & ~log.matrix.attempted[:, -1])
    fresh = open_ones & log.fresh
    return np.flatnonzero(fresh if fresh.sum() >= count else open_ones)


def _pairs(asked: Asked, rows: Columns, chance: Floats, cost: Floats) -> list[Pair]:
    matrix = asked.log.matrix
    found = []
    for row, probability, usd in zip(rows.tolist(), chance.tolist(), cost.tolist(), strict=True):
        request, stamp = matrix.requests[row], matrix.timestamp[row]
        messages: list[dict[str, Any]] | None = None
        if request.messages is not None:
            messages = [dict(message) for message in request.messages]
        found.append(
            Pair(
                request_id=str(matrix.request_id[row]),
                candidate=asked.entry.name,
                purpose="learn",
                propensity=min(probability, 1.0),
                expected_usd=usd,
                prompt=None if messages is not None else request.prompt,
                messages=messages,
                parameters={},
                workflow=matrix.workflow[row],
                session_id=matrix.session_id[row],
                timestamp=None if np.isnat(stamp) else f"{np.datetime_as_string(stamp, unit='ms')}Z",
            )
        )
    return found
