"""What the new candidate's answers cost and how long they take: as much as the known candidates', times a factor of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import AnyFloats, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Manifest, Usual
from serving.decide.pricing import Pricing
from training.learn.costs import CostFrom

# What the head gives beside chances, of each candidate.
AMOUNTS = ("output_tokens", "logged_cost_usd", "latency_ms", "latency_p95_ms")
# Variance of a probe's log ratio where one probe alone says nothing of it.
_WITHIN = 1.0


@dataclass(frozen=True)
class Amount:
    """The geometric mean of the known candidates' `columns`, times `factor`; the factor alone where there is no column."""

    columns: tuple[int, ...]
    factor: float

    def predict(self, known: AnyFloats) -> Floats:
        """(n,) of the known candidates' (n, m)."""
        if not self.columns:
            return np.full(len(known), self.factor)
        return np.asarray(np.exp(np.log(known[:, self.columns].astype(np.float64)).mean(axis=1)) * self.factor)


@dataclass(frozen=True)
class Seen:
    """What the judged and unjudged answers of the new candidate took, each (n,), NaN where that is not known.

    `counted` (n,) are the prompts' counted tokens.
    """

    counted: Floats
    input_tokens: Floats
    output_tokens: Floats
    cost_usd: Floats
    latency_ms: Floats


@dataclass(frozen=True)
class Amounts:
    """An `Amount` for each of `AMOUNTS`, by name, and what the manifest says of the candidate."""

    by_name: dict[str, Amount]
    cost_from: CostFrom
    usual: Usual


def amounts_of(
    entry: Candidate, manifest: Manifest, known: dict[str, Floats], rows: Columns, seen: Seen, counted: Floats
) -> Amounts:
    """The amounts of the candidate `entry`, from what the champion expects of its own.

    Parameters: `known` the champion's `AMOUNTS` (n, m) on n requests, of which `counted` (n,) are the counted tokens, and
    `rows` those that the new candidate answered, which `seen` is of. Each factor is that of the answers' sums, shrunk
    towards 1 as far as the known candidates differ little and the answers are few and unlike each other. Of a latency that was
    never seen nothing is said.
    """
    tokens = _amount(known["output_tokens"], rows, seen.output_tokens)
    latency = _amount(known["latency_ms"], rows, seen.latency_ms)
    if not np.isfinite(seen.latency_ms).any():
        latency = Amount((), np.nan)
    slow = Amount(_positive(known["latency_p95_ms"]), latency.factor)
    by_name = {
        "output_tokens": tokens,
        "logged_cost_usd": _amount(known["logged_cost_usd"], rows, seen.cost_usd),
        "latency_ms": latency,
        "latency_p95_ms": slow if latency.columns and slow.columns else Amount((), np.nan),
    }
    others = [manifest.usual[candidate.name] for candidate in manifest.candidates]
    ratios = np.array([one.input_ratio for one in others])
    ratio = float(np.exp(np.log(ratios).mean()))
    ratio *= shrunk_factor(seen.input_tokens, ratio * seen.counted, float(np.log(ratios).var()))
    cost_from: CostFrom = "tokens" if np.isfinite(tokens.factor) else "logged"
    output = tokens.predict(known["output_tokens"])
    logged = by_name["logged_cost_usd"].predict(known["logged_cost_usd"])
    late = seen.latency_ms[np.isfinite(seen.latency_ms)]
    usual = Usual(
        output_tokens=float(output.mean()) if cost_from == "tokens" else others[0].output_tokens,
        cost_usd=0.0,
        latency_p95_ms=float(np.quantile(late, 0.95)) if len(late) else None,
        input_ratio=ratio,
        counted_tokens=float(counted.mean()),
        longest=max(one.longest for one in others),
    )
    cost = Pricing([entry], {entry.name: cost_from}, {entry.name: usual}).expected(
        counted, output[:, None], logged[:, None]
    )
    return Amounts(by_name, cost_from, usual.model_copy(update={"cost_usd": float(cost.mean())}))


def shrunk_factor(seen: Floats, expected: Floats, between: float) -> float:
    """sum(seen) / sum(expected) over what is known, both (n,), shrunk towards 1 in the logarithm.

    `between` is the variance of the logarithm of this factor from candidate to candidate.
    """
    rows = np.isfinite(seen) & np.isfinite(expected) & (seen > 0) & (expected > 0)
    n = int(rows.sum())
    if n == 0:
        return 1.0
    ratios = np.log(seen[rows] / expected[rows])
    within = float(ratios.var(ddof=1)) if n > 1 else _WITHIN
    # Two candidates may be alike by chance: a new one may still be another.
    share = n / (n + within / max(between, 0.05))
    return float(np.exp(share * np.log(seen[rows].sum() / expected[rows].sum())))


def _amount(known: Floats, rows: Columns, seen: Floats) -> Amount:
    columns = _positive(known)
    if not columns:
        found = seen[np.isfinite(seen)]
        return Amount((), float(found.mean()) if len(found) else np.nan)
    plain = Amount(columns, 1.0)
    between = float(np.log(known[:, columns]).mean(axis=0).var())
    return Amount(columns, shrunk_factor(seen, plain.predict(known[rows]), between))


def _positive(known: Floats) -> tuple[int, ...]:
    """The columns that have a logarithm everywhere."""
    return tuple(np.flatnonzero((np.isfinite(known) & (known > 0)).all(axis=0)).tolist())
