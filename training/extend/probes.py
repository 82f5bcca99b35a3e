"""Which logged requests are put to a new candidate: those whose answers tell most of it, each with a known, positive chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats
from training.errors import TrainingError

# The share of the probes that is spread evenly, whatever a request would tell.
EVEN = 0.5
_ROUNDS = 60


class ProbeError(TrainingError):
    """Probes that cannot be chosen: the log or the budget is too small; the message says what would do."""


@dataclass(frozen=True)
class Probes:
    """The chosen requests, `rows` (k,), and `chance` (n,) with which each of n requests was to be chosen."""

    rows: Columns
    chance: Floats


def choose_probes(
    features: Floats,
    variance: Floats,
    acceptable: Floats,
    workflow: NDArray[np.object_],
    cost_usd: Floats,
    *,
    count: int,
    least: int,
    budget_usd: float,
    seed: int,
) -> Probes:
    """Of n requests about `count`, or as many as the budget buys, and no fewer than `least`; raises ProbeError.

    Parameters: `features` (n, f) of the model that is fitted on the answers and the prior `variance` (f,) of its coefficients,
    `acceptable` (n,) the chance that is expected of the new candidate, `workflow` (n,) tags, `cost_usd` (n,) expected.

    Half of each chance is even, half follows the D-optimal design for the model (Chaloner & Verdinelli 1995), by the
    multiplicative algorithm (Silvey, Titterington & Torsney 1978). The requests are drawn by systematic sampling along
    workflows and, within each, difficulty (Madow 1949): the draw is spread over both, and keeps each chance exactly. The
    budget holds for what the draw is expected to cost.
    """
    n = len(features)
    if n < least:
        raise ProbeError(
            f"{n} logged requests can be put to it, and at least {least} are needed: give a longer log with --data"
        )
    design = _design(features, variance, acceptable, min(count, n))
    order, wanted = _along(workflow, acceptable), min(count, n)
    # By what is expected of a draw, before any is made: a draw that were made again for its price would prefer cheap requests.
    while wanted >= least and float(_chances(design, wanted) @ cost_usd) > budget_usd:
        wanted -= 1
    if wanted >= least:
        chance = _chances(design, wanted)
        return Probes(np.sort(_systematic(chance, order, np.random.default_rng(seed))), chance)
    mean = float(_chances(design, least) @ cost_usd) / least
    raise ProbeError(
        f"{budget_usd:g} USD buys about {int(budget_usd / mean):,} answers at {mean:.6f} USD each, and at least {least} are "
        f"needed: give --budget-usd {1.5 * least * mean:.2g}"
    )


def _design(features: Floats, variance: Floats, acceptable: Floats, count: int) -> Floats:
    """(n,) the D-optimal design's weights, which sum to 1."""
    n = len(features)
    told = features * np.sqrt(acceptable * (1.0 - acceptable))[:, None]
    weight = np.full(n, 1.0 / n)
    prior = np.diag(1.0 / variance)
    for _ in range(_ROUNDS):
        inverse = np.linalg.inv(count * (told * weight[:, None]).T @ told + prior)
        weight = weight * np.maximum(np.einsum("ij,jk,ik->i", told, inverse, told), 1e-12)
        weight = weight / weight.sum()
    return np.asarray(weight)


def _chances(design: Floats, count: int) -> Floats:
    """(n,) chances that sum to `count`, none above 1: what a certain one has too much goes to the others."""
    n = len(design)
    share = EVEN / n + (1.0 - EVEN) * design
    sure = np.zeros(n, dtype=np.bool_)
    while True:
        rest = share[~sure].sum()
        chance = np.where(sure, 1.0, share * ((count - sure.sum()) / rest if rest > 0 else 0.0))
        over = ~sure & (chance > 1.0)
        if not over.any():
            return np.asarray(np.minimum(chance, 1.0))
        sure |= over


def _along(workflow: NDArray[np.object_], acceptable: Floats) -> Columns:
    """(n,) the order of the draw: workflow by workflow, from the hardest to the easiest and back in the next one."""
    names, code = np.unique(["" if name is None else str(name) for name in workflow], return_inverse=True)
    turned = np.where(code % 2 == 0, acceptable, -acceptable)
    return np.lexsort((turned, code)) if len(names) else np.arange(len(workflow))


def _systematic(chance: Floats, order: Columns, draw: np.random.Generator) -> Columns:
    """The rows at which the summed chances, in this order, pass u, u + 1, ...; u is uniform in [0, 1)."""
    passed = np.floor(np.cumsum(chance[order]) + 1.0 - draw.random() + 1e-9)
    return np.asarray(order[np.diff(passed, prepend=0.0) > 0])
